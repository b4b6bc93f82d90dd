"""Everything one or more nodes can show about their audit chains, and the check that holds all of it against each other (I18).

The same check serves a running node's database and an export: both are turned into `Evidence` first. Public keys suffice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protocol.audit import (
    ANCHORED,
    DATABASE_CHANGED,
    FORKED,
    GENESIS,
    PRIMARY,
    WITNESS_KNOWN,
    Claim,
    Fault,
    Finding,
    Link,
    Signed,
    Statement,
    Walked,
    compare,
    fork_number,
    is_countersigned,
    life_of,
    public_key_of,
    statement_is_signed,
    statement_of,
    walk,
)
from protocol.certificates import ChainBroken, verify_chain
from protocol.trust import chosen, pins_of

Links = Callable[[], Iterable[Link]]
"""Reads the links of a chain from the beginning, each time it is called."""


@dataclass(frozen=True)
class Countersignature:
    """A gateway's signature under the text of a statement."""

    text: str
    gateway: str
    generation: str
    key: str
    signature: str


@dataclass(frozen=True)
class Keys:
    """Certificates of the Primary's channel keys and what they hang from, in PEM: every generation there was of each."""

    channel: tuple[str, ...] = ()
    intermediates: str = ""
    root: str = ""


@dataclass(frozen=True)
class Evidence:
    """What one node shows. `hidden` counts entries that have no place in a chain and do not wait for one either.

    `made_at` (RFC 3339) is when it was read; what others saw later cannot be in it. Empty means now.
    """

    node: str
    chains: dict[str, Links]
    statements: tuple[Signed, ...] = ()
    countersignatures: tuple[Countersignature, ...] = ()
    keys: Keys = field(default_factory=Keys)
    hidden: int = 0
    made_at: str = ""


@dataclass(frozen=True)
class ChainSeen:
    """One line of the report: a chain of a node, how long it is and where it ends."""

    node: str
    chain: str
    start: int
    length: int
    head: str


@dataclass(frozen=True)
class Fork:
    """A chain of a gateway that was told in two ways behind a position, and the chain its own way is held in (ADR 42)."""

    chain: str
    position: int
    follows: str


@dataclass(frozen=True)
class Report:
    chains: list[ChainSeen]
    findings: list[Finding]
    forks: list[Fork]
    statements: int
    """Signed checkpoints and cuts that were checked."""
    pinned: bool
    """Whether the root was compared with one from outside of the evidence."""

    @property
    def sound(self) -> bool:
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        return {"sound": self.sound, "chains": [asdict(one) for one in self.chains],
                "findings": [asdict(one) for one in self.findings], "statements": self.statements,
                "pinned": self.pinned, "forks": [asdict(one) for one in self.forks]}  # fmt: skip

    def lines(self) -> Iterator[str]:
        """The report for people: what was read, what is wrong and where, and the verdict last."""
        begins = {fork.follows: fork for fork in self.forks}
        for seen in self.chains:
            fork = begins.get(seen.chain)
            begin = f", goes on behind position {fork.position} of {fork.chain}" if fork else ""
            removed = f", {seen.start} removed by retention" if seen.start and not (fork and fork.position == seen.start) else ""
            yield f"{seen.node}: chain {seen.chain}: {seen.length} entries{begin}{removed}, head {seen.head[:16]}"
        for fork in self.forks:
            yield (f"FORK {fork.chain} behind position {fork.position}: it was told in two ways, by a copy of the gateway or "
                   f"before its database was put back; after a release the gateway went on as {fork.follows}")  # fmt: skip
        yield f"{self.statements} signed statements checked" + ("" if self.pinned else "; the root was not pinned (--ca FILE)")
        yield from (f"FOUND {finding}" for finding in self.findings)
        yield "sound" if self.sound else f"NOT SOUND: {len(self.findings)} findings"


def check(shown: list[Evidence], pin: str = "") -> Report:
    """Check every chain, every signature and everything the nodes know of each other.

    `pin` is `sha256:…` of the root, or of several with a comma between them: statements under another one are not believed.
    """
    return _Check(shown, pin).run()


