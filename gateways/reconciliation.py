"""What becomes of a queued write: facts in, one decision out (DESIGN §9, reliability §5). Pure: no Django here.

The rules are asked in one order and the first that answers decides. `gateways.inbox` gathers the facts in the transaction that
carries the decision out, so nothing is decided on what was true a moment ago.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from protocol.vocabulary import WriteOperation, WriteOutcome

MADE = (WriteOutcome.APPLIED, WriteOutcome.DUPLICATE)
"""Outcomes of a write whose change was made, by itself or by the same request before."""
LONGEST_GAP_SECONDS = 600.0
"""A write whose predecessor has not arrived by then is given to a person (reliability §5, order)."""

MANUAL, PRIMARY_WINS, GATEWAY_WINS, NEWEST_WINS = "manual_resolution", "mazevault_wins", "external_wins", "most_recent_wins"
ASK, DISCARD, REPLAY_AS_NEW = "ask", "discard", "replay_as_new"

ENDINGS = frozenset({WriteOperation.ARCHIVE, WriteOperation.RESTORE, WriteOperation.DELETE, WriteOperation.PURGE})
"""Changes of whether a secret is there at all; no policy weighs them against a change of its content."""


class Verdict(StrEnum):
    APPLY = "apply"
    WAIT = "wait"
    SUPERSEDE = "supersede"
    CONFLICT = "conflict"
    QUARANTINE = "quarantine"
    DISCARD = "discard"
    """Quarantined, and dropped at once because the policy says so."""
    DEAD_LETTER = "dead_letter"
    REFUSE = "refuse"
    """The caller still waits and gets the error; nothing was promised."""


@dataclass(frozen=True)
class Decision:
    """`base` is the version to apply on (None: whatever is there). `as_new`: as a change of the current epoch."""

    verdict: Verdict
    code: str = ""
    sentence: str = ""
    base: int | None = None
    as_new: bool = False


@dataclass(frozen=True)
class WriteFacts:
    """The write as its gateway signed it. `base` None: made on `previous`, or on whatever is there."""

    operation: WriteOperation
    gateway: str
    generation: str
    epoch: int
    base: int | None
    accepted_at: datetime | None
    waiting_seconds: float = 0.0
    caller_waits: bool = False
    names_previous: bool = False


@dataclass(frozen=True)
class RouteFacts:
    """Who serves the environment now. `generation` is the living one of the write's gateway."""

    epoch: int
    active_gateway: str
    generation: str
    frozen: bool = False
    held: bool = False
    banned: bool = False


@dataclass(frozen=True)
class PreviousFacts:
    """The write that this one names as the one before it. `same_stream`: of the same gateway and secret, and earlier.

    `version` is what it made, `base` what it was made on itself.
    """

    outcome: WriteOutcome
    version: int = 0
    base: int | None = None
    same_stream: bool = True


@dataclass(frozen=True)
class SecretFacts:
    """The secret at the Primary: its version, since when, and whether it is neither archived nor deleted."""

    version: int
    changed_at: datetime
    living: bool = True


@dataclass(frozen=True)
class PolicyFacts:
    """What the project says. In production only a person decides, whatever the project says."""

    conflict: str = MANUAL
    stale: str = ASK
    production: bool = False

    def effective(self) -> PolicyFacts:
        return replace(self, conflict=MANUAL, stale=ASK) if self.production else self


@dataclass(frozen=True)
class Facts:
    """`previous` None: it names none, or the one it names has not arrived. `secret` None: there is no such secret here."""

    write: WriteFacts
    route: RouteFacts
    secret: SecretFacts | None
    previous: PreviousFacts | None = None
    policy: PolicyFacts = PolicyFacts()
    place_exists: bool = True
    key_taken: bool = False
    author_believed: bool = True
    """The gateway was told of who it says made the write, and they had a credential there that lived."""
    actor_allowed: bool = True
    earlier_waits: bool = False
    later_applied: bool = False
    """A later write of the same stream to the same secret has been applied already."""
    clock_trusted: bool = True


def decide(facts: Facts) -> Decision:
    """What becomes of one write. A caller who still waits gets an error instead of a stored conflict."""
    decision = _decide(replace(facts, policy=facts.policy.effective()) if facts.policy.production else facts)
    settled = decision.verdict not in (Verdict.APPLY, Verdict.WAIT)
    return replace(decision, verdict=Verdict.REFUSE) if settled and facts.write.caller_waits else decision


def _decide(facts: Facts) -> Decision:
    if facts.route.frozen:
        return Decision(Verdict.WAIT, "ENVIRONMENT_HELD", "the environment is held until an operator decides")
    if facts.route.banned:
        return Decision(Verdict.QUARANTINE, "GATEWAY_BANNED", "its gateway was banned before this write was settled")
    if facts.route.held:
        return Decision(Verdict.WAIT, "GATEWAY_HELD", "the gateway is held until an operator releases it")
    stale = _stale(facts)
    if stale and facts.policy.stale != REPLAY_AS_NEW:
        verdict = Verdict.DISCARD if facts.policy.stale == DISCARD else Verdict.QUARANTINE
        return Decision(verdict, "STALE_EPOCH", stale)
    waits = _why_wait(facts)
    if waits:
        return waits
    if not facts.place_exists:
        return Decision(Verdict.DEAD_LETTER, "RESOURCE_NOT_FOUND", "there is no such project or project environment here")
    if not facts.author_believed:
        return Decision(
            Verdict.DEAD_LETTER, "AUTHOR_NOT_BELIEVED", "nobody its gateway was told of had a living credential there"
        )
    if not facts.actor_allowed:
        return Decision(Verdict.DEAD_LETTER, "ACTOR_NOT_ALLOWED", "who made this write may not make it any more")
    return _replayed(facts, stale) if stale else _compare(facts)


