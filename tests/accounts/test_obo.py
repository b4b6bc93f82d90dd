"""Azure in a user's own name: tokens rest sealed with the session, one for each user and API, and end with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.db import transaction
from django.test import override_settings

from accounts import attempts, obo, sealed_config, sso
from accounts.changes import By
from accounts.entra import Entra, EntraError
from accounts.entra_settings import EntraSettings
from accounts.models import EntraSession, OboToken, Session, User
from common.clock import now
from common.errors import AuthenticationExpired, AuthenticationInvalid, PermissionRefused
from common.models import AuditEntry
from gateways import vault_grants, vault_questions, vault_ways
from integrations.azure.cloud import Cloud
from integrations.azure.errors import AccessDenied
from integrations.azure.node_cloud import AzureNode
from integrations.models import AccessSnapshot, Integration
from sandbox.azure.directory import CLIENT_ID, GRAPH, KEY_VAULT, MANAGEMENT, TENANT_ID
from sandbox.azure.server import Sandbox
from sandbox.azure.tokens import parted
from tests import factories
from tests.accounts.conftest import Node
from tests.conftest import Person
from tests.fakes.browser import Browser


@pytest.fixture
def session_of(node: Node, browser: Browser) -> Callable[[str], Session]:
    """The session of somebody who signed in with Entra."""

    def make(user: str) -> Session:
        assert node.sign_in(browser, user).status_code == 200
        return Session.objects.latest("created_at")

    return make


@pytest.fixture
def entra(node: Node) -> Entra:
    return sso.entra()


def exchanges(control: httpx.Client) -> int:
    rows = control.get("/requests").json()["value"]
    return sum(row["grant"].endswith("jwt-bearer") for row in rows)


def test_a_token_is_exchanged_once_and_then_taken_from_the_cache(
    session_of: Callable[..., Session], entra: Entra, control: httpx.Client
) -> None:
    session = session_of("paul.project")
    Session.objects.update(expires_at=session.expires_at + timedelta(hours=23))
    first = obo.token_for(entra, session, KEY_VAULT, now())
    again = obo.token_for(entra, session, KEY_VAULT, now())
    other = obo.token_for(entra, session, MANAGEMENT, now())
    assert first.value == again.value != other.value and exchanges(control) == 2
    claims = parted(first.value)[1]
    assert claims["aud"] == KEY_VAULT and claims["upn"] == "paul.project@bank.example"


def test_tokens_of_two_users_never_meet(session_of: Callable[..., Session], entra: Entra) -> None:
    paul, ada = session_of("paul.project"), session_of("ada.admin")
    for session in (paul, ada, paul):
        upn = parted(obo.token_for(entra, session, KEY_VAULT, now()).value)[1]["upn"]
        assert session.user is not None and upn == session.user.email


def test_tokens_rest_sealed_and_open_at_their_own_place_only(session_of: Callable[..., Session], entra: Entra) -> None:
    paul, ada = session_of("paul.project"), session_of("ada.admin")
    value = obo.token_for(entra, paul, KEY_VAULT, now()).value
    obo.token_for(entra, ada, KEY_VAULT, now())
    row = OboToken.objects.get(session_id=paul.pk)
    head = value[:12].encode()  # of every token of this kind; shorter, and a sealed one has it by chance now and then
    assert value.encode() not in bytes(row.sealed_token) and head not in bytes(row.sealed_token)
    assert head not in bytes(EntraSession.objects.get(pk=paul.pk).sealed_tokens)
    OboToken.objects.filter(session_id=ada.pk).update(sealed_token=row.sealed_token)
    own = obo.token_for(entra, ada, KEY_VAULT, now()).value
    assert parted(own)[1]["upn"] == "ada.admin@bank.example", "what does not open is given up, and asked for again"
    EntraSession.objects.filter(pk=ada.pk).update(sealed_tokens=EntraSession.objects.get(pk=paul.pk).sealed_tokens)
    with pytest.raises(AuthenticationExpired, match="does not open; sign in again"):
        obo.token_for(entra, ada, MANAGEMENT, now())
    assert value not in repr(row) and "eyJ" not in repr(obo.token_for(entra, paul, KEY_VAULT, now()))


def test_missing_consent_names_cause_and_owner_and_leaves_nothing_behind(
    session_of: Callable[..., Session], entra: Entra, control: httpx.Client
) -> None:
    session = session_of("paul.project")
    control.post("/faults", json={"consent_missing": [KEY_VAULT]})
    with pytest.raises(EntraError) as refused:
        obo.token_for(entra, session, KEY_VAULT, now())
    assert (refused.value.code, refused.value.number, refused.value.status) == ("ENTRA_CONSENT_MISSING", 65001, 403)
    assert "Grant admin consent" in str(refused.value.details) and not OboToken.objects.exists()
    control.post("/faults", json={"consent_missing": False})
    assert obo.token_for(entra, session, KEY_VAULT, now()).value, "an earlier refusal is not remembered"


def test_trouble_of_one_user_is_not_everybodys(session_of: Callable[..., Session], entra: Entra, control: httpx.Client) -> None:
    paul, ada = session_of("paul.project"), session_of("ada.admin")
    control.post("/faults", json={"throttled": 1, "retry_after_seconds": 600})
    with pytest.raises(EntraError, match="throttles"):
        obo.token_for(entra, paul, KEY_VAULT, now())
    assert obo.token_for(entra, ada, KEY_VAULT, now()).value


def test_an_old_assertion_is_renewed_and_an_old_token_exchanged_again(
    session_of: Callable[..., Session], entra: Entra, sandbox: Sandbox
) -> None:
    session = session_of("paul.project")
    Session.objects.update(expires_at=now() + timedelta(hours=12))
    session.refresh_from_db()
    first = obo.token_for(entra, session, KEY_VAULT, now()).value
    sandbox.world.faults = sandbox.world.faults.changed({"clock_offset_seconds": 7200})
    later = now() + timedelta(hours=2)
    second = obo.token_for(entra, session, KEY_VAULT, later).value
    assert first != second and parted(second)[1]["upn"] == "paul.project@bank.example"
    assert EntraSession.objects.get().version == 2
    sandbox.world.faults = sandbox.world.faults.changed({"clock_offset_seconds": 4 * 7200})
    assert obo.token_for(entra, session, MANAGEMENT, now() + timedelta(hours=8)).value, "the renewed one is kept and opens"


def test_a_session_that_is_over_gives_no_token(session_of: Callable[..., Session], entra: Entra) -> None:
    session = session_of("paul.project")
    obo.token_for(entra, session, KEY_VAULT, now())
    with pytest.raises(AuthenticationInvalid):
        obo.token_for(entra, session, KEY_VAULT, session.expires_at)
    Session.objects.update(revoked_at=now())
    with pytest.raises(AuthenticationInvalid):
        obo.token_for(entra, session, KEY_VAULT, now())
    assert attempts.prune(now()) >= 1 and not EntraSession.objects.exists() and not OboToken.objects.exists()


def test_a_session_that_began_with_a_password_gives_no_token(node: Node, entra: Entra, admin: Person) -> None:
    with pytest.raises(PermissionRefused):
        obo.token_for(entra, Session.objects.get(), KEY_VAULT, now())
    assert admin.get("auth/sso/entra/check") == (
        403, {"error": "this needs a sign-in with Entra: the session began with a password or a token",
              "code": "ENTRA_SESSION_NEEDED"})  # fmt: skip


def test_an_account_that_entra_disables_is_switched_off_here_and_on_again_by_signing_in(
    session_of: Callable[..., Session], entra: Entra, control: httpx.Client
) -> None:
    session = session_of("paul.project")
    control.patch("/users/paul.project@bank.example", json={"enabled": False})
    with pytest.raises(EntraError):
        obo.token_for(entra, session, KEY_VAULT, now())
    user = User.objects.get(email="paul.project@bank.example")
    assert not user.is_active and user.disabled_by_sso and not Session.objects.filter(revoked_at__isnull=True).exists()
    assert AuditEntry.objects.filter(action="user.disabled").get().details == {"reason": "AADSTS50057"}
    control.patch("/users/paul.project@bank.example", json={"enabled": True})
    session_of("paul.project")
    user.refresh_from_db()
    assert user.is_active and not user.disabled_by_sso


def test_switching_off_an_account_that_is_off_already_changes_nothing(node: Node) -> None:
    user = User.objects.create(email="x@bank.example", is_active=False, password="!")
    obo.disable(user, now(), reason="again")
    user.refresh_from_db()
    assert not user.disabled_by_sso and not AuditEntry.objects.filter(action="user.disabled").exists()


def test_check_tries_every_api_in_the_callers_name(node: Node, browser: Browser, control: httpx.Client) -> None:
    me = Person(node.sign_in(browser, "paul.project").json()["token"])
    control.post("/faults", json={"consent_missing": [MANAGEMENT]})
    status, body = me.get("auth/sso/entra/check")
    assert status == 200 and body["user"] == "paul.project@bank.example"
    found = {row["resource"]: (row["ok"], row["code"]) for row in body["resources"]}
    expected = {GRAPH: (True, ""), KEY_VAULT: (True, ""), MANAGEMENT: (False, "ENTRA_CONSENT_MISSING")}
    assert found == expected


def test_a_sign_in_without_an_assertion_is_remembered_but_cannot_go_further(
    primary: None, entra_settings: EntraSettings, with_entra: Callable[..., Any], browser: Browser, control: httpx.Client
) -> None:
    """With a scope of another API in ENTRA_SCOPES the token is that API's, and Entra says so."""
    with with_entra(replace(entra_settings, scopes=("openid", "profile", "https://graph.microsoft.com/User.Read"))):
        assert Node().sign_in(browser, "paul.project").status_code == 200
        with pytest.raises(EntraError) as refused:
            obo.token_for(sso.entra(), Session.objects.get(), KEY_VAULT, now())
        assert refused.value.code == "ENTRA_ASSERTION_AUDIENCE"


