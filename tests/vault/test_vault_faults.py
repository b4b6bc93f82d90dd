"""Every fault of a vault at every step of every change: both sides end in the same state, and the answer tells the true cause.

A cell is a fault, an operation and what is looked at: the vault, the database, the answer. The real clients speak to the
sandbox's own answers in this process (`tests.fakes.vault_here`). Each test prints its number of cells and of wrong ones; show
them with `-rP`.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from accounts.access import Principal
from accounts.models import Project, User
from accounts.principals import principal_named
from common.clock import now
from common.errors import Conflict, MazeVaultError
from integrations import keeping
from integrations.azure.keyvault import KeyVault
from integrations.keeping import VaultKeeper
from integrations.models import Integration
from protocol.vocabulary import WriteOperation as Op
from protocol.writes import WriteBody
from tests import factories
from tests.fakes.vault_here import VaultHere, vault_here  # noqa: F401  the fixture
from vault import elsewhere, marks, values
from vault.models import Secret, SecretVersion, VaultClaim
from vault.node import PrimaryNode, desk_of
from vault.ports import Asker, SecretChange
from vault.rules import CARRIES_VALUE, vault_name_of

REFUSALS = {
    "network": "KEY_VAULT_NETWORK_CLOSED", "rbac": "KEY_VAULT_ROLE_MISSING", "access_policy": "KEY_VAULT_PERMISSION_MISSING",
    "obo": "KEY_VAULT_ON_BEHALF_OF_DEMANDED", "governance": "KEY_VAULT_POLICY_DENIED", "protected": "KEY_VAULT_PURGE_PROTECTED",
    "throttled": "KEY_VAULT_THROTTLED", "unavailable": "AZURE_UNAVAILABLE", "busy": "KEY_VAULT_OBJECT_BUSY",
    "lost": "KEY_VAULT_OUTCOME_UNKNOWN", "unheard": "KEY_VAULT_OUTCOME_UNKNOWN", "agreed": "KEY_VAULT_OBJECT_BUSY",
}  # fmt: skip
"""Way of failing to the code that tells it (`sandbox.azure.faults.WAYS`)."""
READING = ("network", "rbac", "access_policy", "obo", "throttled", "unavailable", "unheard")
"""Ways in which a look fails."""
UNREACHED = {"unheard": "AZURE_UNREACHABLE"}
"""A look that nobody answers changes nothing, so nothing is in doubt."""

ENDS = {"settling": ("KEY_VAULT_OBJECT_BUSY",), "protected": ("KEY_VAULT_PURGE_PROTECTED",)}
UNREAD = "rollback", "settling"
"""A name that is just being recovered is not found, and nothing says that it comes."""


@dataclass(frozen=True)
class Case:
    """An operation on a secret that was brought to a state first, and the vault's actions on its way."""

    operation: Op
    before: tuple[Op, ...]
    actions: tuple[str, ...]
    again: bool = False
    """A creation of a name that lies soft-deleted."""


CASES = {
    "create": Case(Op.CREATE, (), ("getSecret", "setSecret")),
    "create again": Case(Op.CREATE, (Op.CREATE, Op.DELETE), ("getSecret", "setSecret", "readMetadata", "recover"), again=True),
    "update": Case(Op.UPDATE, (Op.CREATE, Op.UPDATE), ("getSecret", "setSecret")),
    "rotate": Case(Op.ROTATE, (Op.CREATE, Op.UPDATE), ("getSecret", "setSecret")),
    "rollback": Case(Op.ROLLBACK, (Op.CREATE, Op.UPDATE), ("getSecret", "setSecret")),
    "delete": Case(Op.DELETE, (Op.CREATE,), ("getSecret", "delete")),
    "purge": Case(Op.PURGE, (Op.CREATE, Op.ARCHIVE), ("getSecret", "delete", "readMetadata", "purge")),
    "purge a deleted one": Case(Op.PURGE, (Op.CREATE, Op.DELETE), ("getSecret", "readMetadata", "purge")),
    "restore": Case(Op.RESTORE, (Op.CREATE, Op.DELETE), ("getSecret", "recover")),
}
WHOLE = ("update", "delete", "purge a deleted one", "restore")
"""Taken whole in the quick run; of the others, which meet the same actions, every third fault. The long run takes all."""
NOT_YET = {"setSecret": (), "delete": (), "recover": ("agreed",), "purge": ("protected", "agreed")}
"""Effects, and what only they can meet. A deletion that was agreed to and is not seen yet is done: it comes."""


