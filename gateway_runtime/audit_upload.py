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
from gateway_runtime import audit_forks
from gateway_runtime.audit_forks import Asking
from gateway_runtime.client import Channel, PrimaryRefused
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
from protocol.messages import AuditPlace, AuditRecord, Countersigned, SignedCheckpoint

log = logging.getLogger("mazevault.gateway.audit")

CHAIN_PAUSE = 0.5
"""Pause in seconds between two looks for entries to chain."""
UPLOAD_PAUSE = 2.0
"""Pause in seconds before the next upload when nothing is left to send."""
CONTRADICTED_PAUSE = 60.0
"""Pause in seconds before an upload that was contradicted is tried again: only a person can end that."""
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
    """Sends the chains of this gateway in order. The Primary says up to where it holds each; what is stored here is only under
    which name it goes on with one that was told in two ways (`audit_forks`).

    The present life's chain comes first. What former lives left here goes while that has nothing to send.
    """

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}
        """Up to where the Primary has what stands in each chain here, as it is here."""
        self._told: set[str] = set()
        """Chains that are contradicted, and of which that was said."""
        self._former: tuple[str, list[str]] = ("", [])
        """The present life, and the chains of the lives before it that may still have something to tell."""

    def step(self, channel: Channel, generation: str, timeout: float) -> float:
        """Send the next entries; returns the pause in seconds. Raises `PrimaryUnreachable` or `PrimaryRefused`."""
        pause = self._send(Asking(channel, generation, timeout), generation)
        if pause is not None:
            return pause
        if self._former[0] != generation:
            self._former = generation, former_chains(generation)
        return self._send_former(Asking(channel, generation, timeout), self._former[1]) if self._former[1] else UPLOAD_PAUSE

    def _send(self, asking: Asking, chain: str) -> float | None:
        """None when there is nothing to send."""
        known = self._taken.get(chain)
        if known is None:
            self._taken[chain] = audit_forks.last_common(asking, chain)
            return 0.0
        records = list(_next_records(chain, known))
        if not records:
            return self._resting(chain, known)
        try:
            taken = asking.about(audit_forks.newest(chain), records=records)
        except PrimaryRefused as refused:
            if refused.code != CONTRADICTED:
                raise
            return self._go_on(asking, chain, audit_forks.before(chain, refused, known, records[-1].position), refused)
        self._taken[chain] = min(taken.position, records[-1].position)
        return 0.0 if self._taken[chain] > known else UPLOAD_PAUSE

    def _resting(self, chain: str, known: int) -> float | None:
        if audit.head(chain)[0] >= known:
            return None
        log.warning("the Primary holds more of audit chain %s than there is here: the database was put back", chain)
        del self._taken[chain]
        return 0.0

    def _go_on(self, asking: Asking, chain: str, place: AuditPlace, refused: PrimaryRefused) -> float:
        """Under the name that follows, where a person has released this gateway since; otherwise later."""
        begun = audit_forks.go_on(asking, chain, place)
        if begun is not None:
            self._taken[chain] = begun
            self._told.discard(chain)
            return 0.0
        self._taken.pop(chain, None)  # looked at anew: the database may have been put back while this process ran
        if chain not in self._told:
            self._told.add(chain)
            log.error("the Primary holds another past of audit chain %s (%s). Its entries stay here and are sent once an "
                      "administrator has released this gateway: see docs/operations/two-machines.md", chain, refused)  # fmt: skip
        return CONTRADICTED_PAUSE

    def _send_former(self, asking: Asking, former: list[str]) -> float:
        chain = former[0]
        try:
            pause = self._send(asking, chain)
        except PrimaryRefused as refused:
            if refused.code != ValidationFailed.default_code:
                raise
            log.error("the Primary does not take the audit chain of an earlier life, %s: %s", chain, refused)
            pause = None
        if pause is None or pause == CONTRADICTED_PAUSE:
            former.remove(chain)
            return 0.0
        return pause


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
