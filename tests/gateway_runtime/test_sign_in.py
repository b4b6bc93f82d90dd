"""Sign-in with Entra at a gateway: Entra is the sandbox, the Primary the real one, and a gateway's word counts for nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.db import transaction
from django.test import Client, override_settings
from msgspec import structs

from accounts import resting, sealed_config, sso
from accounts.access import PrincipalKind
from accounts.authentication import rights_of_session
from accounts.entra_settings import EntraSettings
from accounts.models import EntraSession, Project, RoleGrant, Session, SignInAttempt, User
from accounts.sessions import hash_token
from accounts.tokens import PREFIX as API_TOKEN_PREFIX
from common import feed
from common.clock import boottime, now
from common.errors import AuthenticationInvalid
from common.models import AuditEntry
from gateway_runtime import current, personal, replica, sign_in, state
from gateway_runtime.models import NodeState, PersonalTokens, ReplicaPrincipal, ReplicaToken
from gateway_runtime.replica import Pulled
from gateways.models import ToldPrincipal
from gateways.replica_records import load
from integrations.azure.node_cloud import AzureNode
from integrations.models import Integration
from protocol import paths
from protocol.replica import ReplicaKind
from protocol.sign_in import EndSession, EntraProof, SessionOpened
from protocol.vocabulary import WriteOperation
from protocol.writes import WriteBody
from sandbox.azure.directory import CLIENT_ID, GRAPH, TENANT_ID, identifier
from sandbox.azure.server import Sandbox
from tests import factories
from tests.accounts.conftest import HTML, mapped
from tests.fakes.browser import Browser, values_of
from tests.fakes.gateway import FakeGateway
from tests.fakes.primary import RealPrimary
from tests.gateway_runtime.conftest import identity_of, start
from tests.gateways.vault_desk import cloud_of, opened_vault, sandbox_vault
from vault.encryption import SealBroken
from vault.models import Secret
from vault.ports import Origin, SecretChange
from vault.secrets import apply_change

OWN = "https://gw-npr.bank.example"
PAUL = "paul.project"


@dataclass
class Here:
    """A gateway of NPR, the Primary it belongs to, and one browser in front of it."""

    gateway: FakeGateway
    primary: RealPrimary
    secret: Secret
    browser: Browser
    client: Client

    def begin(self) -> str:
        return self.get("auth/sso/entra/login", **HTML)["Location"]

    def come_back(self, values: dict[str, str], **headers: str) -> Any:
        return self.client.get("/gw/api/v1/auth/sso/entra/callback", values, headers=headers, secure=True)

    def way_back(self, user: str = PAUL) -> dict[str, str]:
        return values_of(self.browser.pick(self.begin(), f"{user}@bank.example"))

    def sign_in(self, user: str = PAUL, **headers: str) -> Any:
        return self.come_back(self.way_back(user), **headers)

    def token(self, user: str = PAUL) -> dict[str, str]:
        """The header of somebody who has just signed in as a program does."""
        return {"Authorization": f"Bearer {self.sign_in(user).json()['token']}"}

    def proof(self, user: str = PAUL, **other: str) -> EntraProof:
        """What this gateway would send, for a compromised one to change."""
        values = self.way_back(user)
        made, _ = sso.redeem(values, self.client.cookies["__Host-mazevault-sign-in"].value, address="", now=now())
        proof = EntraProof(id_token=made.id_token, nonce=made.nonce, access_token=made.access, address="10.0.0.7")
        return structs.replace(proof, **other)

    def ask(self, proof: EntraProof) -> Any:
        return self.gateway.call(paths.SIGN_IN, proof, SessionOpened)

    def get(self, path: str, **headers: str) -> Any:
        return self.client.get(f"/gw/api/v1/{path}", headers=headers, secure=True)

    def post(self, path: str, **headers: str) -> Any:
        return self.client.post(f"/gw/api/v1/{path}", "", "application/json", headers=headers, secure=True)

    def put(self, **headers: str) -> Any:
        body = {"value": "two"}
        path = f"/gw/api/v1/secrets/{self.secret.id}"
        return self.client.put(path, body, content_type="application/json", headers=headers, secure=True)

    def value(self, **headers: str) -> tuple[int, str]:
        answer = self.get(f"secrets/{self.secret.id}", **headers)
        return answer.status_code, answer.json().get("value") or answer.json()["code"]

    def pull(self) -> None:
        while replica.pull(self.primary, "NPR") is Pulled.MORE:
            pass


@pytest.fixture
def here(
    as_gateway: None, npr: tuple[FakeGateway, FakeGateway], entra_settings: EntraSettings, sandbox: Sandbox, browser: Browser,
    monkeypatch: pytest.MonkeyPatch,
) -> Here:  # fmt: skip
    callback = f"{OWN}/api/v1/auth/sso/entra/callback"
    registration = sandbox.world.directory.registration
    registration.redirect_uris = (*registration.redirect_uris, callback)
    own = replace(entra_settings, redirect_uri=callback, frontend_url=f"{OWN}/console/")
    monkeypatch.setattr(settings, "MAZEVAULT", replace(settings.MAZEVAULT, entra=own))
    gateway = npr[0]
    NodeState.objects.all().delete()
    state.this_life()
    NodeState.objects.update(
        generation=gateway.generation, highest_epoch=gateway.epoch, assigned_role="active", assigned_epoch=gateway.epoch
    )
    primary = RealPrimary(gateway)
    start(identity_of(gateway.keys, gateway.generation, gateway.id), primary)
    dev = factories.environment_of(project := factories.project())
    wish = SecretChange(WriteOperation.CREATE, project.id, project.id, dev.id, "db", None, WriteBody(value="one"))
    apply_change(wish, Origin("user:admin"), None, now())
    made = Here(gateway, primary, Secret.objects.get(id=project.id), browser, Client(raise_request_exception=False))
    made.pull()
    return made


@pytest.fixture
def paul_may() -> None:
    """Everybody of Paul's group reads and writes secrets."""
    mapped("secret_manager", identifier("GRP_MZV_PAYMENTS"))


