"""Settling received writes: facts under locks, a decision for each, carried out in the caller's transaction (DESIGN §9, I3, I9).

Many writes are decided one after the other on what was read for all of them, each on what those before it did, and what they
change is stored together. It comes to what settling them one by one comes to: where storing it together fails, it is taken back
and done in smaller parts, down to the one write that is to blame (docs/adr/0037).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, OperationalError, connection, transaction

from accounts.access import Principal
from accounts.models import Storage
from common import audit
from common.clock import moment_of
from common.errors import MazeVaultError, Unavailable
from common.rowsets import Row
from gateways import authors, put_back, write_firsts
from gateways.reconciliation import (
    Decision,
    Facts,
    PolicyFacts,
    PreviousFacts,
    SecretFacts,
    Verdict,
    WriteFacts,
    decide,
)
from gateways.write_bodies import open_body
from gateways.write_held import AnyWrite, HeldWrite, read_again
from gateways.write_scene import Scene, hold_what_they_touch
from protocol.vocabulary import WriteOperation, WriteOutcome
from vault import rules
from vault.models import Secret, SecretStatus
from vault.ports import Origin, SecretChange
from vault.recording import Recorder
from vault.secrets import NEEDS_ITS_OWN, Place, apply_change

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
TRYING_AGAIN = "TRYING_AGAIN"
REPEATED = "REQUEST_REPEATED"
BANNED = "GATEWAY_BANNED"
"""What a banned gateway brings stays as evidence, whatever it repeats."""
_ALONE = frozenset(operation.value for operation in NEEDS_ITS_OWN)


@dataclass(frozen=True)
class Answering:
    """How the writes of a request are settled whose answer tells how they ended."""

    callers_wait: bool = False
    """Who made a write that is not promised yet still waits, and gets an error instead of a stored conflict."""


@dataclass(frozen=True)
class Settled:
    """How many writes ended, and whether the rest was left because of something that will pass."""

    ended: int
    gave_up: bool = False


_Way = Callable[[str, Sequence[HeldWrite], datetime, Answering | None], Settled]


def settle_held(
    environment: str, rows: Sequence[HeldWrite], now: datetime, answering: Answering | None = None
) -> Settled:  # fmt: skip
    """Settle writes whose rows and route the caller's transaction holds, in the order of their streams."""
    if not rows:
        return Settled(0)
    in_order = sorted(rows, key=lambda row: (row.gateway_id, row.generation, row.sequence))
    hold_what_they_touch(environment, in_order)
    return _settle_together(environment, in_order, now, answering)


def _settle_together(
    environment: str, rows: Sequence[HeldWrite], now: datetime, answering: Answering | None
) -> Settled:  # fmt: skip
    """In one savepoint, or where that fails in two halves of it: one write's trouble ends up with that write alone."""
    if len(rows) < 2:
        return _settle_apart(environment, rows, now, answering)
    try:
        with transaction.atomic():
            return _settle_as_one(environment, rows, now, answering)
    except Exception as error:  # whatever it is, the writes beside it must not wait for it
        if _is_gone():
            raise
        log.warning("%s writes could not be settled together: %s", len(rows), _name(error))
        if isinstance(error, (OperationalError, Unavailable)):
            return _settle_apart(environment, read_again(rows), now, answering)
    return _in_halves(_settle_together, environment, rows, now, answering)


def _in_halves(
    settle_part: _Way, environment: str, rows: Sequence[HeldWrite], now: datetime, answering: Answering | None
) -> Settled:  # fmt: skip
    middle = len(rows) // 2
    parts = [settle_part(environment, read_again(part), now, answering) for part in (rows[:middle], rows[middle:])]
    return Settled(sum(part.ended for part in parts), any(part.gave_up for part in parts))


def _settle_apart(
    environment: str, rows: Sequence[HeldWrite], now: datetime, answering: Answering | None
) -> Settled:  # fmt: skip
    """Each by itself. What fails around them, reading what is asked about them or storing what became of them, is one write's
    trouble too: it is counted against that one, and the stream goes on."""
    try:
        with transaction.atomic():
            return _settle_singly(environment, rows, now, answering)
    except Exception as error:  # whatever it is, nobody else's writes may wait for it
        if _is_gone():
            raise
        passes = isinstance(error, (OperationalError, Unavailable))
        if len(rows) > 1 and not passes:
            return _in_halves(_settle_apart, environment, rows, now, answering)
        return _note_failure(environment, read_again(rows[:1])[0], error, now, answering)


