"""A gateway as the node behind the secrets API: it reads its copy, and every change goes through its queue (DESIGN §9).

The answer says what is true: applied when the Primary has applied it, queued when only this gateway holds it.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NoReturn

from django.conf import settings
from django.db import transaction
from django.http import HttpRequest
from msgspec import structs

from accounts.access import Principal
from accounts.models import Environment, Project
from accounts.sessions import hash_token
from common import errors
from common.clock import now as clock_now
from common.direct import give_connection_back
from common.errors import Conflict, MazeVaultError, NotFound, Unavailable, ValidationFailed
from gateway_runtime import current, marks, principals, replica, state, why, write_queue
from gateway_runtime.client import PrimaryRefused, PrimaryUnreachable
from gateway_runtime.models import NodeState, PendingWrite
from gateway_runtime.state import standing_of
from gateway_runtime.storage_ways import GatewayWays
from gateway_runtime.supervisor import BUSY, Supervisor
from integrations.keeping import VaultKeeper
from protocol import paths
from protocol.vocabulary import Assignment, BreakerState, WriteOperation, WriteOutcome
from protocol.writes import WriteBatch, WriteCheck, WriteKnown, WriteReceipt, WriteReceipts
from vault import answered, claims, elsewhere, rules
from vault.claims import Request
from vault.elsewhere import Made, change_secret, take_back
from vault.models import Secret, SecretStatus, VaultClaim
from vault.ports import AnsweredBefore, Asker, Freshness, HotPart, PendingCreation, SecretChange, ValueKeeper, Written

log = logging.getLogger("mazevault.gateway.secrets")

APPLY_SECONDS = 5.0
"""How long a caller waits for the Primary to apply a change before it is promised instead."""
CATCH_UP_SECONDS = 3.0
STALE_POLLS = 5
"""A copy that was not complete for so many polls is called stale."""
STATUS_OF_CODE = {
    "VALIDATION_ERROR": 400, "RESOURCE_NOT_FOUND": 404, "PROJECT_NOT_FOUND": 404, "PERMISSION_DENIED": 403,
    "ACTOR_NOT_ALLOWED": 403, "AUTHOR_NOT_BELIEVED": 403, "PREVIOUS_NOT_APPLIED": 409, "BASE_FROM_FUTURE": 409, "NOT_ACTIVE": 503,
    "STALE_EPOCH": 503, "GATEWAY_HELD": 503, "ENVIRONMENT_HELD": 503, "AUDIT_UNAVAILABLE": 503,
    "ANOTHER_INSTANCE": 503, "GATEWAY_QUARANTINED": 503,
}  # fmt: skip
"""How a refusal of the Primary is answered; any other code is a conflict. 503 is for what passes by itself or with a failover."""
_AGAIN = 2
"""Tries of a change that names no version: another one at the Primary may have come between the copy and now."""


class GatewayNode:
    """`vault.ports.SecretNode` on a gateway."""

    applies_changes = False
    hot_part: HotPart | None = HotPart(
        columns=""", n.replica_complete_at, n.assigned_role, n.assigned_epoch, n.highest_epoch, n.fenced_epoch,
       (SELECT w.id FROM gateway_runtime_pendingwrite w WHERE w.secret = s.id AND w.outcome IN ('queued', 'received')
         ORDER BY w.life DESC, w.sequence DESC LIMIT 1)""",
        sources="\n  CROSS JOIN gateway_runtime_nodestate n",
    )

    def __init__(self, keeper: ValueKeeper) -> None:
        self.keeper = keeper

    def admit(self) -> None:
        """The active gateway serves, also while it is cut off and while it hands over."""
        _refuse_unless_active(state.this_life())

    def freshness(self, project: Project) -> Freshness | None:
        return _freshness(state.this_life(), project.max_staleness_seconds, clock_now())

    def hot_caller(self, token: str, request: HttpRequest, moment: datetime, needed: str) -> Principal | None:
        found = principals.rights_of(hash_token(token), moment)
        caller = principals.principal_of(found, moment) if found else None
        if caller is None or needed not in caller.permissions_anywhere:
            return None
        principals.count_call(token, caller, request, moment)
        return caller

    def hot_standing(
        self, told: Sequence[Any], longest_age: int | None, moment: datetime
    ) -> tuple[Freshness | None, uuid.UUID | None]:
        *facts, pending = told
        here = state.Standing(*facts)
        principals.refuse_old_copy(here, moment)
        _refuse_unless_active(here)
        return _freshness(here, longest_age, moment), pending

    def pending(self, secret: uuid.UUID) -> uuid.UUID | None:
        found = write_queue.newest_open(secret)
        return found.id if found else None

    def pending_of(self, secrets: Iterable[uuid.UUID]) -> Mapping[uuid.UUID, uuid.UUID]:
        return write_queue.newest_open_of(secrets)

    def creation_of(self, secret: uuid.UUID) -> PendingCreation | None:
        write = write_queue.open_creation(secret)
        if write is None or Secret.objects.filter(id=secret).exists():
            return None
        project = Project.objects.filter(id=write.project, deleted_at=None).first()
        environment = Environment.objects.filter(id=write.environment, deleted_at=None).first()
        if project is None or environment is None or environment.organization_id != project.organization_id:
            return None
        return PendingCreation(write.id, Secret(id=secret, project=project, environment=environment, key=write.key))

    def write(self, change: SecretChange, asker: Asker, *, idempotency_key: str, now: datetime) -> Written:
        """Queue the change, and have it applied at once while the Primary answers and nothing older waits for the secret.

        What a vault has to hear of is done there first, under the lease; without the lease it is refused, not promised.
        """
        rules.refuse_malformed(change)
        _refuse_unless_allowed(change, asker.principal)
        fingerprint = change.fingerprint() if idempotency_key else ""
        request = Request(asker.actor, asker.address, idempotency_key, write_queue.request_digest(change), fingerprint)
        try:
            return self._write(change, asker, request, now)
        except AnsweredBefore as first:
            return _answered(first, change)
        except (Conflict, NotFound) as refused:
            if not idempotency_key or refused.code == answered.MISMATCH:
                raise
            first_answer = _first_answer(change, request)
            if first_answer is None:
                raise
            return _answered(first_answer, change)

    def _write(self, change: SecretChange, asker: Asker, request: Request, now: datetime) -> Written:
        desk = Acceptance(request, now)
        for tries_left in reversed(range(_AGAIN)):
            made = change_secret(change, asker, self.keeper, desk, desk_of)
            change, write = made.change, made.result.write
            try:
                written = self._carried_on(made)
            except Conflict as conflict:
                if change.base_version is not None or conflict.code != "VERSION_CONFLICT" or not tries_left:
                    self._take_back(change, asker)
                    raise
                _catch_up(change.secret, write.base_version or 0, at_least_newer=True)
            except MazeVaultError:
                self._take_back(change, asker)
                raise
            else:
                if made.trouble is not None:
                    raise made.trouble
                return written
        raise AssertionError("the last try returns or raises")

    def _carried_on(self, made: Made[write_queue.Accepted]) -> Written:
        """From the queue to the Primary, while that answers and nothing older waits for the secret."""
        write = made.result.write
        if not made.result.fresh:
            return _as_it_stands(write, made.change)
        if write.previous is not None or _supervisor().node.breaker.state is not BreakerState.CLOSED:
            return _promised(write, made.change)
        return _apply_now(write, made.change)

    def _take_back(self, change: SecretChange, asker: Asker) -> None:
        """The Primary refused what the vault has already: what is recorded shall count there again."""
        try:
            take_back(change, asker.actor, self.keeper, desk_of)
        except MazeVaultError as trouble:
            log.warning("a refused change of %s stays in its vault for now: %s", change.secret, trouble)


@dataclass(frozen=True)
class Acceptance:
    """`vault.elsewhere.Desk`: how a request enters the queue. Its digest is of what was asked for, whatever becomes of it."""

    request: Request
    now: datetime

    def known(self, change: SecretChange) -> write_queue.Accepted | None:
        """What an earlier request with this key made."""
        request = self.request
        found = write_queue.same_request(request.actor, request.idempotency_key, request.digest, change, self.now)
        return write_queue.Accepted(found, fresh=False) if found else None

    def goes_on(self, change: SecretChange) -> bool:
        """Try to enter the queue and take it back; raises what refuses it."""
        with transaction.atomic():
            self.record(change)
            transaction.set_rollback(True)
        return True

    def ask(self, change: SecretChange) -> None:
        """Ask the Primary; raises what it refuses, and `AnsweredBefore`. While it is away, the lease is right enough.

        Only while nothing older waits for the secret can the Primary say.
        """
        if write_queue.to_build_on(change.secret, state.this_life().generation) is None:
            known = _ask_whether(change, self.request)
            if known is not None:
                raise known

    def record(self, change: SecretChange, *, whole: bool = True) -> write_queue.Accepted:
        request = self.request
        return write_queue.accept(
            change, request.actor, _supervisor().known_identity(), now=self.now, address=request.address,
            idempotency_key=request.idempotency_key if whole else "", digest=request.digest, fingerprint=request.fingerprint,
        )  # fmt: skip


def desk_of(claim: VaultClaim) -> Acceptance:
    """For who began it. Whether they still may, the Primary decides when the write is applied."""
    return Acceptance(claims.request_of(claim), clock_now())


def sweep_claims() -> int:
    """End the changes of vaults that were begun here by a process that is gone (ADR 30)."""
    return elsewhere.sweep(VaultKeeper(GatewayWays()), desk_of)


def _apply_now(write: PendingWrite, change: SecretChange) -> Written:
    """Send this one write while its caller waits. No clear answer in time makes it a promise."""
    receipt = _ask_to_apply(write)
    if receipt is None or not receipt.outcome.terminal:
        return _promised(write, change)
    write_queue.settle([receipt], clock_now())
    write.refresh_from_db()
    if write.outcome == WriteOutcome.REFUSED:
        _raise_refusal(write)
    return _as_it_stands(write, change)


def _ask_to_apply(write: PendingWrite) -> WriteReceipt | None:
    batch = WriteBatch(writes=[write_queue.on_the_wire(write, promised=False)], apply_now=True, mark=marks.kept())
    give_connection_back()
    timeout = min(APPLY_SECONDS, settings.MAZEVAULT.timing.round_trip_max)
    try:
        answer = _supervisor().channel.call(paths.WRITES, batch, WriteReceipts, timeout=timeout)
    except PrimaryUnreachable:
        return None
    except PrimaryRefused as refused:
        if _supervisor().take_refusal(refused):
            return WriteReceipt(str(write.id), WriteOutcome.REFUSED, 0, "NOT_ACTIVE", "this gateway is not active any more")
        return None
    return next((receipt for receipt in answer.receipts if receipt.id == str(write.id)), None)


def _first_answer(change: SecretChange, request: Request) -> AnsweredBefore | None:
    """What is refused here may have been made elsewhere, which is why: the Primary knows. None where it does not, or is away.

    Raises `Conflict` (IDEMPOTENCY_MISMATCH).
    """
    try:
        return _ask_whether(change, request)
    except MazeVaultError as refused:
        if refused.code == answered.MISMATCH:
            raise
        return None


def _answered(first: AnsweredBefore, change: SecretChange) -> Written:
    """The answer that the same request got at another node."""
    rows = Secret.objects.select_related("project", "environment")
    secret = _catch_up(first.secret, first.version) or rows.filter(id=first.secret).first()
    if secret is None:
        raise Unavailable(
            "this was carried out at another node, and the copy here does not show it yet; try again", code="REPLICA_BEHIND",
            retry_after=2,
        )  # fmt: skip
    secret.project.max_staleness_seconds = None
    return Written(WriteOutcome.APPLIED, None, secret, first.version, secret_id=secret.id)


def _ask_whether(change: SecretChange, request: Request) -> AnsweredBefore | None:
    """Raises what the Primary refuses; returns what it answered the same request with before. None also while it is away."""
    question = WriteCheck(
        state.this_life().assigned_epoch, change.operation, str(change.secret), str(change.project), str(change.environment),
        change.key, change.base_version, request.actor, structs.replace(change.body, value=None, request=request.fingerprint),
        request.idempotency_key,
    )  # fmt: skip
    timeout = min(APPLY_SECONDS, settings.MAZEVAULT.timing.round_trip_max)
    give_connection_back()
    try:
        known = _supervisor().channel.call(paths.WRITES_CHECK, question, WriteKnown, timeout=timeout)
        return AnsweredBefore(uuid.UUID(known.secret), known.version) if known.secret else None
    except PrimaryUnreachable:
        return None
    except PrimaryRefused as refused:
        if refused.status in BUSY and refused.code not in STATUS_OF_CODE:  # it said nothing about the change
            raise Unavailable("the Primary is busy; try again in a moment", retry_after=refused.retry_after or 2) from refused
        _supervisor().take_refusal(refused)
        _refuse(refused.code, refused.sentence)


def _promised(write: PendingWrite, change: SecretChange) -> Written:
    """The promise is committed before it is told. Whoever settled the write meanwhile has the last word."""
    promised = write_queue.promise(write, clock_now())
    _supervisor().wake_uploads.set()
    return _as_it_stands(promised, change)


def _as_it_stands(write: PendingWrite, change: SecretChange) -> Written:
    outcome = WriteOutcome(write.outcome)
    if outcome is WriteOutcome.REFUSED:
        _raise_refusal(write)
    if outcome is WriteOutcome.DUPLICATE and write.version:
        outcome = WriteOutcome.APPLIED  # the same request was, before: its answer is this one's
    if outcome is not WriteOutcome.APPLIED:
        told = why.of_write(waiting(write, behind=write.previous, away_since=away_since(clock_now())))
        return Written(
            outcome, write.id, None, write.version, secret_id=write.secret, because=told.because, since=told.since
        )  # fmt: skip
    secret = _catch_up(write.secret, write.version) or _imagined(write, change)
    # The change is made: how old the copy of its project is may not turn the answer into an error any more.
    secret.project.max_staleness_seconds = None
    return Written(outcome, write.id, secret, write.version, secret_id=write.secret)


def away_since(moment: datetime) -> datetime | None:
    """Since when the Primary does not answer this gateway; None while it does."""
    found = current.supervisor
    seconds = found.node.breaker.silence(time.monotonic()) if found is not None and found.identity is not None else None
    return moment - timedelta(seconds=seconds) if seconds is not None else None


def waiting(write: PendingWrite, *, behind: uuid.UUID | None, away_since: datetime | None) -> why.Waiting:
    return why.Waiting(WriteOutcome(write.outcome), write.accepted_at, write.settled_at, write.detail, behind, away_since)


def _catch_up(secret: uuid.UUID, version: int, *, at_least_newer: bool = False) -> Secret | None:
    """The copy after an applied change, so that who wrote reads what they wrote, with the Primary's own times."""
    supervisor = _supervisor()
    wanted = version + 1 if at_least_newer else version
    give_connection_back()
    try:
        environment = supervisor.known_identity().environment
        return replica.catch_up(supervisor.channel, environment, secret, wanted, CATCH_UP_SECONDS)
    except PrimaryUnreachable:
        return None
    except PrimaryRefused as refused:
        supervisor.take_refusal(refused)
        return None
    finally:
        supervisor.wake_replica.set()