def paul() -> User:
    return User.objects.get(email="paul.project@bank.example")


def code_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def refusals() -> list[str]:
    return [row.details["reason"] for row in AuditEntry.objects.filter(action="sso_login_failed").order_by("id")]


def test_the_very_next_request_is_answered(here: Here, paul_may: None) -> None:
    at = NodeState.objects.get().replica_position
    answer = here.sign_in()
    assert answer.status_code == 200, answer.content
    body = answer.json()
    assert body["token"] == body["access_token"] and body["user"]["role"] == "secret_manager"
    assert (body["user"]["id"], body["user"]["email"]) == (str(paul().id), "paul.project@bank.example")
    assert NodeState.objects.get().replica_position == at, "no page of changes was needed"
    assert here.value(Authorization=f"Bearer {body['token']}") == (200, "one")
    assert here.put(Authorization=f"Bearer {body['token']}").status_code == 200, "a header needs no second proof"


def test_a_browser_goes_to_the_gateways_own_page_with_a_cookie_and_needs_the_second_proof(here: Here, paul_may: None) -> None:
    answer = here.sign_in(**HTML)
    assert (answer.status_code, answer["Location"]) == (302, f"{OWN}/console/")
    cookie = answer.cookies["__Host-mazevault"]
    assert cookie["secure"] and cookie["httponly"] and cookie["samesite"] == "Strict" and b"mzv_" not in answer.content
    assert here.value() == (200, "one")
    assert code_of(here.put()) == (403, "CSRF_INVALID")
    assert code_of(here.put(**{"X-CSRF-Token": "0" * 64})) == (403, "CSRF_INVALID")
    session = here.get("auth/session").json()
    assert session["user"]["email"] == "paul.project@bank.example" and session["expires_at"]
    assert here.put(**{"X-CSRF-Token": session["csrf_token"]}).json()["version"] == 2


def test_the_browser_is_sent_to_entra_with_the_gateways_own_callback(here: Here) -> None:
    values = values_of(here.begin())
    assert values["redirect_uri"] == f"{OWN}/api/v1/auth/sso/entra/callback"
    assert values["code_challenge_method"] == "S256" and values["nonce"] and SignInAttempt.objects.count() == 1


def test_both_nodes_write_what_happened(here: Here, paul_may: None) -> None:
    here.sign_in()
    rows = list(AuditEntry.objects.order_by("-id").values_list("action", "actor")[:3])
    user = f"user:{paul().id}"
    assert rows == [("sso_login", user), ("gateway.session.opened", f"gateway:{here.gateway.id}"), ("sso_login", user)]


