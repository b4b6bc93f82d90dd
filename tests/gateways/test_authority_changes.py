"""A change of an authority and what hangs from it: renewals, refusals, tokens, metrics, and what people see (DESIGN §6)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from common.clock import now
from common.errors import Conflict, NotFound
from common.locks import lock_number
from common.models import AuditEntry
from gateways import authority_changes, authority_report, directives, identity, routes, tokens
from gateways.authority_changes import Wish
from gateways.instances import Seat
from gateways.models import GatewayCertificate, PrimaryKeyPair
from gateways.tokens import TokenWish
from protocol.bootstrap_token import unpack
from protocol.trust import pins_of
from tests.conftest import Person
from tests.fakes.gateway import FakeGateway
from tests.vault.test_succession import foreign
from vault import authorities, ceremony, generations, succession
from vault.authorities import RootKeyAbsent
from vault.generations import ROOT, Standing
from vault.models import CertificateAuthority, CrossCertificate

Pair = tuple[FakeGateway, FakeGateway]
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def wish(authority: str, **more: Any) -> Wish:
    return Wish(authority=authority, actor="operator:test", reason="tried", **more)


def rotated(authority: str, at: timedelta = timedelta(), **more: Any) -> str:
    return "; ".join(authority_changes.rotate(wish(authority, **more), now() + at))


def renew_orders(npr: Pair) -> list[bool]:
    return [directives.directive_for(gateway.row, Seat(True)).renew_certificate for gateway in npr]


class TestInPeace:
    def test_a_generation_that_is_asked_for_signs_after_its_announcement(self, npr: Pair) -> None:
        assert "generation 2 of NPR is announced" in rotated("NPR")
        with pytest.raises(Conflict, match="waits already"):
            rotated("NPR")
        authority_changes.keep_up(now() + generations.ANNOUNCEMENT - HOUR)
        assert authorities.current("NPR").generation == 1
        authority_changes.keep_up(now() + generations.ANNOUNCEMENT)
        assert authorities.current("NPR").generation == 2
        assert renew_orders(npr) == [False, False] and npr[0].heartbeat().epoch == 1, "nobody notices"

    def test_the_next_signing_key_too(self, npr: Pair) -> None:
        assert "next signing key is announced" in rotated("channel")
        with pytest.raises(Conflict, match="waits already"):
            rotated("channel")
        assert identity.trust_document().next_channel_certificate

    def test_an_authority_nobody_knows_is_named(self, primary: None) -> None:
        with pytest.raises(NotFound, match="there are: NPR, PRO, platform, root, channel"):
            rotated("TST")

    def test_one_process_keeps_up_at_a_time(self, committed_primary: None) -> None:
        from common.direct import open_connection

        end = authorities.current("NPR").not_after
        with open_connection() as other:
            other.execute("SELECT pg_advisory_lock(%s)", [lock_number(authorities.LOCK)])
            assert authority_changes.keep_up(end - 300 * DAY) == 0
            other.execute("SELECT pg_advisory_unlock(%s)", [lock_number(authorities.LOCK)])
        assert authority_changes.keep_up(end - 300 * DAY) > 0

    def test_a_pass_with_nothing_to_do_asks_little(self, primary: None) -> None:
        authority_changes.keep_up(now())
        with CaptureQueriesContext(connection) as asked:
            authority_changes.keep_up(now())
        assert len(asked) <= 14, [one["sql"] for one in asked]


class TestLeaked:
    def test_gateways_are_told_to_renew_and_go_on(self, npr: Pair) -> None:
        said = rotated("NPR", at_once=True)
        assert "generation 2 of NPR signs now" in said and renew_orders(npr) == [True, True]
        old = GatewayCertificate.objects.get(gateway=npr[0].id).issuer_key
        for gateway in npr:
            assert gateway.renew().certificate
        assert renew_orders(npr) == [False, False]
        authority_changes.keep_up(now() + authority_changes.GRACE + HOUR)
        assert not GatewayCertificate.objects.filter(issuer_key=old, revoked_at=None).exists()
        assert npr[0].heartbeat().epoch == 1

    def test_one_that_did_not_renew_in_time_is_refused(self, npr: Pair) -> None:
        rotated("NPR", at_once=True)
        npr[0].renew()
        authority_changes.keep_up(now() + authority_changes.GRACE + HOUR)
        assert npr[0].heartbeat().epoch == 1
        refused = npr[1].heartbeat()
        assert (refused.status_code, refused.json()["code"]) == (403, "CERTIFICATE_REVOKED")
        told = AuditEntry.objects.get(action="authority.certificates.revoked")
        assert told.severity == "critical" and "gw-npr-dr" in told.details["gateways"]

    def test_without_grace_the_old_one_ends_at_once(self, npr: Pair) -> None:
        rotated("NPR", at_once=True, grace=timedelta())
        assert npr[0].heartbeat().status_code == 403
        assert CertificateAuthority.objects.get(scope="NPR", generation=1).standing == Standing.ENDED

    def test_the_other_environment_is_left_alone(self, npr: Pair) -> None:
        rotated("PRO", at_once=True, grace=timedelta())
        assert npr[0].heartbeat().epoch == 1 and renew_orders(npr) == [False, False]

    @pytest.mark.parametrize("authority", [ROOT, "platform"])
    def test_the_channel_gets_new_keys_with_what_is_above_it(self, npr: Pair, authority: str) -> None:
        before = identity.signing_key().public_key().public_bytes_raw()
        rotated(authority, at_once=True)
        assert identity.signing_key().public_key().public_bytes_raw() != before
        assert npr[0].heartbeat().epoch == 1
        authority_changes.keep_up(now() + authority_changes.GRACE + HOUR)
        assert CertificateAuthority.objects.get(scope=authority, generation=1).standing == Standing.ENDED
        assert npr[0].heartbeat().epoch == 1
        assert npr[0].renew().certificate

    @pytest.mark.parametrize("authority", ["NPR", "platform", ROOT])
    def test_one_that_waits_is_not_trusted_for_its_key_lay_in_the_same_place(self, npr: Pair, authority: str) -> None:
        rotated(authority)
        assert any("generation 2, which waits" in one for one in authority_changes.consequences(wish(authority), now()))
        said = rotated(authority, at_once=True)
        rows = CertificateAuthority.objects.filter(scope=authority).order_by("generation")
        assert list(rows.values_list("generation", "standing")) == [(1, "retired"), (2, "ended"), (3, "current")]
        assert rows[1].sealed_key is None and rows[1].key_id != rows[2].key_id
        assert "generation 3" in said and "generation 2, which waited, is discarded" in said
        told = AuditEntry.objects.get(action="authority.generation.discarded")
        assert (told.severity, told.details["generation"], "leaked" in told.details["reason"]) == ("critical", 2, True)
        assert npr[0].heartbeat().epoch == 1 and npr[0].renew().certificate

    def test_a_root_from_elsewhere_takes_over_although_another_one_waits(self, npr: Pair) -> None:
        rotated(ROOT)
        pem, key = foreign()
        rotated(ROOT, at_once=True, root=ceremony.checked_root(pem, key, now()))
        assert authorities.root_certificate() == pem and len(authorities.trusted_roots()) == 2
        assert npr[0].heartbeat().epoch == 1

    def test_the_key_that_is_asked_for_is_enough(self, npr: Pair) -> None:
        """A root waits, and an intermediate has no certificate under it: bringing that root's key alone must help."""
        pem, key = foreign()
        rotated(ROOT, root=ceremony.checked_root(pem, key, now()))
        CrossCertificate.objects.filter(authority__scope="NPR").delete()
        authorities.remove_root_key()
        assert "under each root" in rotated("NPR", root_keys=(key,))
        assert CrossCertificate.objects.filter(authority__scope="NPR").count() == 1
        assert not CertificateAuthority.objects.filter(scope="NPR", standing=Standing.NEXT).exists()

    def test_nothing_is_discarded_where_no_fresh_one_can_be_made(self, npr: Pair) -> None:
        rotated("NPR")
        authorities.remove_root_key()
        with pytest.raises(RootKeyAbsent):
            rotated("NPR", at_once=True)
        assert CertificateAuthority.objects.get(scope="NPR", standing=Standing.NEXT).sealed_key is not None

    def test_what_breaks_is_said_before(self, npr: Pair) -> None:
        tokens.create_token(TokenWish("gw-other"), actor="user:t", address="", now=now())
        said = {name: " ".join(authority_changes.consequences(wish(name), now())) for name in authority_changes.known()}
        assert "gw-npr-dr, gw-npr-primary" in said["NPR"] and "none" in said["PRO"]
        assert "1 unused bootstrap tokens" in said[ROOT] and "only a new ROOT" in said["platform"]
        assert "a minute" in said["channel"]


