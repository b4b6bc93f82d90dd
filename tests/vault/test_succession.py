"""Generations of authorities in the database: made in time, by one process, under a root that may lie in a safe (DESIGN §6)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store
from django.db import IntegrityError, connection, transaction

from common.clock import now
from common.locks import transaction_lock
from common.models import AuditEntry
from protocol.certificates import MOST_CERTIFICATES, new_tls_key
from protocol.trust import MOST_ROOTS
from vault import authorities, ceremony, certificates, generations, profiles, succession
from vault.authorities import IssuingRefused, RootKeyAbsent
from vault.ceremony import RootRefused
from vault.generations import ROOT, Standing
from vault.models import CertificateAuthority, CrossCertificate
from vault.profiles import San

DAY, YEAR = timedelta(days=1), timedelta(days=365)
URI = San.uri("mzv://default/NPR/gateway/6f1f0f8e-6c1b-4a53-9a55-0d8f5f3f6a01")


def standing_of(scope: str) -> list[tuple[int, str]]:
    rows = CertificateAuthority.objects.filter(scope=scope).order_by("generation")
    return list(rows.values_list("generation", "standing"))


def keep_up(moment: datetime) -> int:
    with transaction.atomic():
        transaction_lock(authorities.LOCK)
        return len(succession.keep_up(moment))


def announced(scope: str, moment: datetime, **more: object) -> None:
    with transaction.atomic():
        succession.announce(scope, moment, "user:test", "tried", **more)


def promoted(scope: str, moment: datetime) -> None:
    with transaction.atomic():
        succession.promote(scope, moment, "user:test", "tried")


def end_of(scope: str) -> datetime:
    return CertificateAuthority.objects.get(scope=scope, standing=Standing.CURRENT).not_after


def leaf(moment: datetime) -> str:
    return authorities.issue(
        profiles.GATEWAY_CLIENT, "NPR", common_name="x", sans=(URI,), public_key=new_tls_key().public_key(), now=moment
    ).pem


def follows(pem: str, chain: str, root: str, moment: datetime) -> None:
    judge = PolicyBuilder().store(Store([certificates.read(root)])).time(moment)
    judge.build_client_verifier().verify(certificates.read(pem), x509.load_pem_x509_certificates(chain.encode()))


def foreign(
    life: timedelta = 10 * YEAR,
    path_length: int | None = 1,
    ca: bool = True,
    more: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> tuple[str, ec.EllipticCurvePrivateKey]:
    """A root as a bank's own ceremony makes one."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Bank Root G7")])
    usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
                           "decipher_only"), False)  # fmt: skip
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now() - DAY)
        .not_valid_after(now() + life)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length if ca else None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=False, key_cert_sign=ca, crl_sign=ca, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    for extension, critical in more:
        made = made.add_extension(extension, critical)
    return certificates.pem(made.sign(key, hashes.SHA384())), key


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
NARROW = x509.NameConstraints([x509.DNSName("bank.example")], None)
MAIL = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION])
POLICY = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.3"), None)])


def own_root() -> tuple[str, ec.EllipticCurvePrivateKey]:
    row = authorities.current(ROOT)
    assert row is not None
    return row.certificate, authorities.private_key(row)