def test_a_session_of_npr_counts_neither_at_the_primary_nor_in_pro(here: Here, paul_may: None) -> None:
    token = here.sign_in().json()["token"]
    with pytest.raises(AuthenticationInvalid, match="opened at a gateway"):
        rights_of_session(token, now())
    thing = (ReplicaKind.PRINCIPAL, paul().id)
    held = {code: load(code, [thing], now()).by_thing.get(thing) for code in ("NPR", "PRO")}
    assert [one.hash for one in held["NPR"].tokens] == [hash_token(token)] and held["PRO"] is None
    assert not EntraSession.objects.exists(), "tokens for Azure do not travel"


def test_a_gateway_hears_of_the_grants_of_its_own_environment_only(here: Here) -> None:
    here.sign_in()
    for slug in ("dev", "prod"):
        RoleGrant.objects.create(
            user=paul(), role=mapped_role("secret_manager"), organization=here.secret.project.organization, environment=slug
        )
    opened = here.ask(here.proof())
    assert isinstance(opened, SessionOpened), opened.content
    assert [grant.environment for grant in opened.principal.grants] == ["dev"]
    assert all(name.startswith("secrets:") for grant in opened.principal.grants for name in grant.permissions)
    assert ToldPrincipal.objects.filter(environment_id="NPR", principal=paul().id).exists()


def mapped_role(name: str) -> Any:
    from accounts.models import Role

    return Role.objects.get(name=name)


@pytest.mark.parametrize("slug", ["", "prod"], ids=["nothing", "only production"])
def test_who_has_nothing_in_the_environment_is_told_so_and_gets_no_session(here: Here, slug: str) -> None:
    here.sign_in()
    if slug:
        owner = here.secret.project.organization
        RoleGrant.objects.create(user=paul(), role=mapped_role("secret_manager"), organization=owner, environment=slug)
    answer = here.sign_in()
    assert code_of(answer) == (403, "SSO_NOTHING_HERE") and "NPR" in answer.json()["error"]
    assert Session.objects.count() == 2 and not Session.objects.filter(revoked_at=None).exists()
    assert not ReplicaPrincipal.objects.filter(id=paul().id).exists() and not ToldPrincipal.objects.exists()


def test_roles_lost_in_entra_are_lost_by_signing_in_here(here: Here, paul_may: None, control: httpx.Client) -> None:
    older = here.token()
    control.patch("/users/paul.project@bank.example", json={"groups": []})
    assert code_of(here.sign_in()) == (403, "SSO_NOTHING_HERE")
    here.pull()
    assert here.value(**older)[0] == 401 and paul().role == "viewer"


def test_without_the_primary_nobody_is_signed_in_and_who_is_stays(here: Here, paul_may: None) -> None:
    older = here.token()
    here.primary.down = True
    answer = here.sign_in()
    assert code_of(answer) == (503, "PRIMARY_NEEDED") and int(answer["Retry-After"]) > 0
    assert "cannot reach the Primary" in answer.json()["error"]
    page = here.sign_in(**HTML)
    assert page.status_code == 503 and b"PRIMARY_NEEDED" in page.content and "__Host-mazevault" not in page.cookies
    assert set(refusals()) == {"PRIMARY_NEEDED"} and Session.objects.count() == 1
    assert here.value(**older) == (200, "one")


def test_a_gateway_that_the_primary_refuses_says_that_the_primary_is_needed(here: Here, paul_may: None) -> None:
    from gateways.models import Gateway

    Gateway.objects.filter(id=here.gateway.id).update(banned_at=now())
    answer = here.sign_in()
    assert code_of(answer) == (503, "PRIMARY_NEEDED") and "GATEWAY_BANNED" in answer.json()["error"]


def test_a_primary_without_entra_is_named(here: Here, paul_may: None, monkeypatch: pytest.MonkeyPatch) -> None:
    call = here.primary.call
    off = replace(settings.MAZEVAULT, entra=replace(settings.MAZEVAULT.entra, enabled=False))

    def switched_off(*message: Any, **more: Any) -> Any:
        with override_settings(MAZEVAULT=off):
            return call(*message, **more)

    monkeypatch.setattr(here.primary, "call", switched_off)
    answer = here.sign_in()
    assert code_of(answer) == (503, "PRIMARY_NEEDED") and "ENTRA_DISABLED" in answer.json()["error"]


