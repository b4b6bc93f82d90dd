"""Settling one received write: facts under locks, one decision, carried out in the caller's transaction (DESIGN §9, I3, I8, I9).

Locks are taken in one order: route, write, secret. The route is shared, so that applying and promoting never overlap, but only
against changes of who is active: a lease is renewed beside it.
"""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, OperationalError, connection, transaction
from django.db.models import Max
from django.utils.dateparse import parse_datetime

from accounts.access import Principal
from accounts.models import Environment, Project
from accounts.principals import principal_named
from common import audit
from common.errors import MazeVaultError, Unavailable
from common.rows import hold
from gateways.models import Gateway, GatewayStatus, ReceivedWrite, Route
from gateways.reconciliation import (
    Decision,
    Facts,
    PolicyFacts,
    PreviousFacts,
    RouteFacts,
    SecretFacts,
    Verdict,
    WriteFacts,
    decide,
)
from gateways.write_bodies import open_body
from protocol.vocabulary import WriteOperation, WriteOutcome
from vault import rules
from vault.models import Secret, SecretStatus
from vault.ports import Origin, SecretChange
from vault.secrets import apply_change

log = logging.getLogger("mazevault.gateways.settlement")

ATTEMPTS = 5
RETRY_BASE, RETRY_CAP = timedelta(seconds=2), timedelta(minutes=5)
"""First and longest pause before a write that met a passing failure is tried again (reliability §5, poison)."""
SHORTEST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds until a write that waits for another is looked at again; what it waits for wakes it earlier."""
TRUSTED_SKEW_SECONDS = 30.0
"""A gateway whose clock is further off does not win by its times."""
CONFLICTS = frozenset({"VERSION_CONFLICT", "DUPLICATE_NAME", "SECRET_ARCHIVED", "SECRET_IN_USE"})
"""Codes of refusals that a person can decide between two sides; all others mean that the write cannot be applied at all."""
KEPT = (WriteOutcome.CONFLICT, WriteOutcome.QUARANTINED, WriteOutcome.DEAD_LETTER)
"""Outcomes that wait for a person, with their content."""

_SHARE_ROUTE = "SELECT 1 FROM gateways_route WHERE environment_id = %s FOR KEY SHARE"
_STORE = """
UPDATE gateways_receivedwrite
   SET outcome = %s, version = %s, code = %s, detail = %s, attempts = %s, not_before = %s, settled_at = %s, settled_by = %s,
       resolution = %s, promised = %s, sealed_body = CASE WHEN %s THEN sealed_body END
 WHERE id = %s
"""
_WAKE_FOLLOWERS = """
UPDATE gateways_receivedwrite SET not_before = %s
 WHERE id IN (SELECT id FROM gateways_receivedwrite
               WHERE outcome = 'received' AND previous = ANY(%s) AND not_before > %s FOR UPDATE SKIP LOCKED)