@pytest.mark.usefixtures("primary")
class TestKeepingUp:
    def test_an_environment_gets_its_next_generation_and_all_chains_stay_whole(self) -> None:
        moment = end_of("NPR") - generations.rules_of("NPR").reserve
        before = leaf(moment)
        assert keep_up(moment) >= 1 and standing_of("NPR") == [(1, "current"), (2, "next")]
        assert keep_up(moment) == 0, "a second pass finds nothing to do"
        later = moment + generations.ANNOUNCEMENT
        keep_up(later)
        assert standing_of("NPR") == [(1, "retired"), (2, "current")]
        after = leaf(later)
        for pem in (before, after):
            follows(pem, authorities.chain_for(pem), authorities.root_certificate(), later)
        assert authorities.chain_for(before) != authorities.chain_for(after) == authorities.chain("NPR")
        assert certificates.read(after).not_valid_after_utc == (later + profiles.GATEWAY_CLIENT.life).replace(microsecond=0)

    def test_each_change_is_a_critical_entry_of_the_audit_trail(self) -> None:
        keep_up(end_of("NPR") - generations.rules_of("NPR").reserve)
        told = AuditEntry.objects.filter(action="authority.generation.announced", environment="NPR").get()
        assert (told.severity, told.actor, told.details["authority"], told.details["generation"]) == (
            "critical",
            "system",
            "NPR",
            2,
        )

    def test_a_new_root_signs_every_living_intermediate_once_more(self) -> None:
        announced(ROOT, now())
        old, new = authorities.trusted_roots()
        pem = leaf(now())
        for root in (old, new):
            follows(pem, authorities.chain_for(pem), root, now())
        assert CrossCertificate.objects.count() == 3
        promoted(ROOT, now())
        announced("NPR", now())
        promoted("NPR", now())
        pem = leaf(now())
        for root in (old, new):
            follows(pem, authorities.chain_for(pem), root, now())

    def test_a_root_that_is_trusted_no_more_is_in_no_chain(self) -> None:
        announced(ROOT, now())
        promoted(ROOT, now())
        CertificateAuthority.objects.filter(scope=ROOT, generation=1).update(standing=Standing.ENDED)
        pem, chain = leaf(now()), authorities.chain("NPR")
        assert chain.count("BEGIN") == 1 and authorities.trusted_clients().count("BEGIN") == 1 + 3
        follows(pem, chain, authorities.root_certificate(), now())

    @pytest.mark.parametrize(("standing", "other"), [(Standing.CURRENT, Standing.NEXT), (Standing.NEXT, Standing.CURRENT)])
    def test_the_database_takes_no_second_one_of_a_standing(self, standing: Standing, other: Standing) -> None:
        announced("NPR", now())
        with pytest.raises(IntegrityError), transaction.atomic():
            CertificateAuthority.objects.filter(scope="NPR", standing=other).update(standing=standing)

    def test_a_change_of_what_somebody_else_changed_is_refused(self) -> None:
        row = authorities.current("NPR")
        assert row is not None
        CertificateAuthority.objects.filter(pk=row.pk).update(standing=Standing.RETIRED)
        with pytest.raises(RuntimeError, match="nothing was changed"), transaction.atomic():
            succession._move(row, Standing.CURRENT, Standing.RETIRED)

    def test_generations_do_not_pile_up_by_hand_either(self) -> None:
        """Whoever reads a trust document takes a bounded number of roots and of certificates."""
        for scope in (ROOT, "platform"):
            for _ in range(succession.MOST_LIVING - 1):
                announced(scope, now())
                promoted(scope, now())
            with pytest.raises(IssuingRefused, match=r"generations of .* are trusted already"):
                announced(scope, now())
        assert len(authorities.trusted_roots()) <= MOST_ROOTS
        assert authorities.living_chains("platform").count("BEGIN") <= MOST_CERTIFICATES
        keep_up(end_of("NPR") - generations.rules_of("NPR").reserve)
        assert standing_of("NPR") == [(1, "current"), (2, "next")], "one that is full keeps no other one waiting"


