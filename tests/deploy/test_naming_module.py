"""The Terraform module makes the names that the naming engine shows, and refuses what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from integrations.naming import Values, preview
from integrations.naming_export import terraform_convention
from integrations.naming_patterns import NON_PRODUCTION, PRODUCTION, Template, parse_template
from integrations.naming_report import REGIONS, ZONES
from tests.deploy.conftest import MODULES, Workspace

OWN = {
    "aks": "{CO}-{env}-{type}{nnn}",
    "key_vault": {"production": "kv-{co}-{proj}-{env}", "non_production": "kv-{co}-{proj}-t-{env}"},
    "resource_group": "{PROJECT}.{region}_{ENVIRONMENT}-{n}",
    "storage_account": "{env}{company}{zone}{TYPE}{nnnn}".lower(),
}
PRO = Values("crd", "pro", "int", "mzv", "gwc")


def module(values: Values, convention: Path | None = None) -> dict[str, Any]:
    """A block that asks the module for the names of one environment."""
    return {
        "source": str(MODULES / "naming"),
        "company_code": values.company,
        "project_code": values.project,
        "environment": values.environment,
        "is_nonprod": values.environment in NON_PRODUCTION if values.non_production is None else values.non_production,
        "location_zone": values.zone,
        "region_code": values.region,
        "number": values.number,
        **({"convention_file": str(convention)} if convention else {}),
    }


def configuration(asked: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "module": asked,
        "output": {name: {"value": f"${{module.{name}.names}}"} for name in asked},
    }


@pytest.mark.parametrize("own", [False, True], ids=["default", "own convention"])
def test_every_name_is_the_one_that_the_engine_shows(workspace: Workspace, tmp_path: Path, own: bool) -> None:
    template = parse_template(json.dumps(OWN)) if own else Template.default()
    convention = tmp_path / "convention.json" if own else None
    if convention:
        convention.write_text(terraform_convention(template))
    places = list(product((*PRODUCTION, *NON_PRODUCTION), ZONES, REGIONS, (1, 9)))
    places += [] if own else [("PRO", "INT", "GWC", 47)]
    wanted = {
        f"n{index}": Values("crd", env, zone, "mzv", region, number) for index, (env, zone, region, number) in enumerate(places)
    }
    if not own:
        wanted["other"] = Values("crd", "uat", "int", "mzv", "we", non_production=True)
    workspace.configure(configuration({name: module(values, convention) for name, values in wanted.items()}))
    made = workspace.apply()
    for name, values in wanted.items():
        shown = preview(template, values)
        assert all(named.usable for named in shown), values
        assert made[name] == {named.resource.value: named.name for named in shown}, values


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        (replace(PRO, non_production=True), "is_nonprod does not fit the environment pro"),
        (replace(PRO, environment="dev", non_production=False), "is_nonprod does not fit the environment dev"),
        (replace(PRO, number=100), "number 100 has more digits than the pattern of"),
        (replace(PRO, project="mazevault"), "key_vault crdprointmazevaultgwckv01 (3 to 24 characters)"),
        (replace(PRO, company="1crd"), "names of a form that Azure refuses: key_vault 1crdprointmzvgwckv01"),
        (replace(PRO, company="login"), "names with a word that Azure reserves"),
        (replace(PRO, zone="in-t"), "location_zone may have letters and digits only"),
        (replace(PRO, company=""), "company_code may have letters and digits only"),
        (replace(PRO, number=0), "number must be a whole number from 1"),
    ],
)
def test_what_the_engine_refuses_stops_the_plan_with_a_sentence(workspace: Workspace, wish: Values, sentence: str) -> None:
    assert not all(named.usable for named in preview(Template.default(), wish))
    workspace.configure(configuration({"names": module(wish)}))
    done = workspace.run("plan", "-input=false", "-no-color")
    assert done.returncode == 1
    assert sentence in " ".join(done.stderr.replace("│", " ").split())


def test_the_modules_are_formatted_and_valid(workspace: Workspace) -> None:
    done = workspace.run("fmt", "-check", "-recursive", "-diff", str(MODULES))
    assert done.returncode == 0, done.stdout
    workspace.configure(configuration({"names": module(PRO)}))
    assert workspace.run("validate").returncode == 0
