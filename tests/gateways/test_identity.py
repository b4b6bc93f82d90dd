"""The Primary's own channel keys: the next signing key is known long before it signs (DESIGN §6)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from django.db import IntegrityError, transaction

from common.clock import now
from common.models import AuditEntry
from gateways import identity
from gateways.models import PrimaryKeyPair
from protocol.envelope import encode_public_key, open_recipients
from vault.generations import CHANNEL, Standing, rules_of
from vault.models import CertificateAuthority

pytestmark = pytest.mark.usefixtures("primary")
RULES = rules_of(CHANNEL)
HOUR = timedelta(hours=1)


def signing_keys() -> list[str]:
    rows = PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.SIGNING)
    return list(rows.order_by("generation").values_list("public_key", flat=True))


def signs() -> str:
    return encode_public_key(identity.signing_key().public_key())


def end_of(standing: Standing = Standing.CURRENT) -> datetime:
    return PrimaryKeyPair.objects.get(purpose=PrimaryKeyPair.SIGNING, standing=standing).not_after


def shown(certificate: str) -> str:
    key = x509.load_pem_x509_certificate(certificate.encode()).public_key()
    return encode_public_key(key)


def test_there_is_one_signing_key_until_the_next_one_is_announced() -> None:
    identity.ensure_keys(end_of() - RULES.reserve - HOUR)
    assert signing_keys() == [signs()] and identity.trust_document().next_channel_certificate == ""


def test_the_next_key_is_made_once_and_shown_while_the_old_one_signs() -> None:
    old, moment = signs(), end_of() - RULES.reserve + HOUR
    for minutes in range(0, 60, 5):
        identity.ensure_keys(moment + timedelta(minutes=minutes))
    document = identity.trust_document()
    assert len(signing_keys()) == 2 and signs() == old == shown(document.channel_certificate)
    assert shown(document.next_channel_certificate) == signing_keys()[1]


def test_the_next_key_signs_after_its_announcement_and_the_old_private_half_is_gone() -> None:
    moment = end_of() - RULES.reserve + HOUR
    identity.ensure_keys(moment)
    identity.ensure_keys(moment + RULES.announcement - HOUR)
    assert signs() == signing_keys()[0]
    identity.ensure_keys(moment + RULES.announcement)
    document = identity.trust_document()
    assert signs() == signing_keys()[1] == shown(document.channel_certificate)
    assert document.next_channel_certificate == ""
    assert open_recipients(document.recipients, identity.signing_key().public_key(), datetime.now(UTC))
    old = PrimaryKeyPair.objects.get(purpose=PrimaryKeyPair.SIGNING, generation=1)
    assert (old.standing, old.sealed_private_key) == (Standing.RETIRED, None) and old.certificate, "checkpoints need it"


def test_every_gateway_looks_at_the_trust_document_before_an_announced_key_signs() -> None:
    assert RULES.announcement > identity.RECIPIENT_LIFE


def test_a_primary_that_was_off_for_a_year_signs_with_a_new_key_at_once() -> None:
    identity.ensure_keys(end_of() + timedelta(days=10))
    assert signs() == signing_keys()[-1] and len(signing_keys()) == 2


def test_near_the_end_of_their_authority_keys_do_not_pile_up() -> None:
    """The authority could not be renewed (its root's key is away); every five minutes somebody looks."""
    end = CertificateAuthority.objects.get(scope="platform").not_after
    identity.ensure_keys(end - timedelta(days=100))
    for number in range(12 * 24):
        identity.ensure_keys(end - timedelta(days=29) + timedelta(minutes=5 * number))
    assert len(signing_keys()) <= 3
    ends = PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.SIGNING).values_list("not_after", flat=True)
    assert len(set(ends)) == len(ends), "a key with the end of another one serves nobody"


def test_which_key_signs_is_no_question_of_ends() -> None:
    identity.ensure_keys(end_of() - RULES.reserve + HOUR)
    PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.SIGNING).update(not_after=now() + timedelta(days=1))
    assert {signs() for _ in range(5)} == {signing_keys()[0]}
    document = identity.trust_document()
    assert [shown(document.channel_certificate), shown(document.next_channel_certificate)] == signing_keys()


@pytest.mark.parametrize("standing", [Standing.CURRENT, Standing.NEXT])
def test_the_database_takes_no_second_key_of_a_standing(standing: Standing) -> None:
    identity.ensure_keys(end_of() - RULES.reserve + HOUR)
    other = Standing.NEXT if standing is Standing.CURRENT else Standing.CURRENT
    with pytest.raises(IntegrityError), transaction.atomic():
        PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.SIGNING, standing=other).update(standing=standing)


def test_leaked_keys_are_replaced_at_once() -> None:
    old = set(PrimaryKeyPair.objects.values_list("kid", flat=True))
    identity.ensure_keys(end_of() - RULES.reserve + HOUR)
    identity.replace_keys_at_once("operator:keys", "leaked", now())
    with_private_half = PrimaryKeyPair.objects.filter(sealed_private_key__isnull=False)
    assert sorted(with_private_half.values_list("purpose", "standing")) == [("recipient", "current"), ("signing", "current")]
    assert not old & set(with_private_half.values_list("kid", flat=True))
    told = AuditEntry.objects.filter(action="channel.generation.promoted").last()
    assert told is not None and (told.severity, told.actor) == ("critical", "operator:keys")


def test_recipient_keys_are_bounded_and_the_newest_is_named_first() -> None:
    for hours in range(0, 24 * 30, 6):
        identity.ensure_keys(now() + timedelta(hours=hours))
        rows = PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.RECIPIENT)
        assert rows.count() <= 3 and rows.filter(standing=Standing.CURRENT).count() == 1
    newest = open_recipients(identity.trust_document().recipients, identity.signing_key().public_key(), now())[0]
    assert newest.kid == PrimaryKeyPair.objects.get(purpose=PrimaryKeyPair.RECIPIENT, standing=Standing.CURRENT).kid
