"""A project and a vault in memory, and a runner that carries out plans like the real one: the world of the sync tests.

The vault behaves like Key Vault: names without case, versions that stay, soft delete, recovery, purge, tags per version.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from integrations.sync.facts import Base, Confirmation, Ours, Rule, Theirs, World
from integrations.sync.plan import Action, Plan, names_to_read, plan, still_holds
from integrations.sync.remembering import learned, remembered_after
from integrations.sync.undo import Applied
from integrations.sync.words import ActionKind, Verdict

K = ActionKind
KEY = b"the digest key of both sides"
START = datetime(2026, 1, 1, tzinfo=UTC)


def digest(value: str) -> str:
    return hmac.new(KEY, value.encode(), hashlib.sha256).hexdigest()[:32]


@dataclass
class Kept:
    """A secret on either side: every value it ever had, newest last."""

    label: str
    values: list[str]
    changed_at: datetime
    owner: str | None = None
    key: str | None = None
    deleted: bool = False
    usable: bool = True
    expired: bool = False
    certificate: bool = False

    @property
    def value(self) -> str | None:
        return None if self.deleted else self.values[-1]


@dataclass
class Project:
    """The secrets of a project here. A write by a person drops the rule that owned it."""

    clock: list[int]
    secrets: dict[str, Kept] = field(default_factory=dict)

    def put(self, key: str, value: str, owner: str | None = None) -> None:
        kept = self.secrets.setdefault(key, Kept(key, [], START))
        kept.values.append(value)
        kept.owner, kept.deleted, kept.changed_at = owner, False, tick(self.clock)

    def delete(self, key: str) -> None:
        self.secrets[key].deleted, self.secrets[key].changed_at = True, tick(self.clock)

    def lose(self, key: str) -> None:
        """A row that is gone without a tombstone."""
        self.secrets.pop(key, None)

    def facts(self) -> tuple[Ours, ...]:
        return tuple(
            Ours(key, len(kept.values), digest(kept.values[-1]), kept.changed_at, kept.deleted, kept.usable, kept.owner)
            for key, kept in self.secrets.items()
        )

    def living(self) -> dict[str, str]:
        return {key: kept.values[-1] for key, kept in self.secrets.items() if not kept.deleted}


@dataclass
class Vault:
    """The secrets of a vault there. A new version set by a person has no tags."""

    clock: list[int]
    secrets: dict[str, Kept] = field(default_factory=dict)
    writes: int = 0

    def put(self, name: str, value: str, owner: str | None = None, key: str | None = None) -> None:
        kept = self.secrets.setdefault(name.lower(), Kept(name, [], START))
        assert not kept.deleted, f"409 ObjectIsDeletedButRecoverable: {name}"
        kept.values.append(value)
        kept.owner, kept.key, kept.changed_at = owner, key, tick(self.clock)
        self.writes += 1

    def delete(self, name: str) -> None:
        self.secrets[name.lower()].deleted, self.secrets[name.lower()].changed_at = True, tick(self.clock)
        self.writes += 1

    def recover(self, name: str) -> None:
        self.secrets[name.lower()].deleted, self.secrets[name.lower()].changed_at = False, tick(self.clock)
        self.writes += 1

    def purge(self, name: str) -> None:
        self.secrets.pop(name.lower(), None)

    def facts(self, read: frozenset[str] = frozenset()) -> tuple[Theirs, ...]:
        return tuple(self._fact(kept, name in read) for name, kept in self.secrets.items())

    def living(self) -> dict[str, str]:
        return {kept.label: kept.values[-1] for kept in self.secrets.values() if not kept.deleted}

    def _fact(self, kept: Kept, read: bool) -> Theirs:
        found = digest(kept.values[-1]) if read and not kept.deleted and kept.usable else None
        version = "" if kept.deleted else f"v{len(kept.values)}"
        return Theirs(kept.label, version, found, kept.changed_at, kept.owner, kept.key, kept.deleted, kept.usable, kept.expired,
                      kept.certificate)  # fmt: skip


def agreed(shown: Plan) -> Confirmation:
    """What a person who looked at this plan has agreed to."""
    return Confirmation(shown.setting, frozenset(action.fingerprint for action in shown.proposed))


def tick(clock: list[int]) -> datetime:
    clock[0] += 1
    return START + timedelta(seconds=clock[0])


@dataclass
class TwoSides:
    """Both sides and what each rule remembers."""

    clock: list[int] = field(default_factory=lambda: [0])
    bases: dict[str, Base] = field(default_factory=dict)
    history: list[Applied] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.project, self.vault = Project(self.clock), Vault(self.clock)

    def world(self, rule: Rule, confirmed: Confirmation | None = None) -> World:
        """Lists everything, reads only what the engine asks for."""
        listed = World(rule, self.project.facts(), self.vault.facts(), self.bases.get(rule.id), True, confirmed)
        wanted = frozenset(name.lower() for name in names_to_read(listed))
        return replace(listed, theirs=self.vault.facts(wanted))

    def plan(self, rule: Rule, confirmed: Confirmation | None = None) -> Plan:
        return plan(self.world(rule, confirmed))

    def run(self, rule: Rule, stop_after: int | None = None, confirmed: Confirmation | None = None) -> Plan:
        """One run, confirmed by whoever looks at the preview. `stop_after` kills it after so many steps."""
        made = self.plan(rule, confirmed or agreed(self.plan(rule)))
        if made.verdict is not Verdict.READY:
            return made
        base = self._base(rule)
        self.bases[rule.id] = base = learned(base, made)
        for action in made.actions[:stop_after]:
            base = self.step(action, rule)
        if stop_after is None or stop_after >= len(made.actions):
            self.bases[rule.id] = replace(base, settled=True)
        return made

    def step(self, action: Action, rule: Rule) -> Base:
        """Carry out one action, remember it and write it into the history."""
        ours = next((each for each in self.project.facts() if each.key == action.key), None)
        theirs = next((each for each in self.vault.facts() if each.name.lower() == action.name.lower()), None)
        assert still_holds(action, ours, theirs, rule)
        before = next((item for item in self._base(rule).items if item.name.lower() == action.name.lower()), None)
        self._do(action, rule)
        here, there = self.project.secrets.get(action.key), self.vault.secrets.get(action.name.lower())
        versions = (
            len(here.values) if here else None,
            None if there is None else "" if there.deleted else f"v{len(there.values)}",
        )
        self.bases[rule.id] = remembered_after(action, *versions, self._base(rule))
        self.history.append(Applied(action, *versions, before))
        return self.bases[rule.id]

    def _base(self, rule: Rule) -> Base:
        known = self.bases.get(rule.id)
        if known is None or not known.speaks_of(rule):
            return Base.empty(rule)
        return replace(known, direction=rule.direction)

    def _do(self, action: Action, rule: Rule) -> None:
        key, name = action.key, action.name
        here, there = self.project.secrets.get(key), self.vault.secrets.get(name.lower())
        if action.kind is K.CLAIM_THERE:
            there.owner, there.key = rule.id, key
        elif action.kind is K.RELEASE_THERE:
            there.owner = None
        elif action.kind in (K.CREATE_THERE, K.UPDATE_THERE):
            self.vault.put(name, here.values[-1], rule.id, key)
        elif action.kind is K.RECOVER_THERE:
            self.vault.recover(name)
            if action.digest and digest(there.values[-1]) != action.digest:  # without one it comes back as it was
                self.vault.put(name, here.values[-1], rule.id, key)
            there.owner, there.key = rule.id, key
        elif action.kind is K.DELETE_THERE:
            self.vault.delete(name)
        elif action.kind in (K.CREATE_HERE, K.UPDATE_HERE, K.RESTORE_HERE):
            self.project.put(key, there.values[-1], rule.id)
        elif action.kind is K.DELETE_HERE:
            self.project.delete(key)
        elif action.kind is K.ROLLBACK_THERE:
            self.vault.put(name, there.values[int(action.to_version[1:]) - 1], rule.id, key)
        elif action.kind is K.ROLLBACK_HERE:
            self.project.put(key, here.values[int(action.to_version) - 1], rule.id)
        else:
            raise AssertionError(action.kind)