@dataclass
class Desk:
    """A project whose values rest in the vault of this process."""

    here: VaultHere
    node: PrimaryNode
    project: Project
    caller: Principal
    numbers: Iterator[int] = field(default_factory=itertools.count)
    left: Any = None
    """State of the secret that was brought last, on both sides."""

    def change(self, operation: Op, secret: uuid.UUID, key: str, value: str = "", *, idempotency_key: str = "") -> Any:
        environment = factories.environment_of(self.project)
        body = WriteBody(rollback_to=1) if operation is Op.ROLLBACK else WriteBody()
        body = WriteBody(value=value) if operation in CARRIES_VALUE else body
        wish = SecretChange(operation, secret, self.project.id, environment.id, key, None, body)
        return self.node.write(wish, Asker(self.caller), idempotency_key=idempotency_key, now=now())

    def brought(self, case: Case) -> tuple[uuid.UUID, str]:
        secret, key = uuid.uuid4(), f"K{next(self.numbers)}"
        for number, operation in enumerate(case.before, 1):
            self.change(operation, secret, key, f"v{number}")
        secret, item = (uuid.uuid4() if case.again else secret), self.here.item(vault_name_of(key))
        self.left = state_of(secret), item is not None and item.deleted_at, len(self.here.world.vaults.journal)
        return secret, key

    def is_as_before(self, case: Case, secret: uuid.UUID, key: str) -> bool:
        """Whether the last fault left nothing, so that the next one can hit the same secret."""
        item, journal = self.here.item(vault_name_of(key)), self.here.world.vaults.journal
        return bool((state_of(secret), item is not None and item.deleted_at, len(journal)) == self.left)

    def settle(self) -> None:
        """What was in doubt is looked into, once no call can arrive any more."""
        for _ in range(2):
            VaultClaim.objects.update(until=now(), look_at=now())
            elsewhere.sweep(self.node.keeper, lambda claim: desk_of(claim, now()))


@pytest.fixture
def desk(db: None, vault_here: VaultHere) -> Desk:  # noqa: F811  the fixture
    project = factories.project(storage="key_vault")
    Integration.objects.create(
        project=project, environment=factories.environment_of(project), name="v", type="key_vault", provider="azure_key_vault",
        config={"vault_url": vault_here.url}, sealed_under="NPR",
    )  # fmt: skip
    user = User.objects.create(email="ann@example.com", full_name="Ann", role="admin", password="!")
    caller = principal_named(f"user:{user.id}", now())
    assert caller is not None
    return Desk(vault_here, PrimaryNode(VaultKeeper(vault_here)), project, caller)


def faults_of(case: Case) -> Iterator[tuple[str, str, str]]:
    """Action, way, and what must have been done before the fault begins (the end of a path; empty: nothing)."""
    effect = tuple(way for way in REFUSALS if way not in ("agreed", "protected"))
    for action in case.actions:
        ways = (*effect, *NOT_YET[action]) if action in NOT_YET else READING
        yield from ((action, way, "") for way in ways)
    if case.again:
        yield from (("setSecret", way, "/recover") for way in effect)


@pytest.mark.parametrize(
    ("name", "share"),
    [*((name, 1 if name in WHOLE else 3) for name in CASES),
     *(pytest.param(name, 1, marks=pytest.mark.long) for name in CASES if name not in WHOLE)],
)  # fmt: skip
def test_both_sides_end_in_one_state_and_the_answer_tells_why(desk: Desk, name: str, share: int) -> None:
    case, cells, wrong, place = CASES[name], 0, list[str](), None
    for action, way, first in itertools.islice(faults_of(case), list(CASES).index(name) % share, None, share):
        secret, key = place if place and desk.is_as_before(case, *place) else desk.brought(case)
        place, before = (secret, key), state_of(secret)
        if first:
            desk.here.after = first, {action: way}
        else:
            desk.here.faults(vault_fails={action: way})
        refused = refusal_of(desk, case, secret, key)
        told = state_of(secret)
        desk.here.healthy()
        desk.settle()
        found = {
            "answer": wrong_answer(case, action, way, refused, before, told),
            "database": wrong_database(case, refused, before, state_of(secret)),
            "vault": wrong_vault(desk, secret, key),
        }
        cells += len(found)
        wrong += [f"{name}, {action} {way}, {side}: {said} ({refused})" for side, said in found.items() if said]
    print(f"vault faults, {name}: cells {cells}, wrong {len(wrong)}")
    assert not wrong, "\n".join(wrong)


