"""The Primary as the node behind the secrets API: it is the source, it applies at once."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from django.db import transaction
from django.utils.crypto import salted_hmac

from accounts.models import Project
from common.errors import Conflict
from common.locks import transaction_lock
from protocol.vocabulary import WriteOutcome
from vault import rules
from vault.elsewhere import denials_told, in_vault_first
from vault.models import AnsweredRequest, Secret
from vault.ports import Applied, Asker, Freshness, Origin, PendingCreation, SecretChange, ValueKeeper, Written
from vault.secrets import apply_change, check_change

REMEMBERED = timedelta(hours=24)
"""How long a repeated request is recognised."""


class PrimaryNode:
    """`vault.ports.SecretNode` on the Primary."""

    def __init__(self, keeper: ValueKeeper) -> None:
        self.keeper = keeper

    def admit(self) -> None:
        """The Primary always serves secrets."""

    def freshness(self, project: Project) -> Freshness | None:
        return None

    def pending(self, secret: uuid.UUID) -> uuid.UUID | None:
        """Writes that wait at a gateway are not known here."""
        return None

    def pending_of(self, secrets: Iterable[uuid.UUID]) -> Mapping[uuid.UUID, uuid.UUID]:
        return {}

    def creation_of(self, secret: uuid.UUID) -> PendingCreation | None:
        return None

    def write(self, change: SecretChange, asker: Asker, *, idempotency_key: str, now: datetime) -> Written:
        """With an idempotency key the same request is made once; another one under that key is IDEMPOTENCY_MISMATCH."""
        with denials_told(change, asker), transaction.atomic():
            if idempotency_key:
                applied = self._once(change, asker, idempotency_key, now)
            else:
                applied = self._apply(change, asker, now)
        return Written(WriteOutcome.APPLIED, None, applied.secret, applied.version)

    def _apply(self, change: SecretChange, asker: Asker, now: datetime) -> Applied:
        origin = Origin(asker.actor, asker.address)
        done = in_vault_first(
            change, asker, self.keeper, lambda tried: check_change(tried, origin, asker.principal, now)
        )  # fmt: skip
        return apply_change(done, origin, asker.principal, now)

    def _once(self, change: SecretChange, asker: Asker, key: str, now: datetime) -> Applied:
        """Twins wait for each other, so the second one finds the answer of the first."""
        transaction_lock(f"idempotency:{asker.actor}:{key}")
        digest = _digest(change)
        known = AnsweredRequest.objects.filter(actor=asker.actor, key=key).first()
        if known is not None and known.at >= now - REMEMBERED:
            if known.digest != digest:
                raise Conflict(
                    "Idempotency-Key: this key was used for another request; use a new one", code="IDEMPOTENCY_MISMATCH"
                )
            secret = Secret.objects.select_related("project", "environment").get(id=known.secret_id)
            place = rules.place_of(secret.project, secret.environment)
            rules.refuse_unless_allowed(asker.principal, change.operation, place)
            return Applied(secret, known.version, changed=False)
        applied = self._apply(change, asker, now)
        AnsweredRequest.objects.update_or_create(
            actor=asker.actor,
            key=key,
            defaults={"digest": digest, "secret": applied.secret, "version": applied.version, "at": now},
        )
        return applied


def _digest(change: SecretChange) -> str:
    return salted_hmac("answered-request", change.asked_for(), algorithm="sha256").hexdigest()
