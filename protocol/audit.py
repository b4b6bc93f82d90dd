"""The proof side of the audit trail: exact text, hash, checkpoint, signature, and the walk that finds what was changed (I18).

Pure, so that an auditor checks an export with public keys only. The text of an entry is written in `entry_text` and hashed in
`link_hash`; nobody else makes either.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

GENESIS = "0" * 64
"""What stands before the first entry."""
PRIMARY = "primary"
"""Name of the Primary's chain; a gateway's chain is named by its generation, and what follows its fork as `fork_name` says."""
CONTRADICTED = "AUDIT_CONTRADICTED"
"""The code of an upload that tells another past than an earlier one."""
ANCHORED, WITNESS_KNOWN, DATABASE_CHANGED = "audit.gateway.anchored", "audit.witness.known", "primary.database.changed"
"""Entries of the Primary's chain that prove something about others: a gateway chain's head, a countersigning gateway's key,
that a life of its database ended."""
FORKED = "audit.chain.forked"
"""An entry that says where a chain was told in two ways, and in which chain the gateway's own way goes on (ADR 42)."""
MOST_FORKS = 100
"""A life has at most so many forks; each one follows a person's release."""
LARGEST_TEXT = 16384
"""Longest text of one entry in characters, so that every entry fits into an upload."""
ENTRY_FIELDS = ("id", "at", "actor", "action", "entity", "entity_id", "severity", "environment", "address", "organization",
                "project", "details")  # fmt: skip
_LINK, _STATEMENT, _COUNTERSIGN = (
    b"mazevault audit link v1\n",
    b"mazevault audit statement v1\n",
    b"mazevault audit countersign v1\n",
)


class Link(NamedTuple):
    """One entry at its place."""

    position: int
    text: str
    hash: str


