"""The gateway's audit chain on its way to the Primary, and the gateway as witness of the Primary's chain (DESIGN §10).

Entries are committed with what they tell of and chained here; the Primary may be away. `Witness` signs checkpoints it finds in
order and refuses one that contradicts what it has signed before.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from django.db import transaction
from django.db.models import Q

from common import audit
from common.errors import ValidationFailed
from common.models import AuditCheckpoint, AuditEntry, AuditLink
from gateway_runtime.client import Channel, PrimaryRefused
from protocol import paths
from protocol.audit import (
    CONTRADICTED,
    PRIMARY,
    Link,
    Signed,
    Statement,
    contradiction,
    countersign,
    public_key_of,
    statement_is_signed,
    statement_of,
)
from protocol.messages import AuditRecord, AuditTaken, AuditUpload, Countersigned, SignedCheckpoint

log = logging.getLogger("mazevault.gateway.audit")

CHAIN_PAUSE = 0.5
"""Pause in seconds between two looks for entries to chain."""
UPLOAD_PAUSE = 2.0
"""Pause in seconds before the next upload when nothing is left to send."""
BATCH, BATCH_CHARACTERS = 200, 400_000
"""An upload holds at most this many entries and characters; sealed it stays well below the largest message."""
PAST = "past"
"""Where checkpoints of an earlier life of the Primary's database go once a new life has contradicted them."""
KEPT_CHECKPOINTS = 5000
"""A gateway remembers this many of the checkpoints it signed, the newest ones: some days of a busy Primary."""


def chain_step(generation: str) -> float:
    """Chain what was committed. A loop of its own, since it must go on while the Primary is away. Returns the pause."""
    audit.chain_all_pending(generation)
    return CHAIN_PAUSE


class Uploads:
    """Sends the chains of this gateway in order. The Primary says up to where it holds each; nothing else is remembered.

    The present life's chain comes first. What former lives left here goes while that has nothing to send.
    """

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}
        self._former: tuple[str, list[str]] = ("", [])
        """The present life, and the chains of the lives before it that may still have something to tell."""

    def step(self, channel: Channel, generation: str, timeout: float) -> float:
        """Send the next entries; returns the pause in seconds. Raises `PrimaryUnreachable` or `PrimaryRefused`."""
        pause = self._send(channel, generation, None, timeout)
        if pause is not None:
            return pause
        if self._former[0] != generation:
            self._former = generation, former_chains(generation)
        return self._send_former(channel, self._former[1], timeout) if self._former[1] else UPLOAD_PAUSE

    def _send(self, channel: Channel, chain: str, life: str | None, timeout: float) -> float | None:
        """None when there is nothing to send."""
        known = self._taken.get(chain)
        records = list(_next_records(chain, known)) if known is not None else []
        if known is not None and not records:
            return None
        taken = channel.call(paths.AUDIT, AuditUpload(records=records, life=life), AuditTaken, timeout=timeout)
        self._taken[chain] = taken.position
        return 0.0 if known is None or taken.position > known else UPLOAD_PAUSE

    def _send_former(self, channel: Channel, former: list[str], timeout: float) -> float:
        chain = former[0]
        try:
            pause = self._send(channel, chain, chain, timeout)
        except PrimaryRefused as refused:
            if refused.code not in (CONTRADICTED, ValidationFailed.default_code):
                raise
            log.error("the Primary does not take the audit chain of an earlier life, %s: %s", chain, refused)
            pause = None
        if pause is None:
            former.remove(chain)
        return pause or 0.0


def former_chains(generation: str) -> list[str]:
    """The chains of this gateway's former lives that have entries here, each found by one step in the index."""
    found, last = list[str](), ""
    while chain := AuditLink.objects.filter(chain__gt=last).order_by("chain").values_list("chain", flat=True).first():
        last = chain
        if chain not in (generation, PRIMARY):
            found.append(chain)
    return found