State = tuple[str, int]


def state_of(secret: uuid.UUID) -> State:
    row = Secret.objects.filter(id=secret).first()
    return (row.status, row.version) if row else ("", 0)


def refusal_of(desk: Desk, case: Case, secret: uuid.UUID, key: str) -> MazeVaultError | None:
    try:
        desk.change(case.operation, secret, key, "new")
    except MazeVaultError as refused:
        return refused
    return None


def wrong_answer(
    case: Case, action: str, way: str, refused: MazeVaultError | None, before: State, after: State
) -> str:  # fmt: skip
    """The cause is the true one; success is told of what is recorded and of nothing else; who may try again is told when."""
    if refused is None:
        return "" if after != before else "it was told as done and nothing is recorded"
    expected = REFUSALS[way] if action in NOT_YET else UNREACHED.get(way, REFUSALS[way])
    if refused.code != expected:
        return f"the cause is {expected}, told as {refused.code}"
    if refused.status in (429, 503) and way in ("throttled", "busy", "agreed") and not refused.retry_after:
        return "it does not say when to try again"
    partly = case.operation is Op.PURGE and after[0] == "deleted"
    return "" if after == before or partly else f"it was refused, and the database went from {before} to {after}"


def wrong_database(case: Case, refused: MazeVaultError | None, before: State, after: State) -> str:
    """Made, not made, or (of a purge) made as far as it went; no claim is left, so the name is free."""
    if VaultClaim.objects.exists():
        return "somebody is still waited for"
    made = {Op.DELETE: "deleted", Op.PURGE: "purged"}.get(case.operation, "active")
    if refused is None:
        return "" if after == (made, before[1] + 1) else f"it was done, and the database went from {before} to {after}"
    if after == before:
        return ""
    in_doubt = refused.code == "KEY_VAULT_OUTCOME_UNKNOWN" and after == (made, before[1] + 1)
    partly = case.operation is Op.PURGE and after == ("deleted", before[1] + 1)
    return "" if in_doubt or partly else f"the database went from {before} to {after}"


def wrong_vault(desk: Desk, secret: uuid.UUID, key: str) -> str:
    """What the vault has is what the database says: the recorded value lives, or lies deleted, or is gone for good."""
    row, item = Secret.objects.filter(id=secret).first(), desk.here.item(vault_name_of(key))
    lives = item is not None and item.deleted_at is None
    if row is None or row.status == "deleted":
        return "it lives in the vault" if lives else ""
    if row.status == "purged":
        return "" if item is None else "it was told as purged, and can be recovered"
    if item is None or not lives:
        return "the vault has nothing of what is recorded"
    recorded = values.resting(row)
    counts = item.latest.tags.get("mazevault-restores") or item.latest.id
    same = recorded is not None and recorded.external_version == counts
    return "" if same else "the newest value there is not the recorded one"


@pytest.mark.parametrize("state", ["disabled", "settling", "protected"])
def test_a_state_of_the_vault_is_no_obstacle_where_azure_has_none(desk: Desk, state: str) -> None:
    """What the vault would do is done, and what it does not do is told as it is."""
    cells, wrong = 0, list[str]()
    for name, case in CASES.items():
        if state == "protected" and case.operation is not Op.PURGE:
            continue
        secret, key = desk.brought(case)
        item = desk.here.item(vault_name_of(key))
        if state == "disabled" and item is not None:
            item.versions[item.latest.id] = replace(item.latest, enabled=False)
        if state == "settling" and item is not None:
            item.settles_at = desk.here.world.now() + 30
        desk.here.vault.purge_protection = state == "protected"
        before, refused = state_of(secret), refusal_of(desk, case, secret, key)
        desk.here.healthy()
        desk.settle()
        ends = {None, *ENDS.get(state, ()), *(("KEY_VAULT_NOT_FOUND",) if (name, state) == UNREAD else ())}
        found = {
            "answer": "" if (refused.code if refused else None) in ends else f"told as {refused!r}",
            "database": wrong_database(case, refused, before, state_of(secret)),
            "vault": wrong_vault(desk, secret, key),
        }
        cells += len(found)
        wrong += [f"{name}, {state}, {side}: {said} ({refused})" for side, said in found.items() if said]
    print(f"vault states, {state}: cells {cells}, wrong {len(wrong)}")
    assert not wrong, "\n".join(wrong)