class Fault(StrEnum):
    """What a check can find."""

    CHANGED = "changed"
    MISSING = "missing"
    TAIL_CUT = "tail_cut"
    REWRITTEN = "rewritten"
    SIGNATURE = "signature"
    UNCHAINED = "unchained"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: in which chain, at which position (None for the chain as a whole), and the sentence for people."""

    chain: str
    position: int | None
    fault: Fault
    sentence: str

    def __str__(self) -> str:
        where = f" at {self.position}" if self.position is not None else ""
        return f"{self.chain}{where}: {self.fault.value}: {self.sentence}"


@dataclass(frozen=True)
class Statement:
    """Where a chain stood at a moment, as it is signed. `previous_*` restate the statement before it as the chain has it now."""

    chain: str
    generation: str
    position: int
    hash: str
    at: str
    is_cut: bool = False
    previous_position: int = 0
    previous_hash: str = GENESIS

    def text(self) -> str:
        return _canonical(self.__dict__)


@dataclass(frozen=True)
class Signed:
    """The text of a statement with the signature over it and the public key (raw, base64url) it is said to be made with."""

    text: str
    signature: str
    key: str = ""


class Claim(NamedTuple):
    """What somebody outside of a chain knows of it: the hash at a position."""

    position: int
    hash: str
    witness: str


@dataclass(frozen=True)
class Walked:
    """What a walk along one chain saw. `hashes` holds the stored hash at each position that was asked for."""

    chain: str
    start: int
    length: int
    head: str
    findings: list[Finding]
    hashes: dict[int, str] = field(repr=False)


def entry_text(fields: Mapping[str, Any]) -> str:
    """The one text of an entry: a JSON object of exactly `ENTRY_FIELDS`, sorted, compact. `details` is itself a JSON text."""
    if set(fields) != set(ENTRY_FIELDS):
        raise ValueError("an audit text has exactly the fields of ENTRY_FIELDS")
    return _canonical(fields)


def link_hash(chain: str, position: int, previous: str, text: str) -> str:
    """SHA-256 (hex) over the name of the chain's life, the position, the hash before and the text.

    So an entry keeps its hash in whatever fork of its life it stands.
    """
    return hashlib.sha256(_LINK + f"{life_of(chain)}\n{position}\n{previous}\n{text}".encode()).hexdigest()


def life_of(chain: str) -> str:
    """The name that a chain shares with its forks."""
    return chain.partition("#")[0]


def fork_number(chain: str) -> int:
    """Which fork of its life a chain is; 0 for the first chain of it."""
    number = chain.partition("#")[2]
    return int(number) if number.isdecimal() else 0


def fork_name(life: str, number: int) -> str:
    return f"{life}#{number}"


def walk(chain: str, links: Iterable[Link], *, start: tuple[int, str] = (0, GENESIS), watch: Iterable[int] = ()) -> Walked:
    """Follow a chain in order from behind `start` and name each place where it does not fit.

    After a misfit the walk goes on from the stored hash, so that two separate changes are two findings.
    """
    findings: list[Finding] = []
    asked, hashes = frozenset(watch), dict([start])
    position, previous = start
    for link in links:
        if link.position <= start[0]:
            continue  # removed by retention, or about to be
        position += 1
        if link.position != position:
            findings.append(_gap(chain, position, link.position))
            position = link.position
        elif link.hash != link_hash(chain, position, previous, link.text):
            findings.append(Finding(chain, position, Fault.CHANGED, "the hash does not fit the entry and what stands before it"))
        previous = link.hash
        if position in asked:
            hashes[position] = link.hash
    return Walked(chain, start[0], position, previous, findings, hashes)


def compare(walked: Walked, claims: Iterable[Claim]) -> list[Finding]:
    """Hold a walked chain against what others know of it. Positions that retention removed are passed over."""
    findings: list[Finding] = []
    for claim in sorted(claims, key=lambda one: -one.position):
        if claim.position > walked.length:
            sentence = f"the chain ends at {walked.length}, but {claim.witness} saw position {claim.position}"
            if not findings:  # the farthest claim says it all
                findings.append(Finding(walked.chain, walked.length + 1, Fault.TAIL_CUT, sentence))
        elif claim.position >= walked.start and walked.hashes.get(claim.position, claim.hash) != claim.hash:
            findings.append(Finding(walked.chain, claim.position, Fault.REWRITTEN, f"{claim.witness} saw another hash here"))
    return findings


def statement_of(text: str) -> Statement:
    """Read a statement, or raise `ValueError`. Only the canonical text is one, so a signature covers exactly what is read."""
    try:
        statement = Statement(**json.loads(text))
        if statement.text() == text and statement.position >= 0 and isinstance(statement.hash, str):
            return statement
    except (TypeError, RecursionError) as error:
        raise ValueError("this is not a statement about an audit chain") from error
    raise ValueError("this is not a statement about an audit chain")


def sign_statement(statement: Statement, key: Ed25519PrivateKey) -> Signed:
    text = statement.text()
    return Signed(text, _encode(key.sign(_STATEMENT + text.encode())), _encode(key.public_key().public_bytes_raw()))


def statement_is_signed(signed: Signed, key: Ed25519PublicKey) -> bool:
    return _verifies(key, signed.signature, _STATEMENT + signed.text.encode())


def countersign(text: str, key: Ed25519PrivateKey) -> str:
    """A gateway's signature under a statement it has seen and found in order."""
    return _encode(key.sign(_COUNTERSIGN + text.encode()))


def is_countersigned(text: str, signature: str, key: Ed25519PublicKey) -> bool:
    return _verifies(key, signature, _COUNTERSIGN + text.encode())


def public_key_of(text: str) -> Ed25519PublicKey:
    """The key behind its raw base64url form, or `ValueError`."""
    return Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def contradiction(seen: Iterable[Statement], offered: Statement) -> str:
    """Why a witness that signed `seen` may not sign `offered`; empty when it may (DESIGN §10)."""
    for known in seen:
        if known.chain != offered.chain:
            continue
        for position, digest in ((offered.position, offered.hash), (offered.previous_position, offered.previous_hash)):
            if position == known.position and digest != known.hash:
                return f"position {position} has another hash than this gateway has signed"
        if offered.position < known.position and offered.at > known.at:
            return f"the chain ends at {offered.position}, but this gateway has signed position {known.position}"
        if offered.previous_position < known.position and offered.at > known.at:
            return f"it leaves out position {known.position}, which this gateway has signed"
    return ""


def _gap(chain: str, expected: int, found: int) -> Finding:
    if found < expected:
        return Finding(chain, found, Fault.CHANGED, "this position comes twice or out of order")
    missing = f"position {expected} is" if found == expected + 1 else f"positions {expected} to {found - 1} are"
    return Finding(chain, expected, Fault.MISSING, f"{missing} missing")


def _canonical(fields: Mapping[str, Any]) -> str:
    return json.dumps(dict(fields), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _verifies(key: Ed25519PublicKey, signature: str, signed: bytes) -> bool:
    try:
        key.verify(base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4)), signed)
    except (InvalidSignature, ValueError):
        return False
    return True