@pytest.mark.usefixtures("primary")
class TestRootInTheSafe:
    def test_nothing_is_made_without_its_key_and_it_is_said(self) -> None:
        authorities.remove_root_key()
        moment = end_of("NPR") - 200 * DAY
        assert keep_up(moment) == 0
        for scope in (ROOT, "NPR"):
            assert "the root's key is not here" in succession.hindrance(scope, succession.facts(scope), end_of("NPR") - DAY)
        assert succession.hindrance("NPR", succession.facts("NPR"), now()) == ""
        with pytest.raises(RootKeyAbsent):
            announced("NPR", moment)
        with pytest.raises(RootKeyAbsent):
            announced(ROOT, moment)

    def test_the_key_from_the_safe_makes_a_generation_and_is_not_kept(self) -> None:
        exported = authorities.export_root_key(b"correct horse battery")
        authorities.remove_root_key()
        key = serialization.load_pem_private_key(exported, b"correct horse battery")
        announced("NPR", now(), root_keys=[key])
        assert standing_of("NPR") == [(1, "current"), (2, "next")]
        assert not CertificateAuthority.objects.filter(scope=ROOT, sealed_key__isnull=False).exists()

    def test_another_key_makes_none(self) -> None:
        authorities.remove_root_key()
        for scope in ("NPR", ROOT):
            with pytest.raises(RootKeyAbsent, match="not the key of the root"):
                announced(scope, now(), root_keys=[ec.generate_private_key(ec.SECP384R1())])

    def test_a_root_made_elsewhere_is_announced_and_signs_the_intermediates(self) -> None:
        authorities.remove_root_key()
        pem, key = foreign()
        announced(ROOT, now(), root=ceremony.checked_root(pem, key, now()))
        made = leaf(now())
        for root in authorities.trusted_roots():
            follows(made, authorities.chain_for(made), root, now())
        assert authorities.trusted_roots()[1] == pem

    @pytest.mark.parametrize(
        ("root", "why"),
        [
            (lambda: foreign(life=YEAR), "more days"),
            (lambda: foreign(path_length=0), "may not sign intermediates"),
            (lambda: foreign(ca=False), "may not sign intermediates"),
            (lambda: (foreign()[0], foreign()[1]), "not of this key"),
            (lambda: ("no certificate", foreign()[1]), "not a self-signed"),
            (lambda: (authorities.chain("NPR"), foreign()[1]), "not a self-signed"),
            (lambda: own_root(), "known here already"),
            (lambda: foreign(more=[(NARROW, True)]), "2.5.29.30"),
            (lambda: foreign(more=[(MAIL, False)]), "2.5.29.37"),
            (lambda: foreign(more=[(UNKNOWN, True)]), "1.2.3.4"),
            (lambda: foreign(more=[(UNKNOWN, False)]), "1.2.3.4"),
            (lambda: foreign(more=[(POLICY, True)]), "2.5.29.32"),
        ],
        ids=[
            "too short",
            "path length",
            "no authority",
            "another key",
            "no certificate",
            "intermediate",
            "known",
            "narrow",
            "mail",
            "unknown and critical",
            "unknown",
            "a policy that counts",
        ],
    )
    def test_what_is_no_root_for_us_is_refused(
        self, root: Callable[[], tuple[str, ec.EllipticCurvePrivateKey]], why: str
    ) -> None:
        with pytest.raises(RootRefused, match=why):
            ceremony.checked_root(*root(), now())

    def test_a_root_that_says_where_its_list_of_revoked_ones_is_is_one_for_us(self) -> None:
        assert ceremony.checked_root(*foreign(more=[(POLICY, False)]), now())

    def test_leaves_are_cut_short_and_then_refused_with_the_fix_when_nobody_brings_it(self) -> None:
        authorities.remove_root_key()
        end = end_of("NPR")
        assert certificates.read(leaf(end - DAY)).not_valid_after_utc == end
        with pytest.raises(IssuingRefused, match="keys rotate --authority NPR"):
            leaf(end)


def from_ceremony(moment: datetime) -> ec.EllipticCurvePrivateKey:
    """A next root; both keys lie in the safe then. Returns the one it was made with."""
    pem, key = foreign(life=20 * YEAR)
    announced(ROOT, moment, root=ceremony.checked_root(pem, key, moment))
    authorities.remove_root_key()
    return key


def roots_above(scope: str, generation: int) -> set[int]:
    row = CertificateAuthority.objects.get(scope=scope, generation=generation)
    above = CertificateAuthority.objects.filter(id__in=[row.issuer_id, *row.crossed.values_list("issuer", flat=True)])
    return set(above.values_list("generation", flat=True))