def _note_failure(
    environment: str, row: HeldWrite, error: Exception, now: datetime, answering: Answering | None
) -> Settled:  # fmt: skip
    scene = Scene.open(environment, now)
    if isinstance(error, DatabaseError):
        _take_failure(row, error, scene)
    else:
        _try_again(row, error, scene, gives_up=not isinstance(error, Unavailable))
    _promise(row, scene, answering)
    scene.close()
    return Settled(len(scene.settled), row.outcome == WriteOutcome.RECEIVED)


def _settle_as_one(
    environment: str, rows: Sequence[HeldWrite], now: datetime, answering: Answering | None
) -> Settled:  # fmt: skip
    scene = Scene.open(environment, now)
    scene.prepare(rows)
    scene.book = Recorder()
    for row in rows:
        with _stored_first(scene) if row.operation in _ALONE else nullcontext():
            _settle_and_answer(row, scene, answering)
    scene.close()
    return Settled(len(scene.settled))


def _settle_singly(
    environment: str, rows: Sequence[HeldWrite], now: datetime, answering: Answering | None
) -> Settled:  # fmt: skip
    """Each in a savepoint of its own. After one that met what will pass the others wait: locks were waited for long enough."""
    scene = Scene.open(environment, now)
    scene.prepare(rows)
    gave_up = False
    for row in rows:
        _settle_and_answer(row, scene, answering)
        if gave_up := row.outcome == WriteOutcome.RECEIVED and row.code == TRYING_AGAIN:
            break
    scene.close()
    return Settled(len(scene.settled), gave_up)


@contextmanager
def _stored_first(scene: Scene) -> Iterator[None]:
    """Inside, nothing is kept back: the database is asked, and the answer must be of now."""
    assert scene.book is not None  # noqa: S101
    scene.book.store()
    scene.book, book = None, scene.book
    try:
        yield
    finally:
        scene.book = book


def _settle_and_answer(row: AnyWrite, scene: Scene, answering: Answering | None) -> None:
    settle(row, scene, caller_waits=answering is not None and answering.callers_wait and not row.promised)
    _promise(row, scene, answering)


def _promise(row: AnyWrite, scene: Scene, answering: Answering | None) -> None:
    if answering is not None and row.outcome == WriteOutcome.RECEIVED and not row.promised:
        # The answer will be "received", and upon that the gateway promises it: nobody may refuse it any more.
        row.promised = True
        scene.changed[row.id] = row


def settle(row: AnyWrite, scene: Scene, *, caller_waits: bool = False) -> None:
    """Decide on a locked row and carry it out. One write's trouble is its own: it is counted against it and nothing rises.

    Only what the database says of a change that is stored with others rises, since that transaction is lost.
    """
    try:
        with transaction.atomic() if scene.book is None else nullcontext():
            decision = decide(_facts(row, scene, caller_waits))
            if decision.verdict is Verdict.WAIT or decision.code == BANNED or not _repeated(row, scene):
                _carry_out(row, decision, scene)
    except Unavailable as down:
        scene.forget_secret(row)
        _try_again(row, down, scene, gives_up=False)
    except MazeVaultError as refused:
        scene.forget_secret(row)
        _take_refusal(row, refused, scene, caller_waits)
    except DatabaseError as error:
        if scene.book is not None or _is_gone():
            raise  # nothing can be noted either
        scene.forget_secret(row)
        _take_failure(row, error, scene)
    except Exception as error:  # a poison item must not stop the others, whatever is wrong with it
        scene.forget_secret(row)
        _try_again(row, error, scene)


def _take_failure(row: AnyWrite, error: DatabaseError, scene: Scene) -> None:
    if isinstance(error, (DataError, IntegrityError)):
        finish(row, WriteOutcome.DEAD_LETTER, scene, code="NOT_STORABLE", detail=f"the database refuses it: {_name(error)}")
    else:
        _try_again(row, error, scene, gives_up=not isinstance(error, (OperationalError, InterfaceError)))


def _is_gone() -> bool:
    """Whether there is no connection any more."""
    return connection.connection is None or connection.connection.closed


