"""Stored configurations: nothing lies readable in the database or comes back but what is on the public list (AM3)."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.db import connection

from accounts import projects, sealed_config
from accounts.models import IdentityProvider, Project
from common.api import translate
from common.sealing import SealBroken, columns
from gateways import jobs
from integrations import plain_configurations
from integrations.models import Integration
from tests import factories
from tests.conftest import Person

CANARY = "CANARY7f3a"
NAMES = """
kubeconfig dsn database_url id_rsa pem pfx p12 keystore keytab jwt cookie session hmac service_account_json webhook_url
slack_webhook seed otp pin auth basic conn value url uri host user username path name key_id public_key note token
client_secret secret_name pass bind_dn bind_password login license certificate config data body header headers env extra
options params query file content text description type mode port scope issuer_key tenant VAULT_URL azure-org Azure_Org
azure_token tenantId clientId region_ branches environments
""".split()  # noqa: SIM905  a list of them is three times as long
FORMS: dict[str, Any] = {
    "an object": {"headers": {"Cookie": CANARY}, "deep": {"er": {"still": CANARY}}, "none": {}},
    "a list": {"hosts": [CANARY, {"a": CANARY, "list": [[CANARY]]}]},
    "a name": {f"x{CANARY}": 1, "map": {f"y{CANARY}": {f"z{CANARY}": True}}},
    "a number": {"pin": 73_331_999},
    "a public name inside": {"other": {"tenant_id": CANARY, "vault_url": CANARY}},
    "a public name over more": {"vault_url": {"password": CANARY}, "azure_org": [CANARY]},
    "a user in an address": {"vault_url": f"https://u:{CANARY}@h/", "azure_repo": f"https://{CANARY}@github.com/a/b"},
    "a signature in an address": {"issuer": f"https://h/p?sv=1&sig={CANARY}", "azure_file_path": f"/p?code={CANARY}"},
    "a key": {"azure_branch": f"-----BEGIN PRIVATE KEY-----\n{CANARY}"},
    "a token": {"azure_project": f"eyJhbGciOi.{CANARY}.x", "namespace": CANARY + "x" * 400},
    "a connection string": {"region": f"Endpoint=sb://x;SharedAccessKey={CANARY}"},
}


@pytest.fixture
def project(primary: None, admin: Person) -> dict[str, Any]:
    row: dict[str, Any] = admin.post("projects", {"name": "payments"})[1]
    return row


def found(*canaries: str) -> list[str]:
    """Tables with a canary in what a dump of the database shows."""
    hits = []
    with connection.cursor() as cursor:
        for table in sorted({model._meta.db_table for model in apps.get_models()}):
            cursor.execute(f'SELECT count(*) FROM "{table}" t WHERE t::text LIKE ANY(%s)', [[f"%{one}%" for one in canaries]])  # noqa: S608
            hits += [table] if cursor.fetchone()[0] else []
    return hits


@pytest.mark.parametrize("form", ["names", *FORMS])
def test_no_part_of_a_configuration_is_in_a_dump_or_in_an_answer(project: dict[str, Any], admin: Person, form: str) -> None:
    config = dict.fromkeys(NAMES, CANARY) if form == "names" else FORMS[form]
    said = [
        admin.post(f"projects/{project['id']}/integrations", {"name": "g", "type": "x", "provider": "generic", "config": config}),
        admin.post(f"projects/{project['id']}/integrations", {"name": "u", "type": "x", "provider": "of_ours", "config": config}),
        admin.post("identity-providers", {"type": "ldap", "name": "Corp", "config": config}),
    ]
    assert [status for status, _ in said] == [201, 201, 201]
    said += [admin.get(f"projects/{project['id']}/integrations"), admin.get("identity-providers"), admin.get("audit-logs")]
    assert CANARY not in str(said) and "73331999" not in str(said)
    assert found(CANARY, "73331999") == []
    for row in (*Integration.objects.all(), IdentityProvider.objects.get()):
        scope = getattr(row, "sealed_under", "platform")
        assert CANARY in str(held := sealed_config.secrets_of(row, scope)) or "73331999" in str(held)


def test_what_providers_with_a_schema_call_public_is_given_back(project: dict[str, Any], admin: Person) -> None:
    config = {"azure_org": "acme", "azure_project": "R&D / 100 %", "azure_mode": "variable_group", "azure_variable_group_id": 7,
              "azure_repo": "https://dev.azure.com/acme/_git/x", "azure_branch": "main",
              "azure_file_path": "a/b.yml"}  # fmt: skip
    wish = {"name": "d", "type": "gitops", "provider": "azure_devops", "config": {**config, "azure_pat": "p"}}
    assert admin.post(f"projects/{project['id']}/integrations", wish)[1]["config"] == config


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        ({"a": "1", "b": "2"}, {"b": None}, {"a": "1"}),
        ({"in": {"x": "1", "y": "2"}}, {"in": {"x": "3"}}, {"in.x": "3", "in.y": "2"}),
        ({"in": {"x": "1", "y": "2"}}, {"in": {"x": ""}}, {"in.y": "2"}),
        ({"in": {"x": "1", "y": "2"}}, {"in": "now a text"}, {"in": "now a text"}),
        ({"in": {"x": "1", "y": "2"}}, {"in": None}, {}),
        ({"in": "a text"}, {"in": {"x": "1"}}, {"in.x": "1"}),
        ({"list": [{"host": "a", "password": "of-a"}]}, {"list": [{"host": "b"}]}, {"list": [{"host": "b"}]}),
        ({"list": [1, 2]}, {"other": 1}, {"list": [1, 2], "other": 1}),
        ({"azure_org": "https://u:p@h"}, {"azure_org": "acme"}, {}),
        ({"a": {"b": "1"}, "a.b": "2"}, {}, {"a.b": "1", "a\\.b": "2"}),
        ({"a": {"b": "1"}, "a.b": "2"}, {"a.b": None}, {"a.b": "1"}),
        ({"a": {"b": "1"}, "a.b": "2"}, {"a": {"b": ""}}, {"a\\.b": "2"}),
        ({"a": {"b": "1"}, "a.b": "2"}, {"a": "3"}, {"a": "3", "a\\.b": "2"}),
        ({"a": {"b.c": "1", "b": {"c": "2"}}}, {"a": {"b": None}}, {"a.b\\.c": "1"}),
        ({"a\\": {"b": "1"}, "a\\.b": "2", "a[0]": "3"}, {"a": "4"}, {"a\\\\.b": "1", "a\\\\\\.b": "2", "a\\[0]": "3", "a": "4"}),
    ],
)  # fmt: skip
def test_what_is_left_out_is_kept_null_clears_and_no_part_moves_elsewhere(
    primary: None, before: dict[str, Any], change: dict[str, Any], after: dict[str, Any]
) -> None:
    row = IdentityProvider(type="x", name="n")
    assert sealed_config.put(row, "platform", before)
    sealed_config.put(row, "platform", change)
    assert sealed_config.secrets_of(row, "platform") == after
    assert not sealed_config.put(row, "platform", change) or None in change.values()


@pytest.mark.parametrize(
    ("sealed", "plain", "after"),
    [
        ({"dsn": "old", "pat": "kept"}, {"dsn": "new"}, {"dsn": "new", "pat": "kept"}),
        ({"in": {"x": "old", "y": "kept"}}, {"in": {"x": "new"}}, {"in.x": "new", "in.y": "kept"}),
        ({"in": {"x": "old"}}, {"in": "new"}, {"in": "new"}),
        ({"in": "old"}, {"in": {"x": "new"}}, {"in.x": "new"}),
        ({"azure_org": "https://u:p@h", "pat": "kept"}, {"azure_org": "acme", "dsn": "new"}, {"pat": "kept", "dsn": "new"}),
        ({"dsn": "old"}, {"dsn": None}, {}),
    ],
)  # fmt: skip
def test_what_lies_in_plain_beside_what_is_sealed_came_later_and_counts(
    primary: None, sealed: dict[str, Any], plain: dict[str, Any], after: dict[str, Any]
) -> None:
    """While nodes are updated one after the other, an old one stores a newer secret beside the sealed older one."""
    row = IdentityProvider(type="ldap", name="n")
    sealed_config.put(row, "platform", {"tenant_id": "t", **sealed})
    row.config = {"tenant_id": "t", **plain}
    row.save(force_insert=True)
    assert plain_configurations.seal() == 1
    row.refresh_from_db()
    assert sealed_config.secrets_of(row, "platform") == after
    assert sealed_config.split(row.config)[1] == {}


def test_configurations_of_older_releases_are_sealed_by_the_migrations(project: dict[str, Any], admin: Person) -> None:
    plain = {"tenant_id": "t", "dsn": CANARY, "headers": {"Cookie": CANARY}, "list": [{"x": CANARY}]}
    hooks = [f"https://hooks.example.com/services/{CANARY}"]
    rows = [IdentityProvider(type="ldap", name="Corp"), Integration(project_id=project["id"], name="g", sealed_under="platform")]
    for row in rows:
        sealed_config.put(row, "platform", {"client_secret": "s"})
        row.config = plain
        row.save(force_insert=True)
    gone = Integration.objects.create(project_id=project["id"], name="old", config=plain, deleted_at=rows[0].created_at)
    Project.objects.filter(id=project["id"]).update(settings={"notification_webhooks": hooks, "tags": ["a"]})
    assert len(found(CANARY)) == 3
    for app in ("accounts", "integrations"):
        names = [name for name in _migrations(app) if name.endswith("configurations_rest_sealed")]
        import_module(f"{app}.migrations.{names[0]}").seal(apps, None)
    assert found(CANARY) == []
    for row in rows:
        row.refresh_from_db()
        assert row.config == {"tenant_id": "t"}
        held = sealed_config.secrets_of(row, "platform")
        assert held == {"client_secret": "s", "dsn": CANARY, "headers.Cookie": CANARY, "list": [{"x": CANARY}]}
    gone.refresh_from_db()
    assert gone.config == {"tenant_id": "t"} and gone.sealed_secrets is None
    kept = Project.objects.get(id=project["id"])
    assert projects.webhooks_of(kept) == hooks and kept.settings == {"tags": ["a"]}


def test_what_a_process_of_the_former_release_leaves_in_plain_is_sealed_at_the_next_start_and_hourly(
    project: dict[str, Any], admin: Person
) -> None:
    def left_behind(name: str) -> list[Any]:
        plain = {"tenant_id": "t", "dsn": CANARY}
        rows = [
            IdentityProvider(type="ldap", name=name),
            Integration(project_id=project["id"], name=name, sealed_under="platform"),
        ]
        for row in rows:
            row.config = plain
            row.save(force_insert=True)
        Integration.objects.create(project_id=project["id"], name=f"{name} old", config=plain, deleted_at=rows[0].created_at)
        Project.objects.filter(id=project["id"]).update(settings={"notification_webhooks": [CANARY], "tags": ["a"]})
        return rows

    for name, seal in (("start", plain_configurations.seal), ("hour", jobs.seal_plain_configurations)):
        rows = left_behind(name)
        assert len(found(CANARY)) == 3 and seal() == 4 and found(CANARY) == []
        for row in rows:
            row.refresh_from_db()
            assert (row.config, sealed_config.secrets_of(row, "platform")) == ({"tenant_id": "t"}, {"dsn": CANARY})
        kept = Project.objects.get(id=project["id"])
        assert (projects.webhooks_of(kept), kept.settings) == ([CANARY], {"tags": ["a"]})
        assert seal() == 0


def test_webhooks_that_do_not_open_are_named_and_saving_them_again_mends_it(project: dict[str, Any], admin: Person) -> None:
    path = f"projects/{project['id']}/settings"
    assert admin.put(path, {"notification_webhooks": ["https://a.example.com/1"]})[0] == 200
    Project.objects.filter(id=project["id"]).update(webhooks_version=7)
    status, answer = admin.get(path)
    assert (status, answer["code"]) == (500, "SEAL_BROKEN") and "'payments'" in answer["error"] and "PUT" in answer["error"]
    assert admin.put(path, {"notification_webhooks": ["https://a.example.com/2"]})[0] == 200
    assert admin.get(path)[1]["notification_webhooks"] == ["https://a.example.com/2"]


def test_whatever_does_not_open_is_told_as_that() -> None:
    """Also where no use case has words for it."""
    told = translate(SealBroken("the sealed value is damaged"))
    assert (told.code, told.status) == ("SEAL_BROKEN", 500) and "saving it again mends it" in told.sentence


def _migrations(app: str) -> list[str]:
    from django.db.migrations.loader import MigrationLoader

    return [name for label, name in MigrationLoader(None, ignore_no_migrations=True).disk_migrations if label == app]


def test_webhooks_rest_sealed_and_are_shown_to_whoever_may_change_them(project: dict[str, Any], admin: Person) -> None:
    hooks = [f"https://hooks.example.com/services/{CANARY}", f"not an address {CANARY}"]
    path = f"projects/{project['id']}/settings"
    assert admin.put(path, {"notification_webhooks": hooks})[1]["notification_webhooks"] == hooks
    assert admin.get(path)[1]["notification_webhooks"] == hooks and found(CANARY) == []
    reader = factories.member("user", project=Project.objects.get(id=project["id"]))
    status, shown = reader.get(path)
    assert status == 200 and shown["notification_webhooks"] == ["https://hooks.example.com/…", "https:///…"]
    version = Project.objects.get(id=project["id"]).webhooks_version
    admin.put(path, {"notification_webhooks": hooks})
    assert Project.objects.get(id=project["id"]).webhooks_version == version, "the same wish changes nothing"
    assert ("accounts.Project", "sealed_webhooks") in {(one.model, one.column) for one in columns()}
    assert admin.put(path, {})[1]["notification_webhooks"] is None


@pytest.mark.parametrize("variables", [{"db_password": "x"}, {"a": [{"token": "x"}]}, {"url": "https://u:p@h"}])
def test_a_secret_among_the_variables_of_a_template_is_refused(primary: None, admin: Person, variables: dict[str, Any]) -> None:
    organization = admin.post("organizations", {"name": "Bank"})[1]["id"]
    wish = {"name": "t", "template": "{}", "variables": variables}
    status, body = admin.post(f"organizations/{organization}/config-templates", wish)
    assert status == 400 and body["error"].startswith("variables.") and "looks like a secret" in body["error"]
