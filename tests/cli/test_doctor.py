"""The doctor finds each trouble with sign-in and says who can mend it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.test import Client

from accounts import sso
from accounts.entra import Entra
from accounts.entra_settings import EntraSettings
from cli import doctor
from cli.doctor import Owner, Primary, State
from cli.stack.layout import ROOT
from common.clock import now
from sandbox.azure.server import Sandbox
from tests.conftest import Person
from vault.models import CertificateAuthority

NOBODY = Primary("", None)


def found(own: EntraSettings) -> dict[str, doctor.Finding]:
    return {row.check: row for row in doctor.examine(own, NOBODY)}


def test_a_healthy_registration_passes_and_what_needs_a_person_is_skipped(entra_settings: EntraSettings) -> None:
    rows = found(entra_settings)
    assert list(rows) == [
        "settings", "login host", "clock", "signing keys", "redirect URI", "client secret", "end of the client secret", "sign-in"
    ]  # fmt: skip
    assert {row.state for name, row in rows.items() if name != "sign-in"} == {State.OK}
    assert rows["sign-in"].state is State.SKIPPED and "--url" in rows["sign-in"].sentence


@pytest.mark.parametrize(
    ("change", "check", "code"),
    [({"client_secret": "wrong"}, "client secret", "ENTRA_SECRET_WRONG"),
     ({"redirect_uri": "https://elsewhere.example/api/v1/auth/sso/entra/callback"}, "redirect URI", "ENTRA_REDIRECT_URI"),
     ({"client_id": "c0000000-0000-4000-8000-0000000000ff"}, "client secret", "ENTRA_APPLICATION_UNKNOWN"),
     ({"client_id": "c0000000-0000-4000-8000-0000000000ff"}, "redirect URI", "ENTRA_APPLICATION_UNKNOWN"),
     ({"tenant_id": "a0000000-0000-4000-8000-0000000000ff"}, "login host", "ENTRA_TENANT_UNKNOWN"),
     ({"ca_bundle": None}, "login host", "ENTRA_TLS"),
     ({"authority_host": "https://localhost:1"}, "login host", "ENTRA_UNREACHABLE"),
     ({"scopes": ("openid", "api://x/.default")}, "redirect URI", "ENTRA_RESOURCE_UNKNOWN")],
)  # fmt: skip
def test_each_wrong_setting_is_found_where_it_is(
    entra_settings: EntraSettings,
    change: dict[str, Any],
    check: str,
    code: str,
) -> None:
    row = found(replace(entra_settings, **change))[check]
    assert (row.state, row.code) == (State.FAILED, code)
    assert row.fix and row.owner


@pytest.mark.parametrize(
    ("fault", "check", "code"),
    [({"secret_expired": True}, "client secret", "ENTRA_SECRET_EXPIRED"), ({"clock_offset_seconds": 300}, "clock", "CLOCK"),
     ({"clock_offset_seconds": -300}, "clock", "CLOCK"), ({"unavailable": 1}, "login host", "ENTRA_UNAVAILABLE"),
     ({"throttled": 1}, "login host", "ENTRA_THROTTLED")],
)  # fmt: skip
def test_each_trouble_of_the_tenant_is_found(
    entra_settings: EntraSettings,
    control: httpx.Client,
    fault: dict[str, Any],
    check: str,
    code: str,
) -> None:
    control.post("/faults", json=fault)
    row = found(entra_settings)[check]
    assert (row.state, row.code) == (State.FAILED, code)


def test_without_the_login_host_the_rest_is_skipped(entra_settings: EntraSettings) -> None:
    rows = found(replace(entra_settings, authority_host="https://localhost:1"))
    assert [row.state for row in rows.values()].count(State.SKIPPED) == 5
    assert doctor.examine(replace(entra_settings, enabled=False), NOBODY)[0].state is State.SKIPPED


BODY = {"user": "ada@bank.example", "role": "viewer", "mapped_roles": [], "mappings": 0, "resources": []}
REFUSED = {"resource": "https://vault.azure.net", "ok": False, "code": "ENTRA_CONSENT_MISSING", "error": "nobody agreed",
           "details": "Fix: press it. Owner: Entra administrator."}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "check", "state", "code"),
    [(BODY, "App Roles and groups", State.FAILED, "NO_MAPPING"),
     ({**BODY, "mappings": 2}, "App Roles and groups", State.FAILED, "NO_MAPPING_FITS"),
     ({**BODY, "mappings": 2, "mapped_roles": ["admin"]}, "App Roles and groups", State.OK, ""),
     ({**BODY, "resources": [REFUSED]}, "consent for https://vault.azure.net", State.FAILED, "ENTRA_CONSENT_MISSING")],
)  # fmt: skip
def test_consent_and_roles_are_judged_from_what_a_person_gets(
    entra_settings: EntraSettings,
    monkeypatch: pytest.MonkeyPatch,
    body: dict[str, Any],
    check: str,
    state: State,
    code: str,
) -> None:
    monkeypatch.setattr(doctor, "_check", lambda own, primary: body)
    row = found(entra_settings)[check]
    assert (row.state, row.code) == (state, code)
    if code == "ENTRA_CONSENT_MISSING":
        assert (row.fix, row.owner) == ("press it.", "Entra administrator")


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ENTRA_", "AZURE_", "MAZEVAULT_"))}
    command = [sys.executable, "-m", "cli", "doctor", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**kept, **environ}, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def variables(sandbox: Sandbox, secret: str, tmp_path: Any) -> Callable[..., dict[str, str]]:
    from sandbox.azure.directory import CLIENT_ID, DEFAULT_REDIRECT_URI, TENANT_ID

    known = {
        "MAZEVAULT_VAR": str(tmp_path), "ENTRA_ENABLED": "true", "ENTRA_TENANT_ID": TENANT_ID, "ENTRA_CLIENT_ID": CLIENT_ID,
        "ENTRA_CLIENT_SECRET": secret, "ENTRA_REDIRECT_URI": DEFAULT_REDIRECT_URI, "ENTRA_AUTHORITY_HOST": sandbox.base_url,
        "ENTRA_INSTANCE_DISCOVERY": "false", "AZURE_CA_BUNDLE": str(sandbox.ca_file),
    }  # fmt: skip
    return lambda **more: {**known, **more}


def test_the_command_prints_text_or_json_and_its_exit_status_tells(variables: Callable[..., dict[str, str]], secret: str) -> None:
    good = run(**variables())
    assert good.returncode == 0 and "ok       client secret: taken" in good.stdout, good.stdout + good.stderr
    bad = run("-o", "json", **variables(ENTRA_CLIENT_SECRET="wrong"))
    rows = {row["check"]: row for row in json.loads(bad.stdout)}
    assert bad.returncode == 1 and rows["client secret"]["owner"] == "MazeVault operator"
    assert secret not in good.stdout + good.stderr + bad.stdout + bad.stderr
    wrong = run(**variables(ENTRA_TENANT_ID="common"))
    assert wrong.returncode == 1 and "ENTRA_TENANT_ID" in wrong.stdout and "Traceback" not in wrong.stderr
    off = run(MAZEVAULT_VAR="/nonexistent")
    assert off.returncode == 0 and "switched off" in off.stdout


class AtTheViews(Primary):
    """A Primary whose calls reach the real views, without a port."""

    def client(self) -> httpx.Client:
        return httpx.Client(transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        answer = Client().get(request.url.path, headers=dict(request.headers.items()))
        return httpx.Response(answer.status_code, content=answer.content, headers=dict(answer.headers))


@pytest.mark.usefixtures("primary")
class TestAuthorities:
    def look(self, token: str = "") -> doctor.Finding:
        return doctor.authorities(AtTheViews("https://primary.example", None, token))

    def test_who_may_look_at_the_fleet_sees_all_of_them(self, admin: Person) -> None:
        told = self.look(admin.token)
        assert told.state is State.OK and "token" not in told.sentence
        assert {part.split()[0] for part in told.sentence.split(", ")} >= {"root", "platform", "NPR", "PRO", "channel"}

    def test_anybody_sees_those_that_are_shown_to_everybody(self) -> None:
        shown = self.look()
        assert shown.state is State.OK and "MAZEVAULT_TOKEN=$(curl" in shown.sentence
        assert [part.split()[0] for part in shown.sentence.split("; ")[0].split(", ")] == ["root", "platform", "channel"]

    def test_one_that_ends_without_a_successor_is_named_with_its_fix(
        self, admin: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        CertificateAuthority.objects.filter(scope="NPR").update(not_after=now() + timedelta(days=5))
        told = self.look(admin.token)
        assert (told.state, told.code, told.owner) == (State.FAILED, "CA_ENDS", Owner.OPERATOR.value)
        assert "NPR" in told.sentence and "PRO" not in told.sentence and "keys list" in told.fix
        monkeypatch.setattr(doctor, "warn_below", lambda life: life)
        assert "root ends in" in self.look().sentence and self.look().code == "CA_ENDS"

    def test_a_session_of_a_password_is_for_the_authorities_and_no_fault_of_sign_in(
        self, admin: Person, entra_settings: EntraSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who follows the sentence about MAZEVAULT_TOKEN has such a session; all that it lacks is a look at consent."""
        monkeypatch.setattr(sso, "entra", lambda: Entra(entra_settings))
        primary = AtTheViews("https://primary.example", None, admin.token)
        (sign_in,) = doctor._as_a_person(entra_settings, primary)
        assert sign_in.state is State.SKIPPED and "MAZEVAULT_TOKEN" in sign_in.sentence and "sso/entra/login" in sign_in.sentence
        assert "NPR" in doctor.authorities(primary).sentence

    def test_who_may_not_look_and_who_is_not_there_are_told_apart(self, person: Callable[[str], Person]) -> None:
        refused = self.look(person("user").token)
        assert refused.state is State.FAILED and refused.code not in ("PRIMARY", "CA_ENDS")
        away = doctor.authorities(Primary("https://localhost:1", None, "x"))
        assert (away.state, away.code) == (State.FAILED, "PRIMARY") and "--url" in away.fix
        assert doctor.authorities(NOBODY).state is State.SKIPPED
