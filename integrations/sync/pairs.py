"""Which secret here belongs to which secret there. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from integrations.sync.facts import Base, Ours, Remembered, Rule, Theirs, World
from integrations.sync.transform import Transform
from integrations.sync.words import Reason


class Change(StrEnum):
    """What became of one side since the rule last looked. Only a tombstone is a deletion; absence says nothing."""

    SAME = "same"
    CHANGED = "changed"
    DELETED = "deleted"
    ABSENT = "absent"


@dataclass(frozen=True)
class Pair:
    """One name, with what is known of it on both sides and in the rule's memory."""

    key: str
    name: str
    base: Remembered | None
    ours: Ours | None
    theirs: Theirs | None

    @property
    def lives_here(self) -> bool:
        return self.ours is not None and not self.ours.deleted

    @property
    def lives_there(self) -> bool:
        return self.theirs is not None and not self.theirs.deleted

    @property
    def their_digest(self) -> str | None:
        """Read, or the remembered one while the version is the remembered one."""
        if self.theirs is None or self.theirs.digest is not None:
            return self.theirs.digest if self.theirs else None
        unchanged = self.base is not None and self.base.their_version == self.theirs.version
        return self.base.digest if self.base and unchanged else None

    @property
    def equal(self) -> bool:
        return self.lives_here and self.lives_there and self.ours is not None and self.ours.digest == self.their_digest

    @property
    def change_here(self) -> Change:
        if self.ours is None:
            return Change.ABSENT
        return Change.DELETED if self.ours.deleted else self._compared(self.ours.digest)

    @property
    def change_there(self) -> Change:
        if self.theirs is None:
            return Change.ABSENT
        return Change.DELETED if self.theirs.deleted else self._compared(self.their_digest)

    def _compared(self, digest: str | None) -> Change:
        return Change.SAME if self.base is not None and digest == self.base.digest else Change.CHANGED


@dataclass(frozen=True)
class Paired:
    """All pairs by name, the keys that fight for one name, and what has no partner by its nature."""

    pairs: tuple[Pair, ...]
    collisions: tuple[tuple[str, tuple[str, ...]], ...]
    unnamed: tuple[Ours, ...]
    left_behind: tuple[Theirs, ...]


def pair_up(world: World, transform: Transform) -> Paired:
    """Match by name; Key Vault does not tell small letters from capitals."""
    named = _by_name(world.ours, transform)
    remembered = {item.name.lower(): item for item in memory(world).items}
    theirs = {each.name.lower(): each for each in world.theirs}
    pairs, left_behind = list[Pair](), list[Theirs]()
    for name in sorted({*named, *remembered, *theirs}):
        pair = _pair(transform, named.get(name, ()), remembered.get(name), theirs.get(name))
        if pair is not None:
            pairs.append(pair)
        elif theirs[name].owner == world.rule.id:
            left_behind.append(theirs[name])
    return Paired(tuple(pairs), _collisions(named), _unnamed(world.ours, transform), tuple(left_behind))


def memory(world: World) -> Base:
    """What the rule remembers that still means something."""
    known = world.base
    return known if known is not None and known.speaks_of(world.rule) else Base.empty(world.rule)


def held_off(pair: Pair, rule: Rule) -> Reason | None:
    """Why a pair is not to be touched at all. What the rule itself set there may have expired: its next value is to end that."""
    ours, theirs = pair.ours, pair.theirs
    if theirs is not None and rule.owned_by_other(theirs.owner):
        return Reason.OWNED_BY_OTHER
    if theirs is not None and theirs.certificate:
        return Reason.CERTIFICATE_BACKED
    if pair.lives_there and theirs is not None and not theirs.enabled:
        return Reason.DISABLED_THERE
    if pair.lives_there and theirs is not None and theirs.expired and not (theirs.owner == rule.id and rule.writes_there):
        return Reason.EXPIRED_THERE
    if pair.lives_here and ours is not None and not ours.active:
        return Reason.INACTIVE_HERE
    if pair.lives_there and pair.their_digest is None:
        return Reason.NOT_READ
    return None


def _by_name(ours: tuple[Ours, ...], transform: Transform) -> Mapping[str, tuple[Ours, ...]]:
    """Living secrets by name; tombstones only where nothing living has the name."""
    living, buried = defaultdict[str, list[Ours]](list), defaultdict[str, list[Ours]](list)
    for secret in sorted(ours, key=lambda each: each.key):
        name = transform.name_of(secret.key)
        if name is not None:
            (buried if secret.deleted else living)[name.lower()].append(secret)
    return {name: tuple(living.get(name) or buried[name]) for name in {*living, *buried}}


def _pair(transform: Transform, ours: tuple[Ours, ...], base: Remembered | None, theirs: Theirs | None) -> Pair | None:
    secret = next((each for each in ours if base is not None and each.key == base.key), ours[0] if ours else None)
    if secret is not None:
        name = theirs.name if theirs else (base.name if base else transform.name_of(secret.key) or "")
        return Pair(secret.key, name, base, secret, theirs)
    if base is not None:
        return Pair(base.key, theirs.name if theirs else base.name, base, None, theirs)
    key = _key_of(transform, theirs) if theirs else None
    return Pair(key, theirs.name, None, None, theirs) if theirs and key else None


def _key_of(transform: Transform, theirs: Theirs) -> str | None:
    """The key in the tag, if its name is really this one; else what the name itself says."""
    if theirs.key and transform.leads_to(theirs.key, theirs.name):
        return theirs.key
    return transform.key_of(theirs.name)


def _collisions(named: Mapping[str, tuple[Ours, ...]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    fighting = {name: ours for name, ours in named.items() if len(ours) > 1 and not ours[0].deleted}
    return tuple((name, tuple(each.key for each in ours)) for name, ours in sorted(fighting.items()))


def _unnamed(ours: tuple[Ours, ...], transform: Transform) -> tuple[Ours, ...]:
    lost = (each for each in ours if not each.deleted and transform.name_of(each.key) is None)
    return tuple(sorted(lost, key=lambda each: each.key))
