"""Removing a gateway's own audit entries once the Primary answers for them (DESIGN §10).

The Primary signs a cut only where it holds the chain and has anchored it in its own. The cut is kept and the chain goes on from
there, so it still proves itself. The tables let nothing go without such a cut (migration common 0004).
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.db import transaction

from common import audit, retention
from common.locks import try_transaction_lock
from common.models import AuditCheckpoint, AuditEntry
from common.retained import GATEWAY
from gateway_runtime import audit_forks
from gateway_runtime.audit_upload import former_chains
from gateway_runtime.client import Channel
from protocol import paths
from protocol.audit import Signed, Statement, public_key_of, statement_is_signed, statement_of, walk
from protocol.messages import AuditTaken, AuditUpload, SignedCheckpoint

log = logging.getLogger("mazevault.gateway.audit")

LONGEST_CUT = 20_000
"""At most so many entries go in one transaction; the next run goes on."""


def apply(channel: Channel, generation: str, now: datetime, timeout: float) -> int:
    """Ask for cuts where entries are old enough, of the chains of former lives too, and remove what they cover. Returns how many
    entries of one chain went at most.

    Raises `PrimaryUnreachable` or `PrimaryRefused`.
    """
    return max(_apply(channel, chain, generation, now, timeout) for chain in [generation, *former_chains(generation)])


def _apply(channel: Channel, chain: str, generation: str, now: datetime, timeout: float) -> int:
    position = wanted_cut(chain, now)
    if not position:
        return 0
    name = audit_forks.holding(chain, position)
    life = None if name == generation else name
    taken = channel.call(paths.AUDIT, AuditUpload(records=[], cut_at=position, life=life), AuditTaken, timeout=timeout)
    return cut(chain, position, taken.cut, channel, name) if taken.cut else 0


def wanted_cut(generation: str, now: datetime) -> int:
    """The position of the last entry that is old enough, or 0 when there is none or everything is kept."""
    rule = next(one for one in retention.rules_of(GATEWAY) if one.table == "common_auditentry")
    days, start = retention.days_of(rule), audit.start_of(generation)[0]
    if not days:
        return 0
    old = AuditEntry.objects.filter(at__lt=now - timedelta(days=days), link__chain=generation)
    last = old.order_by("-at").values_list("link__position", flat=True).first()
    return min(last, start + LONGEST_CUT) if last and last > start else 0


def cut(generation: str, position: int, offered: SignedCheckpoint, channel: Channel, name: str) -> int:
    """Check the Primary's word against the own chain, keep it, then open the door for exactly these rows.

    `name` is the chain under which the Primary holds the position: this one or a fork of it.
    """
    statement = _statement_of(offered, channel)
    with transaction.atomic():
        if statement is None or not try_transaction_lock(f"audit-retention:{generation}"):
            return 0
        start = audit.start_of(generation)
        walked = walk(generation, audit.links(generation, after=start[0], upto=position), start=start)
        sound = not walked.findings and (statement.chain, statement.position, statement.hash) == (
            name, walked.length, walked.head
        )  # fmt: skip
        if not sound or walked.length != position:
            log.error("nothing is removed from the audit trail: the Primary's cut at %s is not what this chain says", position)
            return 0
        count = position - start[0]
        audit.record(
            actor="system", action="audit.retention.applied", entity="audit-chain", entity_id=generation,
            severity=audit.Severity.WARNING, details={"entries": count, "position": position, "hash": statement.hash},
        )  # fmt: skip
        AuditCheckpoint.objects.create(
            chain=generation, position=position, is_cut=True, text=offered.text, signature=offered.signature, key=offered.key
        )
        removed = audit.remove_upto(generation, position)
        retention.note_removed("common_auditentry", removed)
    log.info("%s audit entries up to position %s were removed: their time was over and the Primary holds them", count, position)
    return count


def _statement_of(offered: SignedCheckpoint, channel: Channel) -> Statement | None:
    """The cut, if the Primary that is known here has signed it."""
    try:
        statement, key = statement_of(offered.text), public_key_of(offered.key)
    except ValueError:
        return None
    signed = (
        key in channel.primary_keys() and statement.is_cut and statement_is_signed(Signed(offered.text, offered.signature), key)
    )
    if not signed:
        log.warning("a cut of this gateway's audit chain is not signed by the Primary's channel key; nothing is removed")
    return statement if signed else None