@pytest.fixture
def integration(node: Node, sandbox: Sandbox, secret: str) -> Iterator[Integration]:
    """One of our application, that acts on behalf of users, for the NPR vault of the sandbox."""
    cloud = Cloud(
        authority_host=sandbox.base_url, instance_discovery=False, arm_endpoint=sandbox.base_url,
        sandbox_domain=sandbox.world.vault_domain, ca_bundle=sandbox.ca_file,
    )  # fmt: skip
    project = factories.project()
    made = Integration(
        project=project, environment=factories.environment_of(project), name="v", type="key_vault", provider="azure_key_vault",
        sealed_under="NPR",
    )  # fmt: skip
    vault = sandbox.world.vaults.named("kv-mazevault-npr")
    assert vault is not None
    config = {"vault_url": f"https://{vault.name}.{sandbox.world.vault_domain}", "auth_method": "on_behalf_of",
              "vault_id": vault.resource_id, "tenant_id": TENANT_ID, "client_id": CLIENT_ID, "client_secret": secret}  # fmt: skip
    with override_settings(MAZEVAULT=replace(settings.MAZEVAULT, azure=AzureNode(cloud))):
        with transaction.atomic():
            sealed_config.put(made, "NPR", config)
            made.save()
        yield made


def test_an_integration_of_our_application_is_tried_in_the_name_of_whoever_asks(
    session_of: Callable[..., Session], integration: Integration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paul's group may read the NPR vault and nothing more; Stella has no role there, and nobody else's is used for her."""
    monkeypatch.setattr(vault_questions, "in_a_thread", vault_questions.find_out)
    by = By(factories.principal())
    for user, failed in (("paul.project", []), ("stella.stranger", ["KEY_VAULT_ROLE_MISSING"] * 2)):
        trial = vault_ways.try_integration(integration, session_of(user), by, write=False)
        assert [stage["code"] for stage in trial.answer["stages"] if stage["outcome"] == "failed"] == failed, trial.answer
        assert vault_questions.went_well(trial) is not bool(failed) and trial.ran_at == "primary"


def test_who_has_access_is_asked_in_a_persons_own_name_and_shown_to_nobody_else(
    session_of: Callable[..., Session], integration: Integration
) -> None:
    by = By(factories.principal(name="ada"))
    found = vault_grants.access_of(integration, session_of("ada.admin"), by, fresh=False, now=now())
    assert any(grant["role"] == "Key Vault Secrets User" for grant in found.grants)
    with pytest.raises(AccessDenied):
        other = By(factories.principal(name="stella"))
        vault_grants.access_of(integration, session_of("stella.stranger"), other, fresh=False, now=now())
    assert [row.seen_by for row in AccessSnapshot.objects.all()] == [by.actor]