"""
_TALLY = """
INSERT INTO gateways_writetally (environment_id, outcome, total) VALUES (%s, %s, %s)
ON CONFLICT (environment_id, outcome) DO UPDATE SET total = gateways_writetally.total + excluded.total
"""


Place = tuple[Project, Environment]


@dataclass
class Scene:
    """What the writes of one transaction have in common: an environment, its locked route, who is who, what is where.

    Lives no longer than the transaction: everything in it is locked, or was read after the locks were taken.
    """

    environment: str
    now: datetime
    route: Route
    gateways: dict[uuid.UUID, tuple[Gateway, float]] = field(default_factory=dict)
    principals: dict[str, Principal | None] = field(default_factory=dict)
    places: dict[tuple[uuid.UUID, uuid.UUID], Place | None] = field(default_factory=dict)
    secrets: dict[uuid.UUID, Secret | None] = field(default_factory=dict)
    writes: dict[uuid.UUID, ReceivedWrite] = field(default_factory=dict)
    waiting: dict[uuid.UUID, set[tuple[int, uuid.UUID]]] = field(default_factory=dict)
    newest_applied: dict[tuple[uuid.UUID, uuid.UUID, uuid.UUID], int] = field(default_factory=dict)
    changed: dict[uuid.UUID, ReceivedWrite] = field(default_factory=dict)
    settled: list[uuid.UUID] = field(default_factory=list)
    tally: Counter[str] = field(default_factory=Counter)

    @staticmethod
    def open(environment: str, now: datetime) -> Scene:
        """Lock the route against promotion and read it. Must run inside `atomic`."""
        with connection.cursor() as cursor:
            cursor.execute(_SHARE_ROUTE, [environment])
        return Scene(environment, now, Route.objects.get(environment_id=environment))

    def prepare(self, rows: Sequence[ReceivedWrite]) -> None:
        """Lock the secrets of these locked writes, and read what came before each, in a few queries for all of them."""
        self._lock_secrets({row.secret for row in rows if row.secret and row.secret not in self.secrets})
        self.writes |= {row.id: row for row in rows}
        unread = {row.previous for row in rows if row.previous} - self.writes.keys()
        named = ReceivedWrite.objects.filter(id__in=unread, environment_id=self.environment).defer("sealed_body", "head")
        self.writes |= {row.id: row for row in named}
        streams = {(row.gateway_id, row.generation) for row in rows}
        for gateway, generation in streams:
            secrets = {row.secret for row in rows if row.secret}
            self._read_waiting(gateway, generation, secrets)
            first = min(row.sequence for row in rows if (row.gateway_id, row.generation) == (gateway, generation))
            self._read_applied(gateway, generation, secrets, first)

    def close(self) -> None:
        """Store what became of the writes, wake what waited for them and count; last, since the counters are everybody's."""
        with connection.cursor() as cursor:
            if self.changed:
                cursor.executemany(_STORE, [_stored(row) for row in self.changed.values()])
            if self.settled:
                cursor.execute(_WAKE_FOLLOWERS, [self.now, self.settled, self.now])
            for outcome, count in sorted(self.tally.items()):
                cursor.execute(_TALLY, [self.environment, outcome, count])

    def gateway(self, identifier: uuid.UUID) -> tuple[Gateway, float]:
        """A gateway as it is now, and how far off its clock was last seen, in seconds."""
        if identifier not in self.gateways:
            skew = GatewayStatus.objects.filter(gateway_id=identifier).values_list("clock_skew_seconds", flat=True).first()
            self.gateways[identifier] = (Gateway.objects.get(id=identifier), skew or 0.0)
        return self.gateways[identifier]

    def principal(self, actor: str) -> Principal | None:
        """Who made the write and what they may do now, not then."""
        if actor not in self.principals:
            self.principals[actor] = principal_named(actor, self.now)
        return self.principals[actor]

    def place(self, row: ReceivedWrite) -> Place | None:
        """Project and project environment of a write, if both live, belong together and are of this gateway environment (I13)."""
        if row.project is None or row.project_environment is None:
            return None
        key = (row.project, row.project_environment)
        if key not in self.places:
            self.places[key] = place_of_write(self.environment, *key)
        return self.places[key]

    def secret(self, row: ReceivedWrite) -> Secret | None:
        """The secret, locked until the transaction ends, if it is in exactly the place the write names."""
        if row.secret is None:
            return None
        if row.secret not in self.secrets:
            self._lock_secrets({row.secret})
        found = self.secrets[row.secret]
        named = (row.project, row.project_environment)
        return found if found and (found.project_id, found.environment_id) == named else None

    def forget_secret(self, row: ReceivedWrite) -> None:
        """What was done to it was taken back, so the object is not what is stored."""
        if row.secret:
            self.secrets.pop(row.secret, None)

    def earlier_waits(self, row: ReceivedWrite) -> bool:
        """Whether an earlier write of the stream to the same secret is open, even when this one does not name it."""
        waiting = self.waiting.get(row.secret, set()) if row.secret else set()
        return any(sequence < row.sequence for sequence, _ in waiting)

    def later_applied(self, row: ReceivedWrite) -> bool:
        """Whether a later write of the stream to the same secret was applied: what is older may not go on top of it (I9)."""
        newest = self.newest_applied.get((row.gateway_id, row.generation, row.secret), 0) if row.secret else 0
        return newest > row.sequence

    def _lock_secrets(self, identifiers: set[uuid.UUID]) -> None:
        if not identifiers:
            return
        theirs = Secret.objects.filter(id__in=identifiers, environment__gateway_environment=self.environment)
        hold(Secret, list(theirs.values_list("pk", flat=True)), no_key=True)
        found = theirs.select_related("project", "environment")
        self.secrets |= {**dict.fromkeys(identifiers), **{secret.id: secret for secret in found}}

    def _read_waiting(self, gateway: uuid.UUID, generation: uuid.UUID, secrets: set[uuid.UUID]) -> None:
        open_rows = ReceivedWrite.objects.filter(
            gateway_id=gateway, generation=generation, secret__in=secrets, outcome=WriteOutcome.RECEIVED, in_stream=True
        )
        for secret, sequence, identifier in open_rows.values_list("secret", "sequence", "id"):
            if secret:
                self.waiting.setdefault(secret, set()).add((sequence, identifier))

    def _read_applied(self, gateway: uuid.UUID, generation: uuid.UUID, secrets: set[uuid.UUID], after: int) -> None:
        """Looks only behind `after`, which is the end of the stream unless somebody tries an old write again."""
        applied = ReceivedWrite.objects.filter(
            gateway_id=gateway, generation=generation, sequence__gt=after, in_stream=True, secret__in=secrets,
            outcome=WriteOutcome.APPLIED,
        )  # fmt: skip
        for secret, newest in applied.values("secret").annotate(newest=Max("sequence")).values_list("secret", "newest"):
            if secret:
                self.newest_applied[gateway, generation, secret] = newest