@pytest.mark.usefixtures("primary")
class TestTwoRootsInTheSafe:
    """Nothing is made that a gateway could not follow, and nothing that could be made is left out silently (ADR 40)."""

    def test_an_intermediate_stands_under_the_root_that_waits_too_or_is_not_made(self) -> None:
        _, old = own_root()
        new = from_ceremony(now())
        with pytest.raises(RootKeyAbsent, match=r"root 2 \(key [0-9a-f]{8}\).*--root-key FILE --root-key FILE"):
            announced("NPR", now(), root_keys=[old])
        assert standing_of("NPR") == [(1, "current")]
        announced("NPR", now(), root_keys=[new, old])
        promoted("NPR", now())
        assert roots_above("NPR", 2) == {1, 2}
        made = leaf(now())
        for root in authorities.trusted_roots():
            follows(made, authorities.chain_for(made), root, now())

    def test_a_leaked_one_too(self) -> None:
        _, old = own_root()
        from_ceremony(now())
        with pytest.raises(RootKeyAbsent, match="root 2"):
            announced("NPR", now(), root_keys=[old], leaked=True)

    def test_a_root_that_came_late_signs_alone_once_every_gateway_knows_it(self) -> None:
        """The one before gives no whole lives any more, so it takes over at once, and sleeping gateways do not know it yet."""
        _, old = own_root()
        moment = end_of("platform") - 400 * DAY
        pem, key = foreign(life=20 * YEAR)
        CertificateAuthority.objects.filter(scope=ROOT).update(sealed_key=None, not_after=end_of("platform") + YEAR)
        announced(ROOT, moment, root=ceremony.checked_root(pem, key, moment))
        keep_up(moment)
        assert standing_of(ROOT) == [(1, "retired"), (2, "current")] and standing_of("platform") == [(1, "current")]
        why = succession.hindrance("platform", succession.facts("platform"), moment)
        assert "root 1 (key" in why and "--authority platform --root-key FILE --passphrase-file FILE" in why
        announced("PRO", moment, root_keys=[old])
        assert roots_above("PRO", 2) == {1, 2}, "with the key from the safe it is made at once"
        keep_up(moment + generations.ROOT_ANNOUNCEMENT)
        assert roots_above("platform", 2) == {2}

    def test_a_root_above_too_few_does_not_sign_until_its_key_was_brought(self) -> None:
        new = from_ceremony(now())
        CrossCertificate.objects.filter(authority__scope="NPR").delete()  # as an earlier version left it
        moment = now() + generations.ROOT_ANNOUNCEMENT
        keep_up(moment)
        assert standing_of(ROOT) == [(1, "current"), (2, "next")]
        why = succession.hindrance(ROOT, succession.facts(ROOT), moment)
        assert "NPR 1 has no certificate under root 2" in why and "--authority NPR --root-key FILE" in why
        with pytest.raises(IssuingRefused, match="cannot sign"), transaction.atomic():
            succession.promote(ROOT, moment, "user:test", "tried")
        with transaction.atomic():
            rows = succession.certify("NPR", moment, "user:test", "tried", [new])
        assert [(row.scope, row.generation) for row in rows] == [("NPR", 1)] and roots_above("NPR", 1) == {1, 2}
        assert AuditEntry.objects.filter(action="authority.generation.certified", environment="NPR").exists()
        keep_up(moment)
        assert standing_of(ROOT) == [(1, "retired"), (2, "current")]

    def test_one_under_the_root_before_only_does_not_take_over_either(self) -> None:
        announced("NPR", now())
        announced(ROOT, now())
        promoted(ROOT, now())
        CrossCertificate.objects.filter(authority__scope="NPR", authority__generation=2).delete()
        keep_up(now() + generations.ANNOUNCEMENT)
        assert standing_of("NPR") == [(1, "current"), (2, "next")]

    def test_what_would_end_with_the_root_waits_for_another_root(self) -> None:
        authorities.remove_root_key()
        moment = end_of("NPR") - 100 * DAY
        CertificateAuthority.objects.filter(scope=ROOT).update(not_after=end_of("NPR"))
        assert "first change the root" in succession.hindrance("NPR", succession.facts("NPR"), moment)
        pem, key = foreign(life=20 * YEAR)
        announced(ROOT, moment, root=ceremony.checked_root(pem, key, moment))
        assert "waits for root 2, which signs from" in succession.hindrance("NPR", succession.facts("NPR"), moment)

    def test_what_a_person_must_do_is_told_in_the_audit_long_before_and_once(self) -> None:
        authorities.remove_root_key()
        moment = end_of("NPR") - generations.rules_of("NPR").reserve
        keep_up(moment - DAY)
        told = AuditEntry.objects.filter(action="authority.generation.overdue", environment="NPR")
        assert not told.exists()
        keep_up(moment)
        keep_up(moment + DAY)
        one = told.get()
        assert one.severity == "critical" and "./mazevault keys rotate --authority NPR --root-key FILE" in one.details["why"]
        assert moment + YEAR < end_of("NPR")


@pytest.mark.django_db(transaction=True)
def test_many_processes_that_keep_up_at_once_make_one_generation(committed_primary: None) -> None:
    moment, barrier = end_of("NPR") - generations.rules_of("NPR").reserve, threading.Barrier(6)

    def look() -> None:
        barrier.wait()
        try:
            keep_up(moment)
        finally:
            connection.close()

    racers = [threading.Thread(target=look) for _ in range(6)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    for scope in ("NPR", "PRO"):
        assert standing_of(scope) == [(1, "current"), (2, "next")]
