"""The Primary as the node behind the secrets API: it is the source, it applies at once."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.db import transaction

from accounts.access import Principal
from accounts.models import Project
from protocol.vocabulary import WriteOutcome
from vault.ports import Freshness, Origin, SecretChange, Written
from vault.secrets import apply_change


class PrimaryNode:
    """`vault.ports.SecretNode` on the Primary."""

    def admit(self) -> None:
        """The Primary always serves secrets."""

    def freshness(self, project: Project) -> Freshness | None:
        return None

    def pending(self, secret: uuid.UUID) -> uuid.UUID | None:
        """Writes that wait at a gateway are not known here."""
        return None

    def write(self, change: SecretChange, caller: Principal, *, address: str, idempotency_key: str, now: datetime) -> Written:
        with transaction.atomic():
            applied = apply_change(change, Origin(caller.actor, address), caller, now)
        return Written(WriteOutcome.APPLIED, None, applied.secret, applied.version)