def test_a_primary_of_another_life_is_not_believed(here: Here, paul_may: None) -> None:
    NodeState.objects.update(replica_generation="00000000-0000-4000-8000-000000000000")
    answer = here.sign_in()
    assert code_of(answer) == (503, "PRIMARY_NEEDED") and "another life" in answer.json()["error"]
    assert not ReplicaToken.objects.exists()


def test_before_it_is_registered_a_gateway_takes_no_sign_in(here: Here, paul_may: None) -> None:
    values = here.way_back()
    current.supervisor = None
    assert code_of(here.come_back(values)) == (503, "NOT_ACTIVE")


def test_what_the_primary_says_of_the_person_is_passed_on(here: Here, paul_may: None) -> None:
    here.sign_in()
    User.objects.filter(pk=paul().pk).update(is_active=False)
    assert code_of(here.sign_in()) == (403, "ACCOUNT_DISABLED")
    assert set(refusals()) == {"ACCOUNT_DISABLED"}, "once a minute, and both nodes share a database here"


def test_a_sign_in_comes_back_once_and_to_its_own_browser(here: Here, paul_may: None) -> None:
    values, other = here.way_back(), Client(raise_request_exception=False)
    stolen = other.get("/gw/api/v1/auth/sso/entra/callback", values, secure=True)
    assert code_of(stolen) == (401, "SSO_OTHER_BROWSER")
    jar = here.client.cookies.output(header="", sep=";")
    assert here.come_back(values).status_code == 200
    here.client.cookies.load(jar)
    assert code_of(here.come_back(values)) == (401, "SSO_REPLAYED")


def test_one_sign_in_gives_a_gateway_one_session(here: Here, paul_may: None) -> None:
    proof = here.proof()
    wire = here.gateway.wire(proof, here.gateway.header(paths.SIGN_IN))
    assert here.gateway.post(paths.SIGN_IN, wire).status_code == 200
    assert code_of(here.gateway.post(paths.SIGN_IN, wire)) == (409, "REPLAYED"), "the same message"
    assert code_of(here.ask(proof)) == (401, "SSO_REPLAYED"), "the same sign-in in a new one"
    assert Session.objects.count() == 1