def change_of(row: AnyWrite, base: int | None) -> SecretChange:
    """The write as a change of a secret. Raises `BodyUnusable`."""
    assert row.secret and row.project and row.project_environment  # noqa: S101  a write in its stream names all three
    return SecretChange(
        WriteOperation(row.operation), row.secret, row.project, row.project_environment, row.key, base, open_body(row)
    )


def finish(
    row: AnyWrite, outcome: WriteOutcome, scene: Scene, *, version: int = 0, code: str = "", detail: str = "",
    by: str = "system", resolution: str = "",
) -> None:  # fmt: skip
    """Note how a write ended; the scene stores it when it closes. Content stays only where a person may still decide.

    Everything but an applied write is audited here; an applied one is audited as the change it made.
    """
    if outcome is not WriteOutcome.APPLIED:
        scene.say(entry_of(row, f"gateway.write.{outcome.value}", actor=by, severity=_severity(outcome), code=code))
    row.outcome, row.version, row.code, row.detail = outcome.value, version, code, detail[:500]
    row.settled_at, row.settled_by, row.resolution = scene.now, by, resolution
    if outcome not in KEPT or resolution == "discard":
        row.sealed_body = None
    scene.settled_now(row)


def tell(row: AnyWrite, action: str, *, actor: str, severity: audit.Severity, address: str = "", **more: object) -> None:
    """Put it into the audit what happened to a write."""
    audit.record_all([entry_of(row, action, actor=actor, severity=severity, address=address, **more)])


def entry_of(row: AnyWrite, action: str, *, actor: str, severity: audit.Severity, address: str = "", **more: object) -> Row:
    """The audit entry of what happened to a write; never its content."""
    return audit.entry_of(
        actor=actor, action=action, entity="write", entity_id=str(row.id), severity=severity, environment=row.environment_id,
        address=address,
        details={
            "gateway": str(row.gateway_id), "epoch": row.epoch, "sequence": row.sequence, "secret": str(row.secret or ""),
            "author": row.actor, "principal": row.actor, "via": f"gateway:{row.gateway_id}", "code": row.code, **more,
        },
    )  # fmt: skip


def _facts(row: AnyWrite, scene: Scene, caller_waits: bool) -> Facts:
    route, skew = scene.route_to(row.gateway_id)
    place = scene.place(row)
    accepted, made = moment_of(row.accepted_at), scene.made_at(row)
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
        route=route,
        secret=_secret_facts(scene.secret(row)) if place else None,
        previous=_previous_facts(row, scene),
        policy=_policy(place),
        place_exists=place is not None,
        key_taken=place is not None and operation is WriteOperation.CREATE and scene.is_taken(row.key, place),
        author_believed=made is not None,
        actor_allowed=place is not None and _is_allowed(scene.principal(row.actor), operation, place, made or scene.now),
        earlier_waits=scene.earlier_waits(row),
        later_applied=scene.later_applied(row),
        clock_trusted=abs(skew) <= TRUSTED_SKEW_SECONDS and accepted is not None and _is_past(accepted, row.received_at),
    )


def _secret_facts(secret: Secret | None) -> SecretFacts | None:
    if secret is None:
        return None
    return SecretFacts(secret.version, secret.updated_at, living=secret.status == SecretStatus.ACTIVE)


def _previous_facts(row: AnyWrite, scene: Scene) -> PreviousFacts | None:
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


def _is_allowed(principal: Principal | None, operation: WriteOperation, place: Place, made: datetime) -> bool:
    return principal is not None and principal.could(rules.NEEDED[operation], rules.place_of(*place), made + authors.SLOW)


def _carry_out(row: AnyWrite, decision: Decision, scene: Scene) -> None:
    if decision.verdict is Verdict.APPLY:
        _apply(row, decision, scene)
    elif decision.verdict is Verdict.WAIT:
        _wait(row, decision, scene)
    else:
        if decision.verdict in _DROPPED and not _left_in_no_vault(row, scene):
            sentence = f"{put_back.STILL_THERE}; {decision.sentence}"
            decision = Decision(Verdict.CONFLICT, put_back.VAULT_STILL_HOLDS, sentence)
        discarded = decision.verdict is Verdict.DISCARD
        finish(
            row, _OUTCOMES[decision.verdict], scene, code=decision.code, detail=decision.sentence,
            by="policy" if discarded else "system", resolution="discard" if discarded else "",
        )  # fmt: skip