class Killed(BaseException):
    """The process is gone: nothing of the product runs after it."""


def killed(desk: Desk, case: Case, secret: uuid.UUID, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure has agreed to recover the name; the process dies before it hears so."""
    asked = KeyVault.recover

    def recover(vault: KeyVault, name: str) -> None:
        asked(vault, name)
        raise Killed

    with monkeypatch.context() as dying, pytest.raises(Killed):
        dying.setattr(KeyVault, "recover", recover)
        desk.change(case.operation, secret, key, "new")


@pytest.mark.parametrize("name", ["create again", "restore"])
@pytest.mark.parametrize("dies", [True, False], ids=["and the process dies", "and it is told as busy"])
def test_a_recovery_that_ends_after_its_claim_is_waited_for(
    desk: Desk, name: str, dies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    case = CASES[name]
    secret, key = desk.brought(case)
    before = state_of(secret)
    desk.here.faults(vault_settle_seconds=60)
    if dies:
        killed(desk, case, secret, key, monkeypatch)
    else:
        assert getattr(refusal_of(desk, case, secret, key), "code", "") == "KEY_VAULT_OBJECT_BUSY"
    desk.settle()
    assert VaultClaim.objects.exists(), "nobody knows yet what comes"
    desk.here.healthy()
    desk.settle()
    after = state_of(secret)
    assert not VaultClaim.objects.exists() and not wrong_vault(desk, secret, key), (before, after)
    assert after == (("active", before[1] + 1) if case.operation is Op.RESTORE else before)


def test_what_somebody_else_ends_is_known_again_by_its_value_and_its_request(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies when the vault has the value: the mark of the value and the request's fingerprint outlive it, sealed."""
    secret, key = desk.brought(CASES["update"])
    with monkeypatch.context() as dying, pytest.raises(Killed):
        dying.setattr(elsewhere, "_record", lambda *_: (_ for _ in ()).throw(Killed()))
        desk.change(Op.UPDATE, secret, key, "canary-0815", idempotency_key="k")
    rests = str(VaultClaim.objects.values())
    assert "canary-0815" not in rests and marks.hash_of("canary-0815") not in rests
    desk.settle()
    row = SecretVersion.objects.get(secret=secret, version=3)
    assert row.value_mark == marks.mark_of(secret, marks.hash_of("canary-0815"))
    assert desk.change(Op.UPDATE, secret, key, "canary-0815", idempotency_key="k").version == 3
    with pytest.raises(Conflict, match="another request"):
        desk.change(Op.UPDATE, secret, key, "other", idempotency_key="k")


@pytest.mark.parametrize(("ago", "busy"), [(timedelta(seconds=5), True), (timedelta(hours=1), False)])
def test_a_purge_right_after_a_deletion_is_not_told_as_done(desk: Desk, ago: timedelta, busy: bool) -> None:
    """Azure has not finished the deletion: the name is in neither collection, and a purge finds nothing."""
    secret, key = desk.brought(CASES["purge a deleted one"])
    Secret.objects.filter(id=secret).update(deleted_at=now() - ago)
    gone = desk.here.vault.items.pop(("secrets", vault_name_of(key).lower()))
    refused = refusal_of(desk, CASES["purge a deleted one"], secret, key)
    assert getattr(refused, "code", None) == ("KEY_VAULT_OBJECT_BUSY" if busy else None)
    assert gone is not None and state_of(secret)[0] == ("deleted" if busy else "purged")


def test_a_recovery_that_never_began_leaves_what_lies_deleted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["restore"]
    secret, key = desk.brought(case)
    with monkeypatch.context() as dying, pytest.raises(Killed):
        dying.setattr(KeyVault, "recover", lambda *_: (_ for _ in ()).throw(Killed()))
        desk.change(case.operation, secret, key)
    desk.settle()
    assert not VaultClaim.objects.exists() and state_of(secret)[0] == "deleted" and not wrong_vault(desk, secret, key)


def test_a_name_that_was_purged_meanwhile_is_not_waited_for_for_days(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["create again"]
    secret, key = desk.brought(case)
    killed(desk, case, secret, key, monkeypatch)
    desk.here.vault.items.pop(("secrets", vault_name_of(key).lower()))
    desk.settle()
    assert VaultClaim.objects.exists(), "it may be on its way"
    monkeypatch.setattr(keeping, "LONGEST_SETTLING", timedelta(0))
    desk.settle()
    assert not VaultClaim.objects.exists() and state_of(secret) == ("", 0)