def _imagined(write: PendingWrite, change: SecretChange) -> Secret:
    """The secret as the change left it, while the copy is still behind: built from the wish and the version it became."""
    secret = Secret.objects.select_related("project", "environment").filter(id=write.secret).first()
    if secret is None:
        secret = Secret(
            id=write.secret,
            project=Project.objects.get(id=write.project),
            environment=Environment.objects.get(id=write.environment),
            key=write.key,
            created_by=write.actor,
            created_at=write.accepted_at,
        )
    secret.version, secret.updated_at = write.version, write.accepted_at
    for name in ("ttl_hours", "metadata", "type", "description", "tags", "rotation"):
        wished = getattr(change.body, name)
        if wished is not None:
            setattr(secret, name, wished)
    secret.status = _STATUS_AFTER.get(change.operation, secret.status)
    return secret


_STATUS_AFTER = {
    WriteOperation.ARCHIVE: SecretStatus.ARCHIVED,
    WriteOperation.RESTORE: SecretStatus.ACTIVE,
    WriteOperation.DELETE: SecretStatus.DELETED,
    WriteOperation.PURGE: SecretStatus.PURGED,
}


def _refuse_unless_active(here: NodeState | state.Standing) -> None:
    if standing_of(here) not in (Assignment.ACTIVE, Assignment.DRAINING):
        raise Unavailable("this gateway is not the active one of its environment", code="NOT_ACTIVE", retry_after=5)