Spoil = Callable[[EntraProof], dict[str, str]]
SPOILED: dict[str, tuple[Spoil, str]] = {
    "another nonce": (lambda proof: {"nonce": "n" * 43}, "SSO_TOKEN_NONCE"),
    "signature of somebody else": (
        lambda proof: {"id_token": proof.id_token[:-8] + ("AAAAAAAA" if proof.id_token[-8:] != "AAAAAAAA" else "BBBBBBBB")},
        "SSO_TOKEN_SIGNATURE",
    ),
    "no token at all": (lambda proof: {"id_token": "x"}, "SSO_TOKEN_MALFORMED"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_the_primary_believes_entra_and_not_the_gateway(here: Here, paul_may: None, name: str) -> None:
    spoil, code = SPOILED[name]
    proof = here.proof()
    assert code_of(here.ask(structs.replace(proof, **spoil(proof)))) == (401, code)
    assert not Session.objects.exists() and not User.objects.filter(email__startswith="paul").exists() and len(refusals()) == 1
    assert isinstance(here.ask(proof), SessionOpened), "the true one was not used up"


def test_too_many_groups_are_read_from_graph_by_the_primary(here: Here, sandbox: Sandbox) -> None:
    mapped("secret_manager", identifier("GRP_BANK_229"))
    body = here.sign_in("olga.overage").json()
    assert body["user"]["role"] == "secret_manager" and here.value(Authorization=f"Bearer {body['token']}") == (200, "one")


def test_groups_of_somebody_else_are_not_taken_for_ones_own(here: Here, control: httpx.Client) -> None:
    """A gateway holds tokens of several people; it may not lend one the groups of another."""
    mapped("admin", identifier("GRP_BANK_229"))
    control.post("/faults", json={"group_overage": True})
    of_olga, of_paul = here.proof("olga.overage"), here.proof()
    assert of_olga.access_token and of_paul.access_token
    lent = structs.replace(of_paul, access_token=of_olga.access_token)
    assert code_of(here.ask(lent)) == (401, "SSO_TOKEN_PERSON")
    assert code_of(here.ask(structs.replace(here.proof(), access_token=""))) == (401, "SSO_TOKEN_MALFORMED")
    assert not Session.objects.exists()


def test_when_graph_does_not_list_the_groups_cause_and_fix_reach_the_person(here: Here, control: httpx.Client) -> None:
    values = here.way_back("olga.overage")
    control.post("/faults", json={"consent_missing": [GRAPH]})
    answer = here.come_back(values)
    assert code_of(answer) == (403, "ENTRA_CONSENT_MISSING") and "Grant admin consent" in answer.json()["details"]


def test_the_access_token_travels_only_when_groups_must_be_read(here: Here) -> None:
    assert here.proof().access_token == "" and "id_token" not in repr(sso.Proof("a", "b", "c"))


def test_a_session_revoked_at_the_primary_is_gone_with_the_next_page(here: Here, paul_may: None) -> None:
    token = here.token()
    here.pull()
    assert here.value(**token) == (200, "one"), "the page brings the same record"
    Session.objects.update(revoked_at=now())
    feed.note(["NPR"], ReplicaKind.PRINCIPAL, paul().id)
    here.pull()
    assert here.value(**token)[0] == 401


def test_signing_out_ends_the_session_at_both_nodes(here: Here, paul_may: None) -> None:
    here.sign_in(**HTML)
    assert code_of(here.post("auth/logout")) == (403, "CSRF_INVALID"), "a cookie alone changes nothing"
    proof = here.get("auth/session").json()["csrf_token"]
    answer = here.post("auth/logout", **{"X-CSRF-Token": proof})
    assert answer.status_code == 204 and answer.cookies["__Host-mazevault"].value == ""
    assert Session.objects.get().revoked_at and not ReplicaToken.objects.exists()
    here.pull()
    assert here.value()[0] == 401
    rows = AuditEntry.objects.filter(action="auth.logout").order_by("id")
    assert [row.details for row in rows] == [{}, {"ended_at_primary": True}]


def test_signing_out_without_the_primary_says_what_is_left(here: Here, paul_may: None) -> None:
    token = here.token()
    here.primary.down = True
    answer = here.post("auth/logout", **token)
    body = answer.json()
    assert (answer.status_code, body["ended_here"], body["ended_at_primary"]) == (202, True, False)
    assert body["expires_at"] and "Primary cannot be reached" in body["message"]
    assert here.value(**token)[0] == 401 and Session.objects.get().revoked_at is None


def test_nobody_waits_long_for_a_pull_that_hangs(here: Here, paul_may: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of people are few; a Primary that does not answer must not take them all."""
    token = here.token()
    monkeypatch.setattr(sign_in, "COPY_SECONDS", 0.05)
    pulls, over = threading.Event(), threading.Event()

    def pull() -> None:
        with replica.pulling:
            pulls.set()
            over.wait(30)

    hanging = threading.Thread(target=pull)
    hanging.start()
    pulls.wait(10)
    try:
        began = time.monotonic()
        assert here.post("auth/logout", **token).status_code == 204 and not ReplicaToken.objects.exists()
        assert code_of(here.sign_in()) == (503, "PRIMARY_NEEDED")
        assert time.monotonic() - began < 20
    finally:
        over.set()
        hanging.join()


def test_nobody_else_waits_while_the_primary_is_told_that_a_session_ends(
    here: Here, paul_may: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, free = here.token(), list[bool]()

    def told(wish: EndSession) -> bool:
        with ThreadPoolExecutor(1) as others:
            free.append(others.submit(replica.pulling.acquire, timeout=1).result())
        if free[0]:
            replica.pulling.release()
        return True

    monkeypatch.setattr(sign_in, "_end_at_primary", told)
    assert here.post("auth/logout", **token).status_code == 204 and free == [True]


def test_signing_out_of_a_session_that_is_over_at_the_primary_is_no_failure(here: Here, paul_may: None) -> None:
    token = here.token()
    Session.objects.update(revoked_at=now())
    assert here.post("auth/logout", **token).status_code == 204


def test_an_api_token_has_no_session_to_end(here: Here, paul_may: None) -> None:
    here.sign_in()
    text = f"{API_TOKEN_PREFIX}of-paul"
    holder = ReplicaPrincipal.objects.get(id=paul().id, kind=PrincipalKind.USER)
    ReplicaToken.objects.create(hash=hash_token(text), principal=holder, expires_at=now() + timedelta(hours=1))
    assert here.post("auth/logout", Authorization=f"Bearer {text}").status_code == 403
    assert ReplicaToken.objects.filter(hash=hash_token(text)).exists()


def test_a_gateway_ends_only_sessions_whose_token_it_was_shown(here: Here, paul_may: None) -> None:
    here.sign_in()
    kept = Session.objects.get()
    answer = here.gateway.call(paths.SIGN_OUT, EndSession(token=kept.token_hash, address=""), SessionOpened)
    assert code_of(answer) == (401, "AUTH_INVALID") and Session.objects.get().revoked_at is None


def test_sign_ins_never_finished_are_forgotten_here_too(here: Here) -> None:
    here.begin()
    SignInAttempt.objects.update(expires_at=now() - timedelta(seconds=1))
    assert current.registered().old_sign_ins_step() > 0 and not SignInAttempt.objects.exists()


def test_a_password_still_needs_the_primary(here: Here) -> None:
    assert code_of(here.post("auth/login")) == (503, "PRIMARY_NEEDED")


class TestInTheirOwnName:
    """A project whose vault is reached on behalf of people: the vault decides by the role of whoever signed in here."""

    @pytest.fixture
    def vaulted(self, here: Here, sandbox: Sandbox, secret: str, paul_may: None) -> Iterator[dict[str, Any]]:
        url = sandbox_vault(sandbox, "kv-mazevault-npr")
        with override_settings(MAZEVAULT=replace(settings.MAZEVAULT, azure=AzureNode(cloud_of(sandbox), (url,)))):
            project, dev = here.secret.project, here.secret.environment
            Project.objects.filter(id=project.id).update(storage="key_vault")
            made = Integration(
                project=project, environment=dev, name="v", type="key_vault", provider="azure_key_vault", sealed_under="NPR"
            )
            application = {"tenant_id": TENANT_ID, "client_id": CLIENT_ID, "client_secret": secret}
            with transaction.atomic():
                sealed_config.put(made, "NPR", {"vault_url": url, "auth_method": "on_behalf_of", **application})
                made.save()
                opened_vault(url, project)
                feed.note(["NPR"], ReplicaKind.PROJECT, project.id)
            mapped("secret_manager", "APP_MZV_PRO_ADMIN")
            here.pull()
            node = current.registered().node
            node.take_lease(epoch=here.gateway.epoch, ttl=45.0, sent_boot=boottime(), sent_wall=time.time())
            yield {"project_id": str(project.id), "environment": "dev", "key": "OWN", "value": "one"}

    def test_each_does_what_the_vault_allows_them(self, here: Here, vaulted: dict[str, Any], sandbox: Sandbox) -> None:
        ada = here.token("ada.admin")
        made = here.client.post("/gw/api/v1/secrets", vaulted, content_type="application/json", headers=ada, secure=True)
        assert made.status_code == 201, made.content
        assert sandbox.world.vaults.journal[-1].caller_name == "ada.admin@bank.example"
        path = f"secrets/{made.json()['id']}"
        paul = here.token()
        assert here.get(path, **paul).json()["value"] == "one"
        changed = here.client.put(
            f"/gw/api/v1/{path}", {"value": "2"}, content_type="application/json", headers=paul, secure=True
        )
        assert (changed.status_code, changed.json()["code"]) == (403, "KEY_VAULT_ROLE_MISSING")
        assert len(sandbox.world.vaults.journal) == 1

    def test_the_tokens_rest_sealed_and_go_with_the_session(self, here: Here, vaulted: dict[str, Any]) -> None:
        paul = here.token()
        row = PersonalTokens.objects.get()
        with pytest.raises(SealBroken):
            resting.opened(personal.place(PersonalTokens(hash="0" * 64, version=row.version)), row.sealed_tokens)
        here.post("auth/logout", **paul)
        assert not PersonalTokens.objects.exists()

    def test_a_session_that_began_elsewhere_is_told_to_sign_in_here(self, here: Here, vaulted: dict[str, Any]) -> None:
        ada = here.token("ada.admin")
        PersonalTokens.objects.all().delete()
        made = here.client.post("/gw/api/v1/secrets", vaulted, content_type="application/json", headers=ada, secure=True)
        assert (made.status_code, made.json()["code"]) == (403, "ENTRA_SESSION_NEEDED")