def _stale(facts: Facts) -> str:
    """Why the write is not of the present, or an empty text (I3)."""
    write, route = facts.write, facts.route
    if write.epoch != route.epoch:
        return f"it was made in epoch {write.epoch}; the environment is in epoch {route.epoch}"
    if write.gateway != route.active_gateway:
        return "it was made by a gateway that is not the active one"
    if write.generation != route.generation:
        return "it was made in an earlier life of its gateway"
    return ""


def _why_wait(facts: Facts) -> Decision | None:
    """Order within a secret: nothing passes a write that came before it (I9)."""
    write, previous = facts.write, facts.previous
    if write.names_previous and previous is None:
        if write.waiting_seconds >= LONGEST_GAP_SECONDS:
            return Decision(Verdict.DEAD_LETTER, "PREVIOUS_MISSING", "the write it was made on has never arrived")
        return Decision(Verdict.WAIT, "PREVIOUS_MISSING", "the write it was made on has not arrived yet")
    if previous and not previous.same_stream:
        return Decision(Verdict.QUARANTINE, "PREVIOUS_FOREIGN", "the write it names as its base is of another secret or stream")
    if facts.earlier_waits or (previous and not previous.outcome.terminal):
        return Decision(Verdict.WAIT, "PREVIOUS_WAITS", "an earlier write to the same secret is not settled yet")
    return None


def _compare(facts: Facts) -> Decision:
    write, previous, secret = facts.write, facts.previous, facts.secret
    if facts.later_applied:
        return Decision(Verdict.CONFLICT, "LATER_APPLIED", "a later write of its gateway to this secret was applied already")
    if write.operation is WriteOperation.CREATE:
        return _creation(facts)
    if previous and previous.outcome is WriteOutcome.REFUSED and previous.base is not None:
        # Its caller got an error, so nothing of it was ever there: this one stands on what that one stood on.
        return _compare(replace(facts, previous=None, write=replace(write, base=previous.base)))
    if previous and previous.outcome not in MADE:
        return _differs(facts, "PREVIOUS_NOT_APPLIED", f"the write it was made on ended as {previous.outcome.value}")
    if secret is None:
        return Decision(Verdict.DEAD_LETTER, "RESOURCE_NOT_FOUND", "there is no such secret here")
    base = previous.version if previous else write.base
    if not secret.living and write.operation not in ENDINGS:
        return Decision(Verdict.CONFLICT, "VERSION_CONFLICT", "the secret was archived or deleted meanwhile")
    if base is None or base == secret.version:
        return Decision(Verdict.APPLY, base=secret.version)
    if base > secret.version:
        sentence = f"it was made on version {base}, but the newest one is {secret.version}"
        return Decision(Verdict.CONFLICT, "BASE_FROM_FUTURE", sentence)
    return _differs(facts, "VERSION_CONFLICT", f"it was made on version {base}, but the secret is in version {secret.version}")


def _creation(facts: Facts) -> Decision:
    if facts.secret is None and not facts.key_taken:
        return Decision(Verdict.APPLY)
    sentence = "a secret with this key already exists in this project and environment"
    verdict = Verdict.SUPERSEDE if facts.policy.conflict == PRIMARY_WINS else Verdict.CONFLICT
    return Decision(verdict, "DUPLICATE_NAME", sentence)


def _differs(facts: Facts, code: str, sentence: str) -> Decision:
    """The base is not what is there: the project's policy decides where it may, else a person."""
    write, secret, policy = facts.write, facts.secret, facts.policy.conflict
    conflict = Decision(Verdict.CONFLICT, code, sentence)
    if secret is None or policy == MANUAL or write.operation in ENDINGS or not secret.living:
        return conflict
    if policy == PRIMARY_WINS:
        return Decision(Verdict.SUPERSEDE, code, f"{sentence}; the policy keeps the Primary's version")
    if policy == GATEWAY_WINS:
        return Decision(Verdict.APPLY, base=secret.version)
    return _newest(facts, secret, conflict) if policy == NEWEST_WINS else conflict


def _newest(facts: Facts, secret: SecretFacts, conflict: Decision) -> Decision:
    """Only for new values, and only while the gateway's clock can be believed."""
    accepted = facts.write.accepted_at
    if facts.write.operation not in (WriteOperation.UPDATE, WriteOperation.ROTATE):
        return conflict
    if accepted is None or not facts.clock_trusted:
        return replace(conflict, code="CLOCK_NOT_TRUSTED", sentence=f"{conflict.sentence}; its gateway's clock is off")
    if accepted > secret.changed_at:
        return Decision(Verdict.APPLY, base=secret.version)
    return Decision(Verdict.SUPERSEDE, conflict.code, f"{conflict.sentence}; the policy keeps the newer version")


def _replayed(facts: Facts, stale: str) -> Decision:
    """A write of the past is replayed on exactly the version it was made on; everything else is for a person."""
    if facts.write.base is None and facts.previous is None and facts.write.operation is not WriteOperation.CREATE:
        return Decision(Verdict.CONFLICT, "STALE_EPOCH", f"{stale}, and it does not say which version it was made on")
    decision = _compare(replace(facts, policy=replace(facts.policy, conflict=MANUAL)))
    return replace(decision, as_new=decision.verdict is Verdict.APPLY)