class Witness:
    """What this gateway says about the Primary's checkpoints. `pending` goes into the next heartbeat, then `said` is called."""

    def __init__(self) -> None:
        self.pending: Countersigned | None = None

    def said(self, countersigned: Countersigned | None) -> None:
        """The heartbeat that carried it was answered."""
        if self.pending is countersigned:
            self.pending = None

    def take(self, offered: SignedCheckpoint | None, primary: tuple[Ed25519PublicKey, ...], own: Ed25519PrivateKey) -> None:
        """Look at the checkpoint of a heartbeat's answer; sign and remember it, or refuse it with an entry in the own chain."""
        if offered is None or AuditCheckpoint.objects.filter(chain=PRIMARY, text=offered.text).exists():
            return
        statement = _statement_of(offered, primary)
        if statement is None or statement.chain != PRIMARY or statement.is_cut:
            log.warning("the checkpoint of the Primary's audit is not signed by its channel key; it is not countersigned")
            return
        refusal = self._judge(statement, digest := hashlib.sha256(offered.text.encode()).hexdigest())
        signature = "" if refusal else countersign(offered.text, own)
        if not refusal:
            _remember(offered, statement)
        self.pending = Countersigned(statement.position, digest, signature, refusal)

    def _judge(self, statement: Statement, digest: str) -> str:
        """Why it may not be signed. A new life of the Primary's database may contradict the old one: told once, then followed."""
        seen = _seen(statement)
        why = contradiction(seen, statement)
        if not why:
            return ""
        is_new_life = seen[0].generation != statement.generation
        _tell(digest, statement, why, followed=is_new_life)
        if is_new_life:
            AuditCheckpoint.objects.filter(chain=PRIMARY).update(chain=PAST)
        return "" if is_new_life else why


def _statement_of(offered: SignedCheckpoint, primary: tuple[Ed25519PublicKey, ...]) -> Statement | None:
    """What it states, if one of the Primary's keys has signed it."""
    try:
        statement, key = statement_of(offered.text), public_key_of(offered.key)
    except ValueError:
        return None
    return statement if key in primary and statement_is_signed(Signed(offered.text, offered.signature), key) else None


def _seen(statement: Statement) -> list[Statement]:
    """The newest checkpoint this gateway signed, then those at the two positions the statement speaks of."""
    signed = AuditCheckpoint.objects.filter(chain=PRIMARY).order_by("-id")
    spoken = Q(position=statement.position) | Q(position=statement.previous_position)
    return [statement_of(row.text) for row in [*signed[:1], *signed.filter(spoken)]]


def _remember(offered: SignedCheckpoint, statement: Statement) -> None:
    """Committed before the signature leaves."""
    row = AuditCheckpoint.objects.create(
        chain=PRIMARY, position=statement.position, text=offered.text, signature=offered.signature, key=offered.key
    )
    AuditCheckpoint.objects.filter(chain=PRIMARY, id__lte=row.id - KEPT_CHECKPOINTS).delete()


def _tell(digest: str, statement: Statement, why: str, *, followed: bool) -> None:
    with transaction.atomic():
        if AuditEntry.objects.filter(action="audit.checkpoint.contradicted", entity_id=digest).exists():
            return
        audit.record(
            actor="system",
            action="audit.checkpoint.contradicted",
            entity="audit-chain",
            entity_id=digest,
            severity=audit.Severity.CRITICAL,
            details={"position": statement.position, "reason": why, "new_generation": statement.generation if followed else ""},
        )
    log.error("the Primary's audit checkpoint at %s contradicts what this gateway has signed: %s", statement.position, why)


def _next_records(generation: str, after: int) -> Iterator[AuditRecord]:
    size = 0
    for link in audit.links(generation, after=after, upto=after + BATCH):
        size += len(link.text)
        if size > BATCH_CHARACTERS:
            return
        yield _record(link)


def _record(link: Link) -> AuditRecord:
    return AuditRecord(position=link.position, text=link.text, hash=link.hash)