def pin_of_pem(root: str) -> str:
    """The pins of the root certificates in a PEM text, with a comma between them. Raises `ValueError` when it holds none."""
    found = pins_of(root)
    if not found:
        raise ValueError("there is no certificate in it")
    return ",".join(found)


class _Check:
    def __init__(self, shown: list[Evidence], pin: str) -> None:
        self.shown = sorted(shown, key=lambda one: one.node != PRIMARY)
        self.pins = {one for one in pin.split(",") if one}
        self.findings: list[Finding] = []
        self.chains: list[ChainSeen] = []
        self.anchors: dict[str, list[Claim]] = {}
        self.witnesses: dict[str, str] = {}
        self.ended_lives: set[str] = set()
        self.forks: list[Fork] = []
        self.begins: dict[str, int] = {}
        """Behind which position each fork begins; below 0 where nobody knows any more."""

    def run(self) -> Report:
        self.trusted = self._trusted_keys()
        signed = [(one, self._statements(one)) for one in self.shown]
        claims = [(one, statement, claim) for one, found in signed for statement, claim in _claims(one.node, found)]
        for one, found in signed:
            self._check_statement_order(one, found)
            self._check_node(one, found, claims)
            self._check_countersignatures(one)
            if one.hidden:
                self.findings.append(Finding(one.node, None, Fault.UNCHAINED,
                                             f"{one.hidden} entries have no place in a chain and wait for none"))  # fmt: skip
        return Report(self.chains, self.findings, self.forks, sum(len(found) for _, found in signed), bool(self.pins))

    def _trusted_keys(self) -> dict[bytes, Ed25519PublicKey]:
        """Keys whose certificate leads to a root that is expected: a pinned one, or else one the Primary shows."""
        roots = {one.node: set(pins_of(one.keys.root)) for one in self.shown if one.keys.root}
        expected = self.pins or next(iter(roots.values()), set())
        foreign = [node for node, pins in roots.items() if not (pins & expected if self.pins else pins <= expected)]
        if foreign:
            self._distrust(f"the root certificate of {', '.join(foreign)} is not the one that was expected")
            return {}
        found = [_certified(pem, one.keys, expected) for one in self.shown for pem in one.keys.channel]
        for reason in (one for one in found if isinstance(one, str)):
            self._distrust(reason)
        return {key.public_bytes_raw(): key for key in found if not isinstance(key, str)}

    def _distrust(self, sentence: str) -> None:
        self.findings.append(Finding(PRIMARY, None, Fault.SIGNATURE, sentence))

    def _statements(self, shown: Evidence) -> list[Statement]:
        found = []
        for signed in shown.statements:
            try:
                statement, key = statement_of(signed.text), public_key_of(signed.key)
            except ValueError:
                self._distrust(f"{shown.node} shows a statement that cannot be read")
                continue
            known = not self._has_primary() or key.public_bytes_raw() in self.trusted
            if known and statement_is_signed(signed, key):
                found.append(statement)
            else:
                sentence = f"the statement {shown.node} shows is not signed by a certified channel key of the Primary"
                self.findings.append(Finding(statement.chain, statement.position, Fault.SIGNATURE, sentence))
        return sorted(found, key=lambda one: one.position)

    def _has_primary(self) -> bool:
        """A gateway alone holds no certificate of the Primary's channel key, so only the signatures themselves are checked."""
        return any(one.node == PRIMARY for one in self.shown)

    def _check_statement_order(self, shown: Evidence, found: list[Statement]) -> None:
        """The Primary keeps every checkpoint behind its newest cut, and each names the one before it."""
        kept, start = [statement for statement in found if not statement.is_cut], _start(PRIMARY, found)[0]
        known = {statement.position for statement in kept}
        for statement in kept if shown.node == PRIMARY else []:
            if statement.previous_position > start and statement.previous_position not in known:
                self.findings.append(Finding(statement.chain, statement.previous_position, Fault.MISSING,
                                             f"the checkpoint before the one at {statement.position} is missing"))  # fmt: skip

    def _check_node(self, shown: Evidence, own: list[Statement], claims: list[tuple[Evidence, Statement, Claim]]) -> None:
        names = dict.fromkeys([*([PRIMARY] if shown.node == PRIMARY else []), *shown.chains])
        for name in names:
            about = [(statement, claim) for origin, statement, claim in claims
                     if self._is_about(shown, name, statement.chain, claim)
                     and not _may_be_younger(shown, origin, statement)]  # fmt: skip
            self._check_chain(shown, name, shown.chains.get(name, tuple), own, about)
        for name in list(self.anchors) if shown.node == PRIMARY else ():
            if name not in names:
                self._check_chain(shown, name, tuple, own, [])
        if shown.node == PRIMARY:
            self._check_forks(shown, own)

    def _is_about(self, shown: Evidence, name: str, chain: str, claim: Claim) -> bool:
        """Whether what is claimed of a chain holds for what a node shows under a name.

        The Primary has each fork of a gateway's chain by itself. A gateway has one chain, its own way: there what is claimed of a
        chain that forked holds up to where it did.
        """
        if shown.node == PRIMARY or chain == PRIMARY:
            return chain == name
        return life_of(chain) == name and claim.position <= self._shared_upto(chain)

    def _shared_upto(self, chain: str) -> float:
        """Where the first of the later forks of a chain's life begins."""
        later = [begin for fork, begin in self.begins.items()
                 if life_of(fork) == life_of(chain) and fork_number(fork) > fork_number(chain)]  # fmt: skip
        return min(later, default=math.inf)

    def _from_outside(self, shown: Evidence, name: str) -> list[Claim]:
        """What the Primary anchored, and its copies, about a chain."""
        if shown.node == PRIMARY:
            return self.anchors.get(name, [])
        found: list[Claim] = []
        for chain in (name, *(fork for fork in self.begins if life_of(fork) == name)):
            upto = self._shared_upto(chain)
            found += [claim for claim in self.anchors.get(chain, []) if claim.position <= upto]
        return found

    def _check_forks(self, shown: Evidence, own: list[Statement]) -> None:
        """Each fork that the Primary shows stands in its chain, unless that entry's time was over."""
        for name in shown.chains:
            if not fork_number(name) or name in self.begins:
                continue
            self.begins[name] = -1
            if not _start(PRIMARY, own)[0]:
                self.findings.append(Finding(name, None, Fault.MISSING, "no entry of the Primary tells of this fork"))

    def _check_chain(self, shown: Evidence, name: str, links: Links, own: list[Statement],
                     about: list[tuple[Statement, Claim]]) -> None:  # fmt: skip
        outside = self._from_outside(shown, name)
        watch = {claim.position for _, claim in about} | {claim.position for claim in outside}
        try:
            read = self._learning(links()) if name == PRIMARY else links()
            walked = walk(name, read, start=self._start(shown, name, own), watch=watch)
        except ValueError as error:
            self.findings.append(Finding(name, None, Fault.UNREADABLE, f"{shown.node}: {error}"))
            return
        self.chains.append(ChainSeen(shown.node, name, walked.start, walked.length, walked.head))
        self.findings += walked.findings
        self.findings += compare(walked, self._not_excused(walked, about))
        self.findings += compare(walked, outside)
        self._remember_copy(shown, walked)

    def _start(self, shown: Evidence, name: str, own: list[Statement]) -> tuple[int, str]:
        """A gateway's cuts name the fork in which the Primary holds what it removed."""
        return _start(name, own) if shown.node == PRIMARY else _start(name, own, life_of)

    def _not_excused(self, walked: Walked, about: list[tuple[Statement, Claim]]) -> list[Claim]:
        """A restored database loses its tail, openly: the chain then tells of the change and names the generation that ended."""
        lost = {statement.generation for statement, claim in about
                if statement.generation in self.ended_lives and compare(walked, [claim])}  # fmt: skip
        return [claim for statement, claim in about if statement.generation not in lost or not compare(walked, [claim])]

    def _remember_copy(self, shown: Evidence, walked: Walked) -> None:
        """The Primary's copy of a gateway's chain is a claim about the gateway's own."""
        if shown.node == PRIMARY and walked.chain != PRIMARY and walked.length:
            claim = Claim(walked.length, walked.head, "the Primary's copy")
            self.anchors.setdefault(walked.chain, []).append(claim)

    def _learning(self, links: Iterable[Link]) -> Iterator[Link]:
        """Pass the Primary's links on and keep what they tell of others."""
        for link in links:
            if any(f'"action":"{action}"' in link.text for action in (ANCHORED, WITNESS_KNOWN, DATABASE_CHANGED, FORKED)):
                self._learn(link)
            yield link

    def _learn(self, link: Link) -> None:
        try:
            entry = json.loads(link.text)
            details = json.loads(entry["details"])
            self._learn_from(link.position, entry, details)
        except (ValueError, KeyError, TypeError):
            return  # nobody wrote it like this: its hash does not fit, and that is the finding

    def _learn_from(self, position: int, entry: dict[str, Any], details: dict[str, Any]) -> None:
        if entry["action"] == ANCHORED:
            claim = Claim(details["position"], details["hash"], f"the Primary's entry {position}")
            self.anchors.setdefault(entry["entity_id"], []).append(claim)
        elif entry["action"] == WITNESS_KNOWN:
            self.witnesses.setdefault(entry["entity_id"], details["key"])
        elif entry["action"] == DATABASE_CHANGED:
            self.ended_lives.add(entry["entity_id"])
        elif entry["action"] == FORKED:
            fork = Fork(str(details["chain"]), int(details["position"]), entry["entity_id"])
            self.forks.append(fork)
            self.begins[fork.follows] = fork.position

    def _check_countersignatures(self, shown: Evidence) -> None:
        texts = {signed.text for signed in shown.statements}
        for said in shown.countersignatures:
            if not _holds(said, self.witnesses.get(said.generation, said.key)) or said.text not in texts:
                self.findings.append(Finding(PRIMARY, None, Fault.SIGNATURE,
                                             f"a countersignature of {said.gateway} fits no checkpoint here"))  # fmt: skip


