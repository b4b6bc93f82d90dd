"""A bootstrap token becomes one gateway, once, with nothing but what our own rows say (DESIGN §6, I11, I12, I14)."""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from django.conf import settings
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from msgspec import structs

from accounts import rates
from common.models import AuditEntry
from gateway_runtime.identity import Keys
from gateways.models import BootstrapTokenRow, CertifiedKey, Gateway, GatewayCertificate
from protocol import paths
from protocol.bootstrap_token import PREFIX, unpack
from protocol.certificates import build_csr
from tests.conftest import Person
from tests.fakes.gateway import FakeGateway

pytestmark = pytest.mark.usefixtures("primary")


def request_for(key: Any, *, ca: bool = False, names: tuple[str, ...] = ()) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]))
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def refusal(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def tampered_signature(pem: str) -> str:
    der = bytearray(base64.b64decode("".join(pem.strip().splitlines()[1:-1])))
    der[-3] ^= 1
    return (
        "-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(bytes(der)).decode() + "-----END CERTIFICATE REQUEST-----\n"
    )


class TestToken:
    def test_the_seeds_body_gives_a_token_for_npr_and_the_role_primary(self, admin: Person) -> None:
        status, body = admin.post("gateways/bootstrap", {"name": "azure-gateway-gwc-01"})
        assert status == 201
        assert (body["name"], body["environment"], body["role"]) == ("azure-gateway-gwc-01", "NPR", "primary")
        assert (body["standby_mode"], body["state"]) == ("warm", "unused")
        assert len(body["token"].encode()) < 2048
        assert unpack(body["token"]).pin

    def test_only_its_hash_is_kept_and_the_list_shows_no_secret(self, admin: Person) -> None:
        _, body = admin.post("gateways/bootstrap", {"name": "gw-1"})
        secret = unpack(body["token"]).secret
        row = json.dumps(BootstrapTokenRow.objects.values().get(), default=str)
        _, listed = admin.get("gateways/bootstrap")
        assert secret not in row and secret not in json.dumps(listed)
        assert [item["state"] for item in listed] == ["unused"]

    @pytest.mark.parametrize(
        ("wish", "field"),
        [
            ({}, "name"), ({"name": ""}, "name"), ({"name": 7}, "name"), ({"name": None}, "name"), ({"name": "A B"}, "name"),
            ({"name": "x" * 64}, "name"), ({"name": "x" * 10_000}, "name"), ({"name": "a\0b"}, "name"), ({"name": "é"}, "name"),
            ({"name": "gw", "role": "boss"}, "role"), ({"name": "gw", "standby_mode": "hot"}, "standby_mode"),
            ({"name": "gw", "standby_mode": "cold"}, "standby_mode"), ({"name": "gw", "ttl_hours": 73}, "ttl_hours"),
            ({"name": "gw", "ttl_hours": 0}, "ttl_hours"), ({"name": "gw", "ttl_hours": "soon"}, "ttl_hours"),
            *(({"name": "gw", "server_names": odd}, "server_names") for odd in (["a b"], "a", ["999.1.1.1"], ["a:b"], ["a..b"])),
        ],
    )  # fmt: skip
    def test_a_bad_wish_names_the_field_and_makes_nothing(self, admin: Person, wish: dict[str, Any], field: str) -> None:
        status, body = admin.post("gateways/bootstrap", wish)
        assert status == 400 and body["error"].startswith(field), body
        assert not BootstrapTokenRow.objects.exists()

    def test_a_gateway_gets_no_name_of_the_primary(self, admin: Person, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its certificate leads to the root people check the Primary with."""
        own = ("vault.bank.example", "localhost", "10.0.0.7")
        there = replace(settings.MAZEVAULT, domain="Vault.bank.example", server_names=own,
                        advertised_urls=("https://gw-entry.bank.example:8443",))  # fmt: skip
        monkeypatch.setattr(settings, "MAZEVAULT", there)
        for name in ("vault.bank.example", "VAULT.bank.example", "10.0.0.7", "gw-entry.bank.example"):
            status, body = admin.post("gateways/bootstrap", {"name": "gw", "server_names": ["gw.bank.example", name]})
            assert status == 400 and "is a name of the Primary" in body["error"], name
        assert admin.post("gateways/bootstrap", {"name": "vault.bank.example"})[0] == 400
        assert admin.post("gateways/bootstrap", {"name": "gw"})[0] == 201
        assert BootstrapTokenRow.objects.get().server_names == ["gw"], "names of the own machine are the Primary's here too"

    def test_where_all_stand_on_one_machine_its_names_are_given_by_default(self, admin: Person) -> None:
        assert admin.post("gateways/bootstrap", {"name": "gw"})[0] == 201
        assert BootstrapTokenRow.objects.get().server_names == ["gw", "localhost", "127.0.0.1"]

    def test_an_unknown_environment_is_404(self, admin: Person) -> None:
        assert admin.post("gateways/bootstrap", {"name": "gw", "environment": "nowhere"})[0] == 404

    def test_a_replacement_for_a_filled_role_can_be_prepared_but_registers_only_when_it_is_free(self, admin: Person) -> None:
        old = FakeGateway("gw-npr-primary").enrol()
        new = FakeGateway("gw-npr-new")
        _, body = admin.post("gateways/bootstrap", {"name": new.name})
        assert refusal(new.register(body["token"])) == (409, "ROLE_FILLED")
        assert BootstrapTokenRow.objects.get(name=new.name).used_at is None
        assert admin.post(f"gateways/{old.id}/decommission")[0] == 200
        assert new.register(body["token"]).name == new.name

    def test_revoked_expired_and_foreign_tokens_are_refused_by_name(self, admin: Person) -> None:
        gateway = FakeGateway("gw-1")
        _, body = admin.post("gateways/bootstrap", {"name": "gw-1"})
        assert admin.delete(f"gateways/bootstrap/{body['id']}")[0] == 204
        assert refusal(gateway.register(body["token"])) == (403, "TOKEN_REVOKED")
        token = gateway.new_token()
        BootstrapTokenRow.objects.filter(used_at=None).update(expires_at=Now() - timedelta(seconds=1))
        assert refusal(gateway.register(token)) == (403, "TOKEN_EXPIRED")
        token = gateway.new_token()
        BootstrapTokenRow.objects.filter(id=unpack(token).id).update(secret_hash="0" * 64)
        assert refusal(gateway.register(token)) == (403, "TOKEN_UNKNOWN")
        assert not Gateway.objects.exists()

    def test_revoking_is_refused_once_it_was_used_and_unknown_ids_are_404(self, admin: Person) -> None:
        gateway = FakeGateway("gw-1").enrol()
        used = unpack(gateway.token).id
        assert admin.delete(f"gateways/bootstrap/{used}")[0] == 409
        assert admin.delete(f"gateways/bootstrap/{uuid.uuid4()}")[0] == 404
        assert admin.delete("gateways/bootstrap/not-an-id")[0] == 404

    @pytest.mark.parametrize(
        ("claim", "variable"),
        [({"name": "gw-2"}, "GATEWAY_NAME"), ({"environment": "PRO"}, "MAZEVAULT_GATEWAY_ENVIRONMENT"),
         ({"role": "dr-standby"}, "MAZEVAULT_GATEWAY_ROLE")],
    )  # fmt: skip
    def test_a_gateway_that_claims_something_else_is_told_which_variable_to_change(
        self, claim: dict[str, str], variable: str
    ) -> None:
        gateway = FakeGateway("gw-1")
        answer = gateway.register(gateway.new_token(), **claim)
        assert refusal(answer) == (409, "TOKEN_BOUND_ELSEWHERE")
        assert variable in answer.json()["error"]
        assert BootstrapTokenRow.objects.get().used_at is None

    @pytest.mark.parametrize(
        ("first", "second"),
        [({}, {"environment": "PRO"}), ({"role": "dr-standby"}, {"role": "primary"})],
        ids=["another environment", "another role"],
    )
    def test_a_token_made_for_something_else_does_not_take_over_a_gateway_of_the_same_name(
        self, admin: Person, first: dict[str, str], second: dict[str, str]
    ) -> None:
        """The seed's own line makes one for NPR; the operator notices, makes the right one and forgets the first."""
        stale = admin.post("gateways/bootstrap", {"name": "gw-1", **first})[1]["token"]
        rightful = FakeGateway("gw-1", **second).enrol()
        thief = FakeGateway("gw-1", **first)
        assert refusal(thief.register(stale)) == (409, "TOKEN_BOUND_ELSEWHERE")
        row = Gateway.objects.get()
        assert (row.environment_id, row.role) == (rightful.environment, rightful.role) and row.generation == rightful.generation
        assert BootstrapTokenRow.objects.get(id=unpack(stale).id).used_at is None and rightful.heartbeat().epoch >= 0

    def test_a_generation_of_an_earlier_life_is_named_as_what_it_is(self) -> None:
        former = FakeGateway("gw-1").enrol()
        FakeGateway("gw-1").enrol()
        again = FakeGateway("gw-1", generation=former.generation)
        assert refusal(again.register(again.new_token())) == (409, "GENERATION_REUSED")


class TestStrangeTokens:
    @pytest.mark.parametrize(
        "change",
        [
            {"secret": "\ud800" * 43},
            {"secret": "x" * 300},
            {"expires": True},
            {"urls": ["https://"]},
            {"pin": "sha256:0\n"},
            {"id": "nobody"},
            {"urls": "https://a"},
        ],
    )
    def test_are_refused_as_damaged_and_never_break_the_server(self, change: dict[str, Any]) -> None:
        gateway = FakeGateway("gw-1")
        token = gateway.new_token()
        body = json.loads(base64.urlsafe_b64decode(token.removeprefix(PREFIX) + "=="))
        forged = PREFIX + base64.urlsafe_b64encode(json.dumps({**body, **change}).encode()).decode().rstrip("=")
        header = structs.replace(gateway.header(paths.REGISTER), sender=f"token:{body['id']}", certificate="", environment="")
        wish = structs.replace(gateway.registration(token), token=forged[:2048])
        answer = gateway.send(paths.REGISTER, wish, header=header, peer=None)
        assert refusal(answer) == (400, "TOKEN_INVALID")
        assert gateway.register(token).name == "gw-1"


class TestCertificate:
    def test_carries_gateway_and_environment_and_nothing_of_the_request(self) -> None:
        gateway = FakeGateway("gw-1")
        wish = request_for(gateway.keys.client, names=("evil.example.com",))
        assert gateway.register(gateway.new_token(), csr=wish).gateway_id
        leaf = x509.load_pem_x509_certificate(gateway.certificate.encode())
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [name.value for name in names] == [f"mzv://default/NPR/gateway/{gateway.id}"]
        assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
        entry = AuditEntry.objects.get(action="gateway.enrolled")
        assert entry.details["ignored_extensions"]

    @pytest.mark.parametrize(
        ("name", "make"),
        [
            ("64 KiB", lambda: "-----BEGIN CERTIFICATE REQUEST-----\n" + "A" * 65536 + "\n-----END CERTIFICATE REQUEST-----\n"),
            ("RSA-1024", lambda: request_for(rsa.generate_private_key(65537, 1024))),
            ("CA:TRUE", lambda: request_for(ec.generate_private_key(ec.SECP256R1()), ca=True)),
            ("weak curve", lambda: request_for(ec.generate_private_key(ec.SECP192R1()))),
            ("not a request", lambda: "hello"),
            ("empty", lambda: ""),
            ("no proof of possession", lambda: tampered_signature(request_for(ec.generate_private_key(ec.SECP256R1())))),
        ],
    )  # fmt: skip
    def test_a_bad_request_is_refused_and_the_token_stays_good(self, name: str, make: Any) -> None:
        gateway = FakeGateway("gw-1")
        token = gateway.new_token()
        answer = gateway.register(token, csr=make())
        assert answer.status_code in (400, 413), answer.content
        assert answer.json().keys() <= {"error", "code", "details"}
        assert not Gateway.objects.exists() and not GatewayCertificate.objects.exists()
        assert gateway.register(token).name == "gw-1"

    def test_the_key_of_another_gateway_is_refused(self) -> None:
        first = FakeGateway("gw-1").enrol()
        second = FakeGateway("gw-2", role="dr-standby")
        second.keys = Keys(first.keys.client, second.keys.server, second.keys.signing, second.keys.encryption)
        token = second.new_token()
        assert refusal(second.register(token)) == (400, "KEY_OF_ANOTHER")
        assert CertifiedKey.objects.count() == 2
        second.keys = Keys.generate()
        assert second.register(token).name == "gw-2"

    def test_one_key_for_client_and_server_is_refused(self) -> None:
        gateway = FakeGateway("gw-1")
        answer = gateway.register(gateway.new_token(), server_csr=build_csr(gateway.keys.client, "x"))
        assert refusal(answer) == (400, "VALIDATION_ERROR")


class TestRedeemingAgain:
    def test_the_same_key_gets_the_same_certificate_after_a_lost_answer(self) -> None:
        gateway = FakeGateway("gw-1").enrol()
        before = gateway.certificate
        assert gateway.register(gateway.token).certificate == before
        assert GatewayCertificate.objects.count() == 1

    def test_but_not_after_ten_minutes(self) -> None:
        gateway = FakeGateway("gw-1").enrol()
        BootstrapTokenRow.objects.update(used_at=Now() - timedelta(minutes=11))
        assert refusal(gateway.register(gateway.token)) == (409, "TOKEN_USED")

    def test_another_key_is_refused_raises_an_alarm_and_holds_the_gateway(self, admin: Person) -> None:
        gateway = FakeGateway("gw-1").enrol()
        thief = FakeGateway("gw-1")
        assert refusal(thief.register(gateway.token)) == (409, "TOKEN_USED")
        assert AuditEntry.objects.get(action="gateway.bootstrap.reused").severity == "critical"
        row = Gateway.objects.get()
        assert row.held_at and GatewayCertificate.objects.count() == 1
        assert gateway.heartbeat().assigned_role
        assert admin.post(f"gateways/{row.id}/release", {"reason": "looked into"})[1]["held_at"] is None

    def test_a_token_of_the_past_does_no_harm_in_anybodys_hands_and_is_in_the_audit(self) -> None:
        before = FakeGateway("gw-1").enrol()
        gateway = FakeGateway("gw-1").enrol()
        for attempt in range(3):
            assert refusal(FakeGateway("gw-1").register(before.token)) == (409, "TOKEN_USED"), attempt
        assert Gateway.objects.get().held_at is None and gateway.heartbeat().assigned_role
        told = AuditEntry.objects.get(action="gateway.bootstrap.reused")
        assert (told.details["held"], told.details["name"], told.severity) == (False, "gw-1", "warning")
        BootstrapTokenRow.objects.filter(used_at__isnull=False).update(expires_at=Now() - timedelta(seconds=1))
        assert refusal(FakeGateway("gw-1").register(gateway.token)) == (409, "TOKEN_USED")
        assert Gateway.objects.get().held_at is None, "nobody could have redeemed it any more"

    def test_a_new_token_that_nobody_used_yet_changes_nothing(self) -> None:
        gateway = FakeGateway("gw-1").enrol()
        FakeGateway("gw-1").new_token()
        assert refusal(FakeGateway("gw-1").register(gateway.token)) == (409, "TOKEN_USED")
        assert Gateway.objects.get().held_at

    def test_a_new_token_for_the_name_revokes_the_old_certificate_and_begins_a_new_generation(self) -> None:
        old = FakeGateway("gw-1").enrol()
        new = FakeGateway("gw-1").enrol()
        assert new.id == old.id
        assert refusal(old.heartbeat()) == (403, "CERTIFICATE_REVOKED")
        assert new.heartbeat().assigned_role
        assert Gateway.objects.get().generation == new.generation

    def test_the_route_is_locked_before_the_gateway_as_in_every_move(self) -> None:
        FakeGateway("gw-npr-primary").enrol()
        again = FakeGateway("gw-npr-primary")
        token = again.new_token()
        with CaptureQueriesContext(connection) as seen:
            again.register(token)
        locks = [query["sql"].split("FROM")[1].split()[0] for query in seen if "FOR UPDATE" in query["sql"]]
        locks = [table.strip('"') for table in locks if table.strip('"') in ("gateways_route", "gateways_gateway")]
        assert locks == ["gateways_route", "gateways_gateway"]

    def test_a_name_of_another_role_is_taken(self, admin: Person) -> None:
        FakeGateway("gw-1").enrol()
        status, body = admin.post("gateways/bootstrap", {"name": "gw-1", "role": "dr-standby"})
        assert status == 409 and "already exists" in body["error"]


class TestActingOnTheNextRequest:
    def test_a_banned_gateway_is_refused_from_its_next_call(self, admin: Person) -> None:
        gateway = FakeGateway("gw-1").enrol()
        assert gateway.heartbeat().assigned_role
        assert admin.post(f"gateways/{gateway.id}/ban", {"reason": "stolen"})[1]["banned_at"]
        for answer in (gateway.heartbeat(), gateway.renew_lease(1), gateway.claim(1), gateway.directive()):
            assert refusal(answer) == (403, "GATEWAY_BANNED")
        assert admin.post("gateways/bootstrap", {"name": "gw-1"})[0] == 409

    def test_a_decommissioned_gateway_frees_its_name_and_role(self, admin: Person) -> None:
        gateway = FakeGateway("gw-1").enrol()
        assert admin.post(f"gateways/{gateway.id}/decommission")[0] == 200
        assert refusal(gateway.heartbeat()) == (403, "GATEWAY_DECOMMISSIONED")
        assert admin.get("gateways")[1] == []
        assert admin.get(f"gateways/{gateway.id}")[0] == 404
        assert FakeGateway("gw-1").enrol().id != gateway.id

    def test_the_active_gateway_cannot_be_decommissioned(self, npr: tuple[FakeGateway, FakeGateway], admin: Person) -> None:
        status, body = admin.post(f"gateways/{npr[0].id}/decommission")
        assert status == 409 and "move the environment" in body["error"]

    def test_an_expired_certificate_is_refused(self) -> None:
        gateway = FakeGateway("gw-1").enrol()
        GatewayCertificate.objects.update(not_after=Now() - timedelta(seconds=1))
        assert refusal(gateway.heartbeat()) == (403, "CERTIFICATE_EXPIRED")

    def test_renewal_gives_new_keys_a_certificate_and_the_old_one_goes_on(self) -> None:
        from protocol import messages

        gateway = FakeGateway("gw-1").enrol()
        fresh = Keys.generate()
        body = messages.Renew(csr=build_csr(fresh.client, "x"), server_csr=build_csr(fresh.server, "x"))
        answer = gateway.call(paths.RENEW, body, messages.Renewed)
        assert gateway.heartbeat().assigned_role
        gateway.certificate = answer.certificate
        assert gateway.heartbeat().assigned_role
        assert GatewayCertificate.objects.filter(revoked_at=None).count() == 2


def test_guesses_are_seen_and_slowed_and_keep_no_gateway_out(primary: None, caplog: Any) -> None:
    guesser = FakeGateway("gw-1")
    token = guesser.new_token()
    BootstrapTokenRow.objects.filter(id=unpack(token).id).update(secret_hash="0" * 64)
    answers = [guesser.register(token).status_code for _ in range(rates.GUESSES_PER_NETWORK + 2)]
    assert set(answers[:-2]) == {403} and answers[-1] == 429
    entry = AuditEntry.objects.get(action="gateway.bootstrap.refused")
    assert (entry.severity, entry.details["code"], entry.address) == ("warning", "TOKEN_UNKNOWN", "127.0.0.1")
    assert "an unknown bootstrap token was sent from 127.0.0.1" in caplog.text
    assert FakeGateway("gw-2").enrol().id, "who has a token is not slowed by who guesses one"
