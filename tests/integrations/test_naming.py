"""Names of Azure resources: the seed's examples to the letter, Azure's limits, and every fault with its fix."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.stack.layout import ROOT
from integrations.azure_names import RULES, NameProblem, ResourceType, problems_of
from integrations.naming import Values, check_name, collisions, name_for, parse_name, preview
from integrations.naming_patterns import (
    DEFAULT_PATTERNS,
    NON_PRODUCTION,
    PRODUCTION,
    Code,
    Part,
    Template,
    TemplateInvalid,
    parse_template,
)

SEED = Values("crd", "pro", "int", "mzv", "gwc")
DEV = replace(SEED, environment="dev")
DEFAULT = Template.default()
PAGE = ROOT / "docs" / "operations" / "naming.md"
PLACES = {Part.ZONE: ("int", "dmz"), Part.REGION: ("gwc", "we")}


def codes(problems):
    return {problem.code for problem in problems}


@pytest.mark.parametrize(
    ("resource", "pattern", "name"),
    [
        (ResourceType.KEY_VAULT, "{co}{env}{zone}{proj}{region}kv{nn}", "crdprointmzvgwckv01"),
        (ResourceType.POSTGRESQL, "{co}-{env}-{zone}-{proj}-{region}-psql{nn}", "crd-pro-int-mzv-gwc-psql01"),
        (ResourceType.REDIS, "{co}-{env}-{zone}-{proj}-{region}-redis{nn}", "crd-pro-int-mzv-gwc-redis01"),
        (ResourceType.AKS, "{co}-{env}-{zone}-{proj}-{region}-aks{nn}", "crd-pro-int-mzv-gwc-aks01"),
        (ResourceType.ENTERPRISE_APP, "APP_{PROJ}_{ZONE}_{ENV}_{nn}", "APP_MZV_INT_PRO_01"),
        (ResourceType.RESOURCE_GROUP, "rg-{co}-{env}-{zone}-{proj}-{region}", "rg-crd-pro-int-mzv-gwc"),
    ],
)
def test_the_examples_of_the_convention_come_out_to_the_letter(resource, pattern, name):
    assert DEFAULT_PATTERNS[resource] == pattern
    assert name_for(DEFAULT, resource, SEED).name == name
    assert name_for(DEFAULT, resource, SEED).usable


@pytest.mark.parametrize(
    ("resource", "name"),
    [
        (ResourceType.KEY_VAULT, "crdnprdevintmzvgwckv01"),
        (ResourceType.POSTGRESQL, "crd-npr-dev-int-mzv-gwc-psql01"),
        (ResourceType.REDIS, "crd-npr-dev-int-mzv-gwc-redis01"),
        (ResourceType.AKS, "crd-npr-dev-int-mzv-gwc-aks01"),
        (ResourceType.ENTERPRISE_APP, "APP_MZV_INT_NPR_DEV_01"),
        (ResourceType.RESOURCE_GROUP, "rg-crd-npr-dev-int-mzv-gwc"),
        (ResourceType.CONTAINER_REGISTRY, "crdnprdevintmzvgwcacr01"),
        (ResourceType.STORAGE_ACCOUNT, "crdnprdevintmzvgwcst01"),
    ],
)
def test_a_non_production_name_has_npr_before_its_environment(resource, name):
    assert name_for(DEFAULT, resource, DEV).name == name


def test_the_page_for_operators_shows_what_the_code_makes():
    shown = re.findall(r"^\| `(\w+)` \| `(\S+)` \| `(\S+)` \| `(\S+)` \|$", PAGE.read_text(), re.MULTILINE)
    made = [
        (kind.value, DEFAULT_PATTERNS[kind], name_for(DEFAULT, kind, SEED).name, name_for(DEFAULT, kind, DEV).name)
        for kind in ResourceType
    ]
    assert shown == made


@pytest.mark.parametrize("environment", PRODUCTION)
def test_the_production_family_has_no_mark(environment):
    assert "npr" not in name_for(DEFAULT, ResourceType.KEY_VAULT, replace(SEED, environment=environment.upper())).name


@pytest.mark.parametrize("environment", NON_PRODUCTION)
def test_the_non_production_family_has_the_mark(environment):
    name = name_for(DEFAULT, ResourceType.KEY_VAULT, replace(SEED, environment=environment.upper())).name
    assert name == f"crdnpr{environment}intmzvgwckv01"


def test_every_resource_of_every_environment_and_region_has_a_usable_name_of_its_own():
    names = [
        named
        for environment in (*PRODUCTION, *NON_PRODUCTION)
        for zone in ("int", "dmz")
        for region in ("gwc", "we")
        for named in preview(DEFAULT, replace(SEED, environment=environment, zone=zone, region=region))
    ]
    assert len(names) == 9 * 4 * len(ResourceType)
    assert [named for named in names if not named.usable] == []
    assert collisions(names) == ()


def test_an_environment_outside_both_families_must_say_which_it_is():
    new = replace(SEED, environment="uat")
    assert codes(name_for(DEFAULT, ResourceType.AKS, new).problems) == {Code.UNKNOWN_ENVIRONMENT}
    assert name_for(DEFAULT, ResourceType.AKS, replace(new, non_production=True)).name == "crd-npr-uat-int-mzv-gwc-aks01"
    assert name_for(DEFAULT, ResourceType.AKS, replace(new, non_production=False)).name == "crd-uat-int-mzv-gwc-aks01"


def test_a_flag_that_contradicts_the_environment_is_refused():
    assert codes(name_for(DEFAULT, ResourceType.AKS, replace(SEED, non_production=True)).problems) == {Code.WRONG_FAMILY}
    assert name_for(DEFAULT, ResourceType.AKS, replace(SEED, non_production=False)).usable


@pytest.mark.parametrize(
    ("values", "field", "code"),
    [
        (replace(SEED, company=""), "company", Code.MISSING_VALUE),
        (replace(SEED, environment=""), "environment", Code.MISSING_VALUE),
        (replace(SEED, zone="in-t"), "zone", Code.BAD_VALUE),
        (replace(SEED, project="m zv"), "project", Code.BAD_VALUE),
        (replace(SEED, region="gwc\n"), "region", Code.BAD_VALUE),
        (replace(SEED, number=0), "number", Code.BAD_VALUE),
        (replace(SEED, number=100), "number", Code.NUMBER_WIDTH),
    ],
)
def test_a_fault_in_a_value_names_the_field_and_gives_no_name(values, field, code):
    named = name_for(DEFAULT, ResourceType.KEY_VAULT, values)
    assert named.name == ""
    assert [(problem.field, problem.code) for problem in named.problems] == [(field, code)]
    assert str(named.problems[0]).startswith(f"{field}: ")


def test_a_resource_without_a_number_takes_any_number():
    assert name_for(DEFAULT, ResourceType.RESOURCE_GROUP, replace(SEED, number=100)).usable


def test_three_digits_are_asked_for_by_three_letters():
    wide = parse_template('{"aks": "{co}-{env}-aks{nnn}"}')
    assert name_for(wide, ResourceType.AKS, replace(SEED, number=7)).name == "crd-pro-aks007"
    assert name_for(wide, ResourceType.AKS, replace(SEED, number=100)).name == "crd-pro-aks100"


@pytest.mark.parametrize(
    ("resource", "name", "code"),
    [
        (ResourceType.KEY_VAULT, "a" * 25, NameProblem.TOO_LONG),
        (ResourceType.KEY_VAULT, "ab", NameProblem.TOO_SHORT),
        (ResourceType.KEY_VAULT, "1abc", NameProblem.BAD_START),
        (ResourceType.KEY_VAULT, "abc-", NameProblem.BAD_END),
        (ResourceType.KEY_VAULT, "ab--c", NameProblem.DOUBLE_HYPHEN),
        (ResourceType.KEY_VAULT, "ab_c", NameProblem.BAD_CHARACTER),
        (ResourceType.KEY_VAULT, "abc\n", NameProblem.BAD_CHARACTER),
        (ResourceType.KEY_VAULT, "my-windows-kv", NameProblem.RESERVED_WORD),
        (ResourceType.KEY_VAULT, "loginkv01", NameProblem.RESERVED_WORD),
        (ResourceType.REDIS, "xbox", NameProblem.RESERVED_WORD),
        (ResourceType.POSTGRESQL, "Abc", NameProblem.BAD_CHARACTER),
        (ResourceType.POSTGRESQL, "-abc", NameProblem.BAD_START),
        (ResourceType.POSTGRESQL, "a" * 64, NameProblem.TOO_LONG),
        (ResourceType.REDIS, "a--b", NameProblem.DOUBLE_HYPHEN),
        (ResourceType.AKS, "_abc", NameProblem.BAD_START),
        (ResourceType.AKS, "abc_", NameProblem.BAD_END),
        (ResourceType.RESOURCE_GROUP, "rg.", NameProblem.BAD_END),
        (ResourceType.RESOURCE_GROUP, "r" * 91, NameProblem.TOO_LONG),
        (ResourceType.CONTAINER_REGISTRY, "abcd", NameProblem.TOO_SHORT),
        (ResourceType.CONTAINER_REGISTRY, "abc-de", NameProblem.BAD_CHARACTER),
        (ResourceType.STORAGE_ACCOUNT, "ABC", NameProblem.BAD_CHARACTER),
        (ResourceType.STORAGE_ACCOUNT, "a" * 25, NameProblem.TOO_LONG),
        (ResourceType.MANAGED_IDENTITY, "mi", NameProblem.TOO_SHORT),
        (ResourceType.MANAGED_IDENTITY, "-mi", NameProblem.BAD_START),
        (ResourceType.VIRTUAL_NETWORK, "v", NameProblem.TOO_SHORT),
        (ResourceType.VIRTUAL_NETWORK, "vnet-", NameProblem.BAD_END),
        (ResourceType.LOG_ANALYTICS, "log", NameProblem.TOO_SHORT),
        (ResourceType.ENTERPRISE_APP, "a" * 121, NameProblem.TOO_LONG),
    ],
)
def test_what_azure_would_refuse_is_refused_first(resource, name, code):
    assert code in codes(check_name(resource, name))


@pytest.mark.parametrize(
    ("resource", "name"),
    [
        (ResourceType.KEY_VAULT, "kv-mazevault-npr"),
        (ResourceType.MANAGED_IDENTITY, "mi-mazevault-pro"),
        (ResourceType.VIRTUAL_NETWORK, "vnet_"),
        (ResourceType.KEY_VAULT, "my-login-kv"),
        (ResourceType.AKS, "windows"),
        (ResourceType.RESOURCE_GROUP, "(rg)_"),
    ],
)
def test_what_azure_accepts_is_accepted(resource, name):
    assert check_name(resource, name) == ()


def test_a_name_that_is_too_long_says_by_how_much():
    named = name_for(DEFAULT, ResourceType.KEY_VAULT, replace(DEV, project="mazevault"))
    assert named.name == "crdnprdevintmazevaultgwckv01"
    assert str(named.problems[0]) == (
        "key_vault: 'crdnprdevintmazevaultgwckv01' has 28 characters and may have 24; shorten its parts by 4"
    )


@pytest.mark.parametrize(
    ("text", "code", "field"),
    [
        ("{", Code.NOT_JSON, "template"),
        ("[]", Code.NOT_JSON, "template"),
        ('{"aks":"a","aks":"b"}', Code.NOT_JSON, "template"),
        ("[" * 100_000, Code.NOT_JSON, "template"),
        ('{"vm":"x"}', Code.UNKNOWN_RESOURCE, "template.vm"),
        ('{"aks":""}', Code.BAD_PATTERN, "template.aks"),
        ('{"aks":7}', Code.BAD_PATTERN, "template.aks"),
        ('{"aks":{"production":"x"}}', Code.BAD_PATTERN, "template.aks"),
        ('{"aks":{"production":"x","non_production":1}}', Code.BAD_PATTERN, "template.aks.non_production"),
        ('{"aks":"{co"}', Code.BAD_PATTERN, "template.aks"),
        ('{"aks":"{{co}}"}', Code.BAD_PATTERN, "template.aks"),
        ('{"aks":"{colour}"}', Code.UNKNOWN_PLACEHOLDER, "template.aks"),
        ('{"aks":"{Co}"}', Code.UNKNOWN_PLACEHOLDER, "template.aks"),
        ('{"aks":"{Nn}"}', Code.UNKNOWN_PLACEHOLDER, "template.aks"),
        ('{"aks":"{}"}', Code.UNKNOWN_PLACEHOLDER, "template.aks"),
        ('{"aks":"{nnnnn}"}', Code.UNKNOWN_PLACEHOLDER, "template.aks"),
    ],
)
def test_a_faulty_template_names_the_place_and_the_fault(text, code, field):
    with pytest.raises(TemplateInvalid) as caught:
        parse_template(text)
    assert [(problem.code, problem.field) for problem in caught.value.problems] == [(code, field)]


def test_all_faults_of_a_template_are_told_at_once():
    with pytest.raises(TemplateInvalid) as caught:
        parse_template('{"vm":"x","aks":"{foo}","redis":"{bar}"}')
    assert len(caught.value.problems) == 3


def test_a_template_may_name_both_patterns_and_keeps_the_defaults_for_the_rest():
    own = parse_template(json.dumps({"key_vault": {"production": "kv-{co}-{env}", "non_production": "kv-{co}-test-{env}"}}))
    assert name_for(own, ResourceType.KEY_VAULT, SEED).name == "kv-crd-pro"
    assert name_for(own, ResourceType.KEY_VAULT, DEV).name == "kv-crd-test-dev"
    assert name_for(own, ResourceType.AKS, SEED).name == "crd-pro-int-mzv-gwc-aks01"


def test_the_default_pattern_of_the_convention_stands_for_itself():
    compact = parse_template('{"key_vault":"{company}{environment}{zone}{project}{region}{type}{number}"}')
    assert name_for(compact, ResourceType.KEY_VAULT, SEED).name == "crdprointmzvgwckv01"
    assert name_for(compact, ResourceType.KEY_VAULT, DEV).name == "crdnprdevintmzvgwckv01"


def test_a_pattern_that_leaves_out_what_differs_collides():
    blind = parse_template('{"key_vault":"{co}{zone}{proj}{region}kv{nn}"}')
    found = collisions(name_for(blind, ResourceType.KEY_VAULT, values) for values in (SEED, DEV))
    assert codes(found) == {Code.COLLISION}
    assert "environment pro and environment dev" in str(found[0])
    assert "in all of Azure" in str(found[0])


def test_parts_that_run_together_collide_across_environments():
    one = name_for(DEFAULT, ResourceType.KEY_VAULT, replace(SEED, zone="in", project="tmzv"))
    assert codes(collisions([one, name_for(DEFAULT, ResourceType.KEY_VAULT, SEED)])) == {Code.COLLISION}


def test_names_that_differ_in_case_only_collide():
    loud = parse_template('{"aks":"{CO}-{env}-aks{nn}"}')
    quiet = parse_template('{"aks":"{co}-{env}-aks{nn}"}')
    both = [name_for(loud, ResourceType.AKS, SEED), name_for(quiet, ResourceType.AKS, replace(SEED, number=1, zone="dmz"))]
    assert collisions(both) == ()  # they lie in different resource groups
    same_group = [replace(named, place="rg-one") for named in both]
    assert codes(collisions(same_group)) == {Code.COLLISION}


def test_one_cluster_name_in_two_resource_groups_is_no_collision():
    short = parse_template('{"aks":"aks{nn}"}')
    assert collisions(name_for(short, ResourceType.AKS, values) for values in (SEED, DEV)) == ()


def test_the_application_of_all_regions_is_one_thing():
    both = [name_for(DEFAULT, ResourceType.ENTERPRISE_APP, replace(SEED, region=region)) for region in ("gwc", "we")]
    assert collisions(both) == ()


@pytest.mark.parametrize("resource", [kind for kind in ResourceType if "-" in DEFAULT_PATTERNS[kind]])
def test_a_hyphenated_name_reads_back_without_help(resource):
    for values in (SEED, DEV):
        name = name_for(DEFAULT, resource, values).name
        assert parse_name(DEFAULT, resource, name) == (values,)


def test_a_compact_name_needs_to_know_zones_and_regions():
    name = "crdprointmzvgwckv01"
    assert parse_name(DEFAULT, ResourceType.KEY_VAULT, name, PLACES) == (SEED,)
    assert len(parse_name(DEFAULT, ResourceType.KEY_VAULT, name)) > 1


def test_a_foreign_name_has_no_reading():
    assert parse_name(DEFAULT, ResourceType.KEY_VAULT, "kv-mazevault-npr", PLACES) == ()
    assert parse_name(DEFAULT, ResourceType.AKS, "crd-pro-int-mzv-gwc-psql01") == ()
    assert parse_name(DEFAULT, ResourceType.AKS, "crd-dev-int-mzv-gwc-aks01") == ()  # a dev without its mark
    assert parse_name(DEFAULT, ResourceType.RESOURCE_GROUP, "x" * 10_000) == ()


codes_of_parts = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=6)
any_values = st.builds(
    Values, company=codes_of_parts, environment=st.sampled_from((*PRODUCTION, *NON_PRODUCTION)), zone=codes_of_parts,
    project=codes_of_parts, region=codes_of_parts, number=st.integers(1, 99),
)  # fmt: skip


@given(any_values, st.sampled_from(list(ResourceType)))
@settings(deadline=None)
def test_a_name_without_problems_is_one_that_azure_accepts(values, resource):
    named = name_for(DEFAULT, resource, values)
    rule = RULES[resource]
    accepted = rule.shortest <= len(named.name) <= rule.longest and re.fullmatch(f"[{rule.allowed}]+", named.name)
    if named.usable:
        assert accepted
    assert named.usable == (not list(problems_of(resource, named.name)))


@given(any_values, st.sampled_from(list(ResourceType)))
@settings(deadline=None)
def test_the_true_reading_is_always_among_the_readings(values, resource):
    named = name_for(DEFAULT, resource, values)
    used = {Part.COMPANY, Part.REGION} if resource is ResourceType.ENTERPRISE_APP else set()
    expected = replace(
        values,
        number=1 if resource is ResourceType.RESOURCE_GROUP else values.number,
        **{part.value: "" for part in used},
    )
    if named.usable:
        assert expected in parse_name(DEFAULT, resource, named.name)


@given(st.text(max_size=60))
@settings(deadline=None)
def test_no_pattern_text_breaks_the_reader(text):
    try:
        template = parse_template(json.dumps({"aks": text}))
    except TemplateInvalid as invalid:
        assert all(str(problem).startswith("template.aks") for problem in invalid.problems)
    else:
        assert name_for(template, ResourceType.AKS, SEED).name != ""