def _claims(node: str, found: list[Statement]) -> Iterator[tuple[Statement, Claim]]:
    for statement in found:
        witness = "a signed checkpoint" if node == PRIMARY else f"a checkpoint countersigned by {node}"
        yield statement, Claim(statement.position, statement.hash, witness)
        if statement.previous_position:
            yield statement, Claim(statement.previous_position, statement.previous_hash, witness)


def _may_be_younger(shown: Evidence, origin: Evidence, statement: Statement) -> bool:
    """Whether another node speaks of what came after this evidence was read: nodes are read one after the other."""
    return origin is not shown and bool(shown.made_at) and statement.at > shown.made_at


def _start(chain: str, own: list[Statement], named: Callable[[str], str] = str) -> tuple[int, str]:
    cuts = [statement for statement in own if statement.is_cut and named(statement.chain) == chain]
    return (cuts[-1].position, cuts[-1].hash) if cuts else (0, GENESIS)


def _certified(pem: str, keys: Keys, pins: set[str]) -> Ed25519PublicKey | str:
    """The key of a channel certificate, or why it is not trusted. It is judged as of when it was made: evidence is old."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        issued = certificate.not_valid_before_utc + timedelta(minutes=10)
        verify_chain(pem, keys.intermediates, chosen(keys.root, tuple(pins)), issued, "channel")
        key = certificate.public_key()
    except (ChainBroken, ValueError) as error:
        return f"a certificate of the Primary's channel key does not lead to the root: {error}"
    return key if isinstance(key, Ed25519PublicKey) else "a channel certificate holds no signing key"


def _holds(said: Countersignature, key: str) -> bool:
    try:
        return said.key == key and is_countersigned(said.text, said.signature, public_key_of(key))
    except ValueError:
        return False
