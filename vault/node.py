"""The Primary as the node behind the secrets API: it is the source, it applies at once."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.http import HttpRequest

from accounts.access import Principal
from accounts.authentication import admit, rights_of
from accounts.models import Environment, Project
from accounts.principals import principal_named
from common.errors import PermissionRefused
from protocol.vocabulary import WriteOperation, WriteOutcome
from vault import answered, claims, rules
from vault.answered import First
from vault.claims import Request
from vault.elsewhere import change_secret
from vault.models import Secret, VaultClaim
from vault.ports import Applied, Asker, Freshness, HotPart, Origin, PendingCreation, SecretChange, ValueKeeper, Written
from vault.secrets import apply_change, check_change


class PrimaryNode:
    """`vault.ports.SecretNode` on the Primary."""

    hot_part: HotPart | None = HotPart()
    applies_changes = True

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

    def hot_caller(self, token: str, request: HttpRequest, moment: datetime, needed: str) -> Principal | None:
        found = rights_of(token, moment)
        admit(found, request, moment)
        caller = found.principal(moment)
        return caller if needed in caller.permissions_anywhere else None

    def hot_standing(
        self, told: Sequence[Any], longest_age: int | None, moment: datetime
    ) -> tuple[Freshness | None, uuid.UUID | None]:
        return None, None

    def write(self, change: SecretChange, asker: Asker, *, idempotency_key: str, now: datetime) -> Written:
        """With an idempotency key the same request is made once; another one under that key is IDEMPOTENCY_MISMATCH."""
        fingerprint = change.fingerprint() if idempotency_key else ""
        request = Request(asker.actor, asker.address, idempotency_key, answered.digest_of(fingerprint), fingerprint)
        desk = PrimaryDesk(request, asker.principal, now)
        made = change_secret(change, asker, self.keeper, desk, lambda claim: desk_of(claim, now))
        if made.trouble is not None:
            raise made.trouble
        applied = made.result
        return Written(WriteOutcome.APPLIED, None, applied.secret, applied.version)


@dataclass(frozen=True)
class PrimaryDesk:
    """`vault.elsewhere.Desk`: the Primary applies."""

    request: Request
    caller: Principal
    now: datetime

    def known(self, change: SecretChange) -> Applied | None:
        """Twins wait for each other, so the second one finds the answer of the first, whichever node it was made at."""
        if not self.request.idempotency_key:
            return None
        asked = self.request.actor, self.request.idempotency_key
        answered.hold([asked])
        place = Environment.objects.filter(id=change.environment).values_list("gateway_environment", flat=True).first() or ""
        found = answered.firsts([asked], place, self.now).get(asked)
        if found is None:
            return None
        if found.environment != place:
            raise answered.mismatch()
        named = None if change.operation is WriteOperation.CREATE else change.secret
        found.refuse_other(self.request.fingerprint, change.operation.value, named, change)
        secret = Secret.objects.select_related("project", "environment").get(id=found.secret)
        rules.refuse_unless_allowed(self.caller, change.operation, rules.place_of(secret.project, secret.environment))
        return Applied(secret, found.version, changed=False)

    def goes_on(self, change: SecretChange) -> bool:
        return check_change(change, self._origin, self.caller, self.now)

    def ask(self, change: SecretChange) -> None:
        """The Primary has the last word itself."""

    def record(self, change: SecretChange, *, whole: bool = True) -> Applied:
        applied = apply_change(change, self._origin, self.caller, self.now)
        if whole and self.request.idempotency_key:
            scope = applied.secret.environment.gateway_environment
            first = First(self.request.digest, applied.secret.id, applied.version, scope, change.operation.value)
            answered.remember({(self.request.actor, self.request.idempotency_key): first}, self.now)
        return applied

    @property
    def _origin(self) -> Origin:
        return Origin(self.request.actor, self.request.address)


def desk_of(claim: VaultClaim, now: datetime) -> PrimaryDesk:
    """In the name of who began it, with what they may do now. Raises `PermissionRefused`."""
    caller = principal_named(claim.actor, now)
    if caller is None:
        raise PermissionRefused("who made this change may not make it any more", code="ACTOR_NOT_ALLOWED")
    return PrimaryDesk(claims.request_of(claim), caller, now)