def settle(row: ReceivedWrite, scene: Scene, *, caller_waits: bool = False) -> WriteOutcome:
    """Decide on a locked row and carry it out. One write's trouble is its own: it is counted against it and nothing rises."""
    try:
        with transaction.atomic():
            _carry_out(row, decide(_facts(row, scene, caller_waits)), scene, caller_waits)
    except Unavailable as down:
        scene.forget_secret(row)
        _try_again(row, down, scene, gives_up=False)
    except MazeVaultError as refused:
        scene.forget_secret(row)
        _take_refusal(row, refused, scene, caller_waits)
    except (DataError, IntegrityError) as error:
        scene.forget_secret(row)
        finish(row, WriteOutcome.DEAD_LETTER, scene, code="NOT_STORABLE", detail=f"the database refuses it: {_name(error)}")
    except (OperationalError, InterfaceError) as error:
        if connection.connection is None or connection.connection.closed:
            raise  # nothing can be noted either
        scene.forget_secret(row)
        _try_again(row, error, scene, gives_up=False)
    except Exception as error:  # a poison item must not stop the others, whatever is wrong with it
        if isinstance(error, DatabaseError) and connection.connection is not None and connection.connection.closed:
            raise
        scene.forget_secret(row)
        _try_again(row, error, scene)
    return WriteOutcome(row.outcome)


def change_of(row: ReceivedWrite, base: int | None) -> SecretChange:
    """The write as a change of a secret. Raises `BodyUnusable`."""
    assert row.secret and row.project and row.project_environment  # noqa: S101  a write in its stream names all three
    return SecretChange(
        WriteOperation(row.operation), row.secret, row.project, row.project_environment, row.key, base, open_body(row)
    )


def finish(
    row: ReceivedWrite, outcome: WriteOutcome, scene: Scene, *, version: int = 0, code: str = "", detail: str = "",
    by: str = "system", resolution: str = "",
) -> None:  # fmt: skip
    """Note how a write ended; the scene stores it when it closes. Content stays only where a person may still decide.

    Everything but an applied write is audited here; an applied one is audited as the change it made.
    """
    if outcome is not WriteOutcome.APPLIED:
        tell(row, f"gateway.write.{outcome.value}", actor=by, severity=_severity(outcome), code=code)
    row.outcome, row.version, row.code, row.detail = outcome.value, version, code, detail[:500]
    row.settled_at, row.settled_by, row.resolution = scene.now, by, resolution
    if outcome not in KEPT or resolution == "discard":
        row.sealed_body = None
    scene.changed[row.id] = row
    scene.settled.append(row.id)
    scene.tally[outcome.value] += 1
    if row.secret:
        scene.waiting.get(row.secret, set()).discard((row.sequence, row.id))


