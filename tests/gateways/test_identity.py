"""The Primary's own channel keys: the next signing key is known long before it signs (DESIGN §6)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from common.clock import now
from gateways import identity
from gateways.identity import SIGNING_MARGIN, SIGNING_OVERLAP
from gateways.models import PrimaryKeyPair
from protocol.envelope import encode_public_key, open_recipients

pytestmark = pytest.mark.usefixtures("primary")


def signing_keys() -> list[str]:
    return list(
        PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.SIGNING).order_by("not_after").values_list("public_key", flat=True)
    )


def signs() -> str:
    return encode_public_key(identity.signing_key().public_key())


def leave(left: timedelta) -> None:
    """The key in use lives this long."""
    PrimaryKeyPair.objects.filter(public_key=signs()).update(not_after=now() + left)


def shown(certificate: str) -> str:
    key = x509.load_pem_x509_certificate(certificate.encode()).public_key()
    return encode_public_key(key)


def test_there_is_one_signing_key_until_the_overlap_begins() -> None:
    leave(SIGNING_OVERLAP + timedelta(hours=1))
    identity.ensure_keys()
    assert signing_keys() == [signs()] and identity.trust_document().next_channel_certificate == ""


def test_the_next_key_is_made_once_and_shown_while_the_old_one_signs() -> None:
    old = signs()
    leave(SIGNING_OVERLAP - timedelta(hours=1))
    for _ in range(2):
        identity.ensure_keys()
    document = identity.trust_document()
    assert len(signing_keys()) == 2 and signs() == old == shown(document.channel_certificate)
    assert shown(document.next_channel_certificate) == signing_keys()[1]


def test_the_next_key_signs_before_the_old_one_ends() -> None:
    leave(SIGNING_OVERLAP - timedelta(hours=1))
    identity.ensure_keys()
    leave(SIGNING_MARGIN - timedelta(minutes=1))
    document = identity.trust_document()
    assert signs() == signing_keys()[1] == shown(document.channel_certificate)
    assert document.next_channel_certificate == ""
    assert open_recipients(document.recipients, identity.signing_key().public_key(), datetime.now(UTC))


def test_the_overlap_is_longer_than_any_gateway_keeps_a_trust_document() -> None:
    assert SIGNING_OVERLAP > identity.RECIPIENT_LIFE + SIGNING_MARGIN


def test_a_primary_that_was_off_for_a_year_signs_with_a_new_key_at_once() -> None:
    leave(timedelta(days=-10))
    identity.ensure_keys()
    assert signs() == signing_keys()[-1] and len(signing_keys()) == 2