def _repeated(row: AnyWrite, scene: Scene) -> bool:
    """Whether the write repeats a request that was answered before: it ends with that answer, and changes nothing.

    Raises `Conflict` (IDEMPOTENCY_MISMATCH).
    """
    first = write_firsts.of_write(row, scene)
    if first is None:
        return False
    if _left_in_no_vault(row, scene):
        sentence = f"the same request made version {first.version} before"
        finish(row, WriteOutcome.DUPLICATE, scene, version=first.version, code=REPEATED, detail=sentence)
        row.secret = first.secret  # of a creation another one than it named
    else:
        finish(row, WriteOutcome.CONFLICT, scene, code=put_back.VAULT_STILL_HOLDS, detail=put_back.STILL_THERE)
    return True


def _left_in_no_vault(row: AnyWrite, scene: Scene) -> bool:
    """What policy drops although its vault has it is put back there, decided with it. False when a person has to see to it."""
    place = scene.place(row)
    if place is None or place[0].storage != Storage.KEY_VAULT:
        return True
    with _stored_first(scene) if scene.book is not None else nullcontext():
        return put_back.carry_out_policy(row)


_DROPPED = (Verdict.SUPERSEDE, Verdict.DISCARD)
_OUTCOMES = {
    Verdict.SUPERSEDE: WriteOutcome.SUPERSEDED,
    Verdict.CONFLICT: WriteOutcome.CONFLICT,
    Verdict.QUARANTINE: WriteOutcome.QUARANTINED,
    Verdict.DISCARD: WriteOutcome.QUARANTINED,
    Verdict.DEAD_LETTER: WriteOutcome.DEAD_LETTER,
    Verdict.REFUSE: WriteOutcome.REFUSED,
}


def _apply(row: AnyWrite, decision: Decision, scene: Scene) -> None:
    """Through the one road every change takes. A replayed write of the past is a change of the present that names it (I3)."""
    epoch = scene.route.epoch if decision.as_new else row.epoch
    origin = Origin(actor=row.actor, node=f"gateway:{row.gateway_id}", write=row.id, epoch=epoch)
    caller, held = scene.principal(row.actor), scene.secret(row)
    lived = held is not None and held.deleted_at is None
    scene.give_free_id(row)
    change = change_of(row, decision.base)
    applied = apply_change(change, origin, caller, scene.now, held=held, place=scene.place(row), into=scene.book)
    scene.change_came(applied.secret, lived=lived)
    if decision.as_new:
        severity = audit.Severity.WARNING
        scene.say(entry_of(row, "gateway.write.replayed", actor="policy", severity=severity, as_epoch=epoch))
    scene.remember(row, write_firsts.answer_of(row, scene, applied.version))
    finish(row, WriteOutcome.APPLIED, scene, version=applied.version, resolution=("replay" if decision.as_new else ""))


def _wait(row: AnyWrite, decision: Decision, scene: Scene) -> None:
    """Look again later: the longer it has waited already, the later."""
    waited = (scene.now - row.received_at).total_seconds()
    row.not_before = scene.now + timedelta(seconds=min(max(waited / 4, SHORTEST_WAIT), LONGEST_WAIT))
    row.code, row.detail = decision.code, decision.sentence[:500]
    scene.changed[row.id] = row


def _take_refusal(row: AnyWrite, refused: MazeVaultError, scene: Scene, caller_waits: bool) -> None:
    outcome = WriteOutcome.CONFLICT if refused.code in CONFLICTS else WriteOutcome.DEAD_LETTER
    finish(row, WriteOutcome.REFUSED if caller_waits else outcome, scene, code=refused.code, detail=refused.sentence)


def _try_again(row: AnyWrite, error: Exception, scene: Scene, *, gives_up: bool = True) -> None:
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
    row.code, row.detail = TRYING_AGAIN, f"attempt {row.attempts} of {ATTEMPTS} failed: {_name(error)}"
    scene.changed[row.id] = row


def _name(error: Exception) -> str:
    """What kind of failure; its text may quote content."""
    return type(error).__name__


def _severity(outcome: WriteOutcome) -> audit.Severity:
    return audit.Severity.WARNING if outcome in KEPT else audit.Severity.INFO


def _is_past(accepted: datetime, received: datetime) -> bool:
    return accepted <= received + timedelta(seconds=TRUSTED_SKEW_SECONDS)