class TestTokens:
    def test_a_token_names_the_root_that_signs_and_outlives_its_change(self, npr: Pair) -> None:
        gateway = FakeGateway("gw-pro-primary", "PRO")
        token = gateway.new_token()
        rotated(ROOT)
        with transaction.atomic():
            succession.promote(ROOT, now(), "user:test", "tried")
        assert unpack(token).pin != authorities.pin() and unpack(token).pin in pins_of(identity.trust_document().roots)
        assert gateway.register(token).certificate
        assert unpack(FakeGateway("gw-pro-dr", "PRO", "dr-standby").new_token()).pin == authorities.pin()


class TestShown:
    def test_people_who_may_see_the_fleet_see_the_generations(self, primary: None, person: Callable[[str], Person]) -> None:
        rotated(ROOT)
        status, rows = person("auditor").get("admin/authorities")
        assert status == 200 and [row["authority"] for row in rows] == ["root", "root", "NPR", "PRO", "platform", "channel"]
        root, following = rows[:2]
        assert (root["standing"], following["standing"]) == ("current", "next")
        assert following["signs_from"].endswith("Z") and root["followed_from"] is None and root["warning"] == ""
        assert 3640 < root["days_left"] <= 3650 and "PRIVATE" not in str(rows)
        assert person("user").get("admin/authorities")[0] == 403

    def test_what_a_person_must_do_is_a_warning(self, primary: None) -> None:
        authorities.remove_root_key()
        late = authorities.current("NPR").not_after - 100 * DAY
        warnings = {row.authority: row.warning for row in authority_report.overview(late) if row.standing == Standing.CURRENT}
        assert "--authority NPR --root-key" in warnings["NPR"] and "--import-root" in warnings[ROOT]

    def test_days_left_are_a_metric(self, primary: None, admin: Person) -> None:
        rotated("NPR")
        text = admin.get("/metrics")[1]
        assert 'mazevault_ca_days_left{authority="NPR",generation="current"} 18' in text
        assert 'mazevault_ca_days_left{authority="NPR",generation="next"} 18' in text
        assert 'mazevault_ca_days_left{authority="channel",generation="current"} 36' in text
        assert 'mazevault_ca_change_overdue{authority="root"} 0.0' in text


