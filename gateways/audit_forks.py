"""A gateway's audit chain that was told in two ways: who may go on in which chain (ADR 42).

A copy of the gateway uploaded entries of its own, or its database was put back and went on. Nothing of either way is changed or
lost: what came first stays where it is, and once a person has released the gateway its own way is taken as a *fork*, a chain that
begins behind the last entry both ways have in common.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from django.db import transaction

from common import audit
from common.clock import database_now
from common.errors import Conflict, ValidationFailed
from common.models import AuditCheckpoint, AuditEntry
from gateways import fleet, identity
from gateways.models import Gateway, GatewayAuditChain, GatewayAuditRecord
from gateways.quarantine import Reason
from protocol.audit import (
    CONTRADICTED,
    FORKED,
    GENESIS,
    MOST_FORKS,
    Signed,
    Statement,
    fork_name,
    fork_number,
    life_of,
    sign_statement,
)
from protocol.messages import AuditPlace

log = logging.getLogger("mazevault.gateways.audit")

TWO_PASTS = (
    "its audit chain contradicts what was uploaded before: somebody else wrote under this identity, or its database was put "
    "back. Find the copy and stop it, then release the gateway; its evidence goes on in a new chain that names this one "
    "(docs/operations/two-machines.md)"
)


@dataclass(frozen=True)
class Contradiction:
    """The first entry that does not fit: the hash held at its position (empty where nothing is) and the hash that was told."""

    position: int
    held: str
    told: str

    def refusal(self) -> Conflict:
        sentence = f"the audit entry at position {self.position} contradicts this gateway's chain"
        return Conflict(sentence, code=CONTRADICTED, details=str(self.position))


def chain_of(gateway: Gateway, life: str | None) -> str:
    """The name of the chain a gateway means. Raises `ValidationFailed` for one that is not its own or was never opened."""
    chain = life or str(gateway.generation)
    if life_of(chain) != str(gateway.generation) and not gateway.lives.filter(generation=life_of(chain)).exists():
        raise ValidationFailed("life: this gateway never had this generation")
    if fork_number(chain) and not GatewayAuditChain.objects.filter(chain=chain, gateway=gateway).exists():
        raise ValidationFailed("life: this chain of this gateway was never opened")
    return chain


def stored(held: GatewayAuditChain, positions: list[int]) -> dict[int, tuple[str, str]]:
    """Text and hash of the entries a chain has at these positions, where they are kept. A fork has those before it as well."""
    found: dict[int, tuple[str, str]] = {}
    row: GatewayAuditChain | None = held
    while row is not None and positions:
        here = [position for position in positions if row.begins_at < position <= row.position]
        records = GatewayAuditRecord.objects.filter(chain=row.chain, position__in=here) if here else ()
        found |= {record.position: (record.text, record.hash) for record in records}
        positions, row = [position for position in positions if position <= row.begins_at], _followed_by(row)
    return found


def heed(gateway: Gateway, chain: str, seen: Contradiction) -> None:
    """Quarantine for the first contradiction of the present life. One of a former life is told, and is why it is a former one.

    In a transaction of its own, since it begins with the route: whoever crashes before it is contradicted again.
    """
    if life_of(chain) == str(gateway.generation):
        _set_aside(gateway, chain, seen)
    else:
        _tell_former(gateway, chain, seen)


def is_followed(held: GatewayAuditChain) -> bool:
    """Whether a chain has gone on in another: whatever is added to it then is written by somebody else."""
    return held.contradicted_at is not None and GatewayAuditChain.objects.filter(follows=held.chain).exists()


def follow(gateway: Gateway, chain: str, place: AuditPlace) -> AuditPlace:
    """The chain that follows a contradicted one, opened behind `place` when it is asked for first; and where it begins.

    Raises `Conflict` while nobody has released the gateway since, and for too many forks; `ValidationFailed` where nothing is
    contradicted, and where the Primary holds another entry at that place.
    """
    with transaction.atomic():
        row = GatewayAuditChain.objects.select_for_update(of=("self",)).filter(chain=chain).first()
        if row is None or row.contradicted_at is None:
            raise ValidationFailed("fork_at: nothing contradicts this chain")
        if life_of(chain) == str(gateway.generation) and not _was_released(row, row.contradicted_position or 0):
            raise Conflict("this chain was contradicted, and nobody has released the gateway since", code=CONTRADICTED)
        fork = GatewayAuditChain.objects.filter(follows=chain).first() or _open(gateway, row, place)
        begin = place.hash if place.position == fork.begins_at else hash_at(fork, fork.begins_at) or ""
    return AuditPlace(position=fork.begins_at, hash=begin, chain=fork.chain)


def hash_at(held: GatewayAuditChain, position: int) -> str | None:
    """The hash at a position of a chain, also before it forked. None where that is not kept any more, or not reached yet."""
    if position == 0:
        return GENESIS
    found = stored(held, [position]).get(position)
    if found:
        return found[1]
    row: GatewayAuditChain | None = held
    while row is not None:
        start = audit.start_of(row.chain)
        if start[0] == position:
            return start[1]
        row = _followed_by(row) if position <= row.begins_at else None
    return None


def _followed_by(row: GatewayAuditChain) -> GatewayAuditChain | None:
    """The chain that this one goes on from."""
    return GatewayAuditChain.objects.filter(chain=row.follows).first() if row.follows else None


def _was_released(row: GatewayAuditChain, position: int) -> bool:
    """Whether a person has looked since a chain was contradicted at a position, or since the last of what contradicts came: what
    was heard before a release proves nothing after it (ADR 28)."""
    released = Gateway.objects.values_list("released_at", flat=True).get(pk=row.gateway_id)
    if released is None:
        return False
    if row.contradicted_at is not None and released > row.contradicted_at:
        return True
    others = GatewayAuditRecord.objects.filter(chain=row.chain, position__gte=position).order_by("-position")
    newest = others.values_list("received_at", flat=True).first()
    return newest is not None and newest < released


def _set_aside(gateway: Gateway, chain: str, seen: Contradiction) -> None:
    row = GatewayAuditChain.objects.get(chain=chain)
    was_released = _was_released(row, seen.position)
    if was_released and row.contradicted_at is not None:
        return  # it was looked at and told, and goes on in the next chain
    with transaction.atomic():
        if not was_released:
            _hold(gateway, row)
        if not _is_first(chain, seen):
            return
        audit.record(
            actor=f"gateway:{gateway.id}", action="audit.gateway.contradicted", entity="gateway", entity_id=str(gateway.id),
            severity=audit.Severity.CRITICAL, environment=gateway.environment_id,
            details={"name": gateway.name, "generation": str(gateway.generation), "chain": chain, "position": seen.position,
                     "held": seen.held, "told": seen.told, "released_since": was_released},
        )  # fmt: skip
    log.error("the audit chain %s of %s contradicts itself at position %s; the gateway %s", chain, gateway.name, seen.position,
              "was released since" if was_released else "is held")  # fmt: skip


def _hold(gateway: Gateway, row: GatewayAuditChain) -> None:
    itself = Gateway.objects.filter(pk=gateway.pk)
    if row.contradicted_at is not None:
        itself = itself.exclude(released_at__gt=row.contradicted_at)  # between the look and the lock
    fleet.hold(gateway.environment_id, itself, TWO_PASTS, database_now(), Reason.TWO_PASTS)


def _tell_former(gateway: Gateway, chain: str, seen: Contradiction) -> None:
    action = "audit.former_chain.contradicted"
    with transaction.atomic():
        told = AuditEntry.objects.filter(action=action, entity="audit-chain", entity_id=chain)  # before the row said so
        if not _is_first(chain, seen) or told.exists():
            return
        audit.record(
            actor="system", action=action, entity="audit-chain", entity_id=chain, severity=audit.Severity.CRITICAL,
            details={"gateway": gateway.name, "position": seen.position, "held": seen.held, "told": seen.told},
        )  # fmt: skip
    log.error("the audit chain %s of a former life of %s contradicts what was told then, at position %s",
              chain, gateway.name, seen.position)  # fmt: skip


def _is_first(chain: str, seen: Contradiction) -> bool:
    """Whether this is the first contradiction of a chain, which is written down."""
    return bool(
        GatewayAuditChain.objects.filter(chain=chain, contradicted_at=None).update(
            contradicted_at=database_now(), contradicted_position=seen.position, contradicted_hash=seen.held,
            contradicting_hash=seen.told,
        )
    )  # fmt: skip


def _open(gateway: Gateway, row: GatewayAuditChain, place: AuditPlace) -> GatewayAuditChain:
    number = fork_number(row.chain) + 1
    if number > MOST_FORKS:
        sentence = f"the audit chain of this life was forked {MOST_FORKS} times; enrol the gateway anew with a bootstrap token"
        raise Conflict(sentence, code=CONTRADICTED)
    known = hash_at(row, place.position)
    if known is None and place.position > audit.start_of(row.chain)[0]:
        raise ValidationFailed("fork_at: this chain does not reach so far")
    if known is not None and known != place.hash:
        raise ValidationFailed("fork_at: another entry is held at this place")
    fork = GatewayAuditChain.objects.create(
        chain=fork_name(life_of(row.chain), number), gateway=gateway, position=place.position, hash=place.hash,
        anchored_position=place.position, follows=row.chain, begins_at=place.position,
    )  # fmt: skip
    _sign_beginning(fork)
    again = max(0, (row.contradicted_position or 0) - 1 - place.position)
    audit.record(
        actor=f"gateway:{gateway.id}", action=FORKED, entity="audit-chain", entity_id=fork.chain,
        severity=audit.Severity.CRITICAL if again else audit.Severity.WARNING, environment=gateway.environment_id,
        details={"gateway": gateway.name, "chain": row.chain, "position": place.position, "hash": place.hash,
                 "contradicted": row.contradicted_position, "held_position": row.position, "held_hash": row.hash,
                 "checked": known is not None, "told_again": again},
    )  # fmt: skip
    log.warning("the audit chain %s of %s goes on as %s behind position %s", row.chain, gateway.name, fork.chain, place.position)
    return fork


def _sign_beginning(fork: GatewayAuditChain) -> None:
    """A cut: what lies before stands in another chain. From here `common.audit.start_of`, retention and the verifier go on."""
    if not fork.begins_at:
        return
    begin = Statement(chain=fork.chain, generation=str(identity.primary_generation()), position=fork.begins_at, hash=fork.hash,
                      at=database_now().isoformat(), is_cut=True)  # fmt: skip
    signed: Signed = sign_statement(begin, identity.signing_key())
    AuditCheckpoint.objects.create(chain=fork.chain, position=fork.begins_at, is_cut=True, text=signed.text,
                                   signature=signed.signature, key=signed.key)  # fmt: skip
