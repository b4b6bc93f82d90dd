"""Where this app keeps sealed values, and the place each one is sealed for (`common.sealing.SealedColumn`)."""

from __future__ import annotations

import logging

from accounts.models import EntraSession, OboToken, Project, SignInAttempt
from common import sealing
from common.sealing import Place, SealBroken, SealedColumn

log = logging.getLogger("mazevault.accounts")
PLATFORM = "platform"


def attempt(row: SignInAttempt) -> Place:
    return PLATFORM, "accounts_signinattempt", str(row.id), 1


def entra_session(row: EntraSession) -> Place:
    """The version grows with each renewal, so an older row put back does not open."""
    return PLATFORM, "accounts_entrasession", str(row.session_id), row.version


def obo_token(row: OboToken) -> Place:
    """Session and resource, so a token moved to another user or API does not open."""
    return PLATFORM, "accounts_obotoken", f"{row.session_id}/{row.resource}", 1


def webhooks(row: Project) -> Place:
    """The version grows with each change, so an older list put back does not open."""
    return PLATFORM, "accounts_project", str(row.id), row.webhooks_version


def sealed(place: Place, text: str) -> bytes:
    """Seal a text; to be called in the transaction that stores it."""
    return sealing.sealer().seal(*place, text.encode())


def opened(place: Place, value: bytes | memoryview) -> str:
    return sealing.sealer().open_sealed(*place, bytes(value)).decode()


def opened_or_none(place: Place, value: bytes | memoryview) -> str | None:
    """The same for what its owner makes anew by signing in again: None where it does not open, which the log tells."""
    try:
        return opened(place, value)
    except SealBroken as broken:
        log.error("what is kept of a sign-in does not open and is given up: %s", broken)
        return None


COLUMNS = (
    SealedColumn("accounts.SignInAttempt", "sealed_flow", attempt),
    SealedColumn("accounts.EntraSession", "sealed_tokens", entra_session),
    SealedColumn("accounts.OboToken", "sealed_token", obo_token),
    SealedColumn("accounts.Project", "sealed_webhooks", webhooks),
)