def tell(row: ReceivedWrite, action: str, *, actor: str, severity: audit.Severity, address: str = "", **more: object) -> None:
    """The audit entry of what happened to a write; never its content."""
    audit.record(
        actor=actor, action=action, entity="write", entity_id=str(row.id), severity=severity, environment=row.environment_id,
        address=address,
        details={
            "gateway": str(row.gateway_id), "epoch": row.epoch, "sequence": row.sequence, "secret": str(row.secret or ""),
            "author": row.actor, "code": row.code, **more,
        },
    )  # fmt: skip


def _facts(row: ReceivedWrite, scene: Scene, caller_waits: bool) -> Facts:
    gateway, skew = scene.gateway(row.gateway_id)
    place = scene.place(row)
    accepted = _moment(row.accepted_at)
    operation = WriteOperation(row.operation)
    return Facts(
        write=WriteFacts(
            operation=operation,
            gateway=str(row.gateway_id),
            generation=str(row.generation),
            epoch=row.epoch,
            base=row.base_version,
            accepted_at=accepted,
            waiting_seconds=(scene.now - row.received_at).total_seconds(),
            caller_waits=caller_waits,
            names_previous=row.previous is not None,
        ),
        route=_route_facts(scene.route, gateway),
        secret=_secret_facts(scene.secret(row)) if place else None,
        previous=_previous_facts(row, scene),
        policy=_policy(place),
        place_exists=place is not None,
        key_taken=place is not None and operation is WriteOperation.CREATE and _key_is_taken(row.key, place),
        actor_allowed=place is not None and _is_allowed(scene.principal(row.actor), operation, place),
        earlier_waits=scene.earlier_waits(row),
        later_applied=scene.later_applied(row),
        clock_trusted=abs(skew) <= TRUSTED_SKEW_SECONDS and accepted is not None and _is_past(accepted, row.received_at),
    )


def _route_facts(route: Route, gateway: Gateway) -> RouteFacts:
    return RouteFacts(
        epoch=route.epoch,
        active_gateway=str(route.active_gateway_id or ""),
        generation=str(gateway.generation),
        frozen=bool(route.danger),
        held=gateway.held_at is not None,
        banned=gateway.banned_at is not None,
    )


def _secret_facts(secret: Secret | None) -> SecretFacts | None:
    if secret is None:
        return None
    return SecretFacts(secret.version, secret.updated_at, living=secret.status == SecretStatus.ACTIVE)


def _previous_facts(row: ReceivedWrite, scene: Scene) -> PreviousFacts | None:
    found = scene.writes.get(row.previous) if row.previous else None
    if found is None:
        return None
    same = (found.gateway_id, found.secret) == (row.gateway_id, row.secret) and found.in_stream
    earlier = found.generation != row.generation or found.sequence < row.sequence
    return PreviousFacts(WriteOutcome(found.outcome), found.version, found.base_version, same_stream=same and earlier)


def _policy(place: Place | None) -> PolicyFacts:
    if place is None:
        return PolicyFacts()
    project, environment = place
    return PolicyFacts(project.conflict_strategy, project.stale_epoch_policy, environment.is_production)


def _key_is_taken(key: str, place: Place) -> bool:
    return Secret.objects.filter(project=place[0], environment=place[1], key=key, deleted_at=None).exists()


def _is_allowed(principal: Principal | None, operation: WriteOperation, place: Place) -> bool:
    return principal is not None and principal.may(rules.NEEDED[operation], rules.place_of(*place))


def place_of_write(code: str, project_id: uuid.UUID, environment_id: uuid.UUID) -> Place | None:
    """Project and project environment, if both live, belong together and are of the gateway environment `code` (I13)."""
    environment = Environment.objects.filter(id=environment_id, gateway_environment=code, deleted_at=None).first()
    project = Project.objects.filter(id=project_id, deleted_at=None, organization__deleted_at=None).first()
    if environment is None or project is None or project.organization_id != environment.organization_id:
        return None
    return project, environment


def _carry_out(row: ReceivedWrite, decision: Decision, scene: Scene, caller_waits: bool) -> None:
    if decision.verdict is Verdict.APPLY:
        _apply(row, decision, scene)
    elif decision.verdict is Verdict.WAIT:
        _wait(row, decision, scene)
    else:
        discarded = decision.verdict is Verdict.DISCARD
        finish(
            row, _OUTCOMES[decision.verdict], scene, code=decision.code, detail=decision.sentence,
            by="policy" if discarded else "system", resolution="discard" if discarded else "",
        )  # fmt: skip