class TestCommand:
    def test_lists_and_rotates(self, primary: None, capsys: pytest.CaptureFixture[str]) -> None:
        call_command("keys", "rotate", "--authority", "npr")
        call_command("keys", "list")
        shown = capsys.readouterr().out
        assert "generation 2 of NPR is announced" in shown and "NPR                 2 next" in shown

    def test_a_change_at_once_is_confirmed_by_name(self, primary: None, capsys: pytest.CaptureFixture[str]) -> None:
        for confirm in ("", "NPR"):
            with pytest.raises(CommandError, match="add --confirm PRO"):
                call_command("keys", "rotate", "--authority", "PRO", "--now", "--confirm", confirm)
        assert "breaks: " in capsys.readouterr().out and authorities.current("PRO").generation == 1
        call_command("keys", "rotate", "--authority", "PRO", "--now", "--confirm", "pro", "--reason", "stolen laptop")
        assert authorities.current("PRO").generation == 2
        told = AuditEntry.objects.filter(action="authority.generation.promoted").get()
        assert (told.actor, told.details["reason"]) == ("operator:keys", "stolen laptop")

    @pytest.mark.parametrize(
        ("more", "why"),
        [
            (["--authority", "TST"], "there are: NPR, PRO, PLATFORM, ROOT, CHANNEL"),
            (["--authority", "NPR", "--now", "--grace", "1000"], "--grace must be 0 to 168"),
            (["--authority", "NPR", "--import-root", "x"], "goes with --authority ROOT"),
            (["--authority", "ROOT", "--import-root", "x"], "needs the new root's key"),
            (["--authority", "NPR", "--root-key", "/nonexistent"], "No such file"),
            (["--authority", "NPR", "--environment", "NPR"], "one thing at a time"),
            ([], "--authority NAME"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_a_wish_that_makes_no_sense_is_refused_in_a_sentence(self, primary: None, more: list[str], why: str) -> None:
        with pytest.raises(CommandError, match=why):
            call_command("keys", "rotate", *more)

    def test_the_root_goes_into_the_safe_and_serves_from_there(self, primary: None, tmp_path: Path) -> None:
        passphrase, key = tmp_path / "passphrase", tmp_path / "root.pem"
        passphrase.write_text("correct horse battery\n")
        call_command("keys", "export-root", "--out", str(key), "--passphrase-file", str(passphrase))
        assert load_pem_private_key(key.read_bytes(), b"correct horse battery") and key.stat().st_mode & 0o77 == 0
        with pytest.raises(CommandError, match="exists"):
            call_command("keys", "export-root", "--out", str(key), "--passphrase-file", str(passphrase))
        with pytest.raises(CommandError, match="--confirm ROOT"):
            call_command("keys", "remove-root")
        call_command("keys", "remove-root", "--confirm", "ROOT")
        with pytest.raises(CommandError, match="--root-key FILE"):
            call_command("keys", "rotate", "--authority", "NPR")
        with pytest.raises(CommandError, match="--import-root FILE"):
            call_command("keys", "rotate", "--authority", "ROOT")
        call_command("keys", "rotate", "--authority", "NPR", "--root-key", str(key), "--passphrase-file", str(passphrase))
        assert CertificateAuthority.objects.filter(scope="NPR", standing=Standing.NEXT).exists()
        assert set(AuditEntry.objects.filter(action__startswith="authority.root").values_list("action", "severity")) == {
            ("authority.root.exported", "critical"), ("authority.root.removed", "critical"),
        }  # fmt: skip

    def test_an_environment_that_comes_while_the_root_is_in_the_safe_gets_its_authority(
        self, primary: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        passphrase, key = tmp_path / "passphrase", tmp_path / "root.pem"
        passphrase.write_text("correct horse battery\n")
        call_command("keys", "export-root", "--out", str(key), "--passphrase-file", str(passphrase))
        call_command("keys", "remove-root", "--confirm", "ROOT")
        assert "bring the root's key back for NPR from 20" in capsys.readouterr().out
        routes.ensure_environments(("NPR", "PRO", "TST"))
        succession.ensure_authorities(("NPR", "PRO", "TST"))
        assert authorities.current("TST") is None
        with pytest.raises(CommandError, match="one for each --root-key"):
            call_command("keys", "rotate", "--authority", "TST", "--root-key", str(key), *["--passphrase-file", str(key)] * 2)
        call_command("keys", "rotate", "--authority", "TST", "--root-key", str(key), "--passphrase-file", str(passphrase))
        made = authorities.current("TST")
        assert made is not None and made.generation == 1


class TestUpgrade:
    def test_what_an_installation_has_becomes_its_first_generation(self, npr: Pair) -> None:
        CertificateAuthority.objects.update(generation=0, key_id="", issuer=None, standing="retired", current_at=None)
        for _ in range(2):
            import_module("vault.migrations.0005_generations_of_authorities").number(apps, None)
        rows = CertificateAuthority.objects.select_related("issuer")
        assert {(row.generation, row.standing) for row in rows} == {(1, "current")} and rows.count() == 4
        assert {row.issuer.scope if row.issuer else None for row in rows} == {None, "root"}
        GatewayCertificate.objects.update(issuer_key="")
        import_module("gateways.migrations.0009_generations_of_channel_keys").name_issuers(apps, None)
        signer = authorities.current("NPR")
        assert signer and set(GatewayCertificate.objects.values_list("issuer_key", flat=True)) == {signer.key_id}

    def test_of_many_signing_keys_with_one_end_the_first_signs_and_one_waits(self, primary: None) -> None:
        """An installation whose authority is near its end made one every five minutes."""
        old = PrimaryKeyPair.objects.get(purpose=PrimaryKeyPair.SIGNING)
        for number in range(2, 8):
            PrimaryKeyPair.objects.create(
                purpose=PrimaryKeyPair.SIGNING, kid=f"k{number}", public_key=f"p{number}", generation=number + 100,
                standing="ended", sealed_private_key=b"x", announced_at=now(), not_after=old.not_after,
            )  # fmt: skip
        import_module("gateways.migrations.0009_generations_of_channel_keys").number(apps, None)
        rows = list(PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.SIGNING).order_by("generation"))
        assert [row.standing for row in rows] == ["current", *["retired"] * 5, "next"] and rows[0].pk == old.pk
        assert [row.sealed_private_key is not None for row in rows] == [True, *[False] * 5, True]