def _freshness(here: NodeState | state.Standing, longest: int | None, moment: datetime) -> Freshness:
    as_of, age, timing = here.replica_complete_at, state.age_of_copy(here, moment), settings.MAZEVAULT.timing
    if as_of is None or age is None:
        raise Unavailable("this gateway has not read its environment yet; try again", code="REPLICA_INCOMPLETE", retry_after=2)
    if longest is not None and age > longest:
        raise Unavailable(
            f"the copy of this project is {_in_words(age)} old and may be at most {longest} s old", code="STALE",
            retry_after=timing.replica_poll,
        )  # fmt: skip
    return Freshness(as_of, stale=age > STALE_POLLS * timing.replica_poll)


def _in_words(age: float) -> str:
    return f"{age:.0f} s" if math.isfinite(age) else "nobody knows how"


def _refuse_unless_allowed(change: SecretChange, caller: Principal) -> None:
    """The same questions, the same sentences as at the Primary, asked of the copy."""
    project = Project.objects.filter(id=change.project, deleted_at=None).first()
    if project is None:
        raise NotFound(rules.PROJECT_ABSENT, code="PROJECT_NOT_FOUND")
    environment = Environment.objects.filter(
        id=change.environment, organization_id=project.organization_id, deleted_at=None
    ).first()
    if environment is None:
        raise ValidationFailed("environment: the project's organization has no such environment here")
    absent = rules.PROJECT_ABSENT if change.operation is WriteOperation.CREATE else rules.ABSENT
    rules.refuse_unless_allowed(caller, change.operation, rules.place_of(project, environment), absent)


def _raise_refusal(write: PendingWrite) -> NoReturn:
    _refuse(write.code, write.detail)


def _refuse(code: str, detail: str) -> NoReturn:
    status = STATUS_OF_CODE.get(code, 409)
    if status == 503:
        raise Unavailable(detail or "the Primary takes no changes now; try again", code=code, retry_after=5)
    kind: type[MazeVaultError] = {
        400: errors.ValidationFailed, 403: errors.PermissionRefused, 404: errors.NotFound
    }.get(status, Conflict)  # fmt: skip
    raise kind(detail or "the Primary refused the change", code=code or None)


def _supervisor() -> Supervisor:
    return current.registered()