_OUTCOMES = {
    Verdict.SUPERSEDE: WriteOutcome.SUPERSEDED,
    Verdict.CONFLICT: WriteOutcome.CONFLICT,
    Verdict.QUARANTINE: WriteOutcome.QUARANTINED,
    Verdict.DISCARD: WriteOutcome.QUARANTINED,
    Verdict.DEAD_LETTER: WriteOutcome.DEAD_LETTER,
    Verdict.REFUSE: WriteOutcome.REFUSED,
}


def _apply(row: ReceivedWrite, decision: Decision, scene: Scene) -> None:
    """Through the one road every change takes. A replayed write of the past is a change of the present that names it (I3)."""
    epoch = scene.route.epoch if decision.as_new else row.epoch
    origin = Origin(actor=row.actor, node=f"gateway:{row.gateway_id}", write=row.id, epoch=epoch)
    caller, held = scene.principal(row.actor), scene.secret(row)
    applied = apply_change(change_of(row, decision.base), origin, caller, scene.now, held=held)
    scene.secrets[applied.secret.id] = applied.secret
    if decision.as_new:
        tell(row, "gateway.write.replayed", actor="policy", severity=audit.Severity.WARNING, as_epoch=epoch)
    finish(row, WriteOutcome.APPLIED, scene, version=applied.version, resolution=("replay" if decision.as_new else ""))


def _wait(row: ReceivedWrite, decision: Decision, scene: Scene) -> None:
    """Look again later: the longer it has waited already, the later."""
    waited = (scene.now - row.received_at).total_seconds()
    row.not_before = scene.now + timedelta(seconds=min(max(waited / 4, SHORTEST_WAIT), LONGEST_WAIT))
    row.code, row.detail = decision.code, decision.sentence[:500]
    scene.changed[row.id] = row


def _take_refusal(row: ReceivedWrite, refused: MazeVaultError, scene: Scene, caller_waits: bool) -> None:
    outcome = WriteOutcome.CONFLICT if refused.code in CONFLICTS else WriteOutcome.DEAD_LETTER
    finish(row, WriteOutcome.REFUSED if caller_waits else outcome, scene, code=refused.code, detail=refused.sentence)


def _try_again(row: ReceivedWrite, error: Exception, scene: Scene, *, gives_up: bool = True) -> None:
    """A failure that may pass: again later, and after the last attempt to a person.

    With `gives_up` False the fault is this Primary's and not the write's (no audit, I17; a deadlock, a statement that was
    cancelled, a row held for too long): it is tried until it passes.
    """
    row.attempts = min(row.attempts + 1, ATTEMPTS)
    log.error("write %s could not be settled (attempt %s of %s): %s", row.id, row.attempts, ATTEMPTS, _name(error))
    if gives_up and row.attempts >= ATTEMPTS:
        finish(
            row, WriteOutcome.DEAD_LETTER, scene, code="ATTEMPTS_EXHAUSTED", detail=f"it failed {ATTEMPTS} times: {_name(error)}"
        )
        return
    row.not_before = scene.now + min(RETRY_BASE * 2 ** (row.attempts - 1), RETRY_CAP)
    row.code, row.detail = "TRYING_AGAIN", f"attempt {row.attempts} of {ATTEMPTS} failed: {_name(error)}"
    scene.changed[row.id] = row


def _stored(row: ReceivedWrite) -> list[Any]:
    return [
        row.outcome, row.version, row.code, row.detail, row.attempts, row.not_before, row.settled_at, row.settled_by,
        row.resolution, row.promised, row.sealed_body is not None, row.id,
    ]  # fmt: skip


def _name(error: Exception) -> str:
    """What kind of failure; its text may quote content."""
    return type(error).__name__


def _severity(outcome: WriteOutcome) -> audit.Severity:
    return audit.Severity.WARNING if outcome in KEPT else audit.Severity.INFO


def _moment(text: str) -> datetime | None:
    """A time as the gateway wrote it, or None. It decides nothing but `most_recent_wins`."""
    try:
        moment = parse_datetime(text)
    except ValueError:
        return None
    return moment if moment and moment.tzinfo else None


def _is_past(accepted: datetime, received: datetime) -> bool:
    return accepted <= received + timedelta(seconds=TRUSTED_SKEW_SECONDS)
