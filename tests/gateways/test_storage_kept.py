"""What was moved into a vault stays here too until it was seen there, whatever the gateway that moved it says (ADR 35)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db.models import F
from msgspec import structs

from common.clock import now
from common.models import AuditEntry
from gateway_runtime.node import MayNotAct
from gateways import storage_kept, storage_moves
from gateways.models import Task
from gateways.storage_looks import FIRST_LOOK, LOOK_AGAIN, Look, Step, decide
from integrations.azure.egress import Guard
from integrations.azure.errors import Unreachable
from integrations.keeping import Work
from integrations.models import StorageMove
from protocol import paths
from protocol.messages import Message
from protocol.storage import LookReport, MoveProgress, Sight, seen_digest
from protocol.vocabulary import WriteOperation
from protocol.writes import WriteBody
from sandbox.azure.directory import CLIENT_ID, TENANT_ID
from sandbox.azure.server import Sandbox
from tests.conftest import Person
from tests.gateways.sync_desk import Line, SyncDesk
from tests.gateways.test_storage_moves import filled, look, move, start
from vault.keys import begin, reseal
from vault.models import KeptValue, Secret, SecretVersion
from vault.ports import Origin, SecretChange
from vault.secrets import apply_change

pytestmark = pytest.mark.usefixtures("primary")
GRACE = timedelta(hours=24)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def desk(admin: Person, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> SyncDesk:
    return SyncDesk(admin, sandbox, monkeypatch)


@dataclass
class Liar(Line):
    """The channel of a gateway that bends what it says."""

    bend: Callable[[Message], Message] = field(default=lambda body: body)

    def call(self, path: str, body: Message, kind: type[Message], *, timeout: float) -> Any:
        return super().call(path, self.bend(body), kind, timeout=timeout)


def later(delay: timedelta) -> None:
    KeptValue.objects.update(look_at=F("look_at") - delay, seen_at=F("seen_at") - delay)


def looked_for(desk: SyncDesk, **how: Any) -> int:
    """The next look, when it is due: offered by the Primary, done by the gateway. Returns what is left of the values here."""
    later(FIRST_LOOK)
    storage_kept.keep_up(now())
    desk.work(**how)
    return KeptValue.objects.count()


def kept(desk: SyncDesk) -> tuple[int, str]:
    row = look(desk)
    return row["kept"], row["kept_detail"]


def accusations() -> list[dict[str, Any]]:
    return [row.details for row in AuditEntry.objects.filter(action="secret.move_contradicted", severity="critical")]


def own_application(desk: SyncDesk) -> None:
    """The project's vault is reached by an application whose secret the Primary has."""
    wish = {"name": "vault", "type": "key_vault", "provider": "azure_key_vault",
            "config": {"vault_url": desk.url, "auth_method": "client_secret", "tenant_id": TENANT_ID,
                       "client_id": CLIENT_ID, "client_secret": desk.sandbox.world.directory.registration.secret}}  # fmt: skip
    status, body = desk.admin.put(f"projects/integrations/{desk.integration}", wish)
    assert status == 200, body
    vault = desk.sandbox.world.vaults.named("kv-mazevault-npr")
    assert vault is not None
    desk.sandbox.world.access.grant(CLIENT_ID, "Key Vault Secrets Officer", vault.resource_id)


@pytest.mark.parametrize(
    ("look_of", "after", "step"),
    [
        (Look(Sight.READ, same=True, own=True, first_seen=None), timedelta(0), Step.REMOVE),
        (Look(Sight.READ, same=True, own=False, first_seen=None), timedelta(0), Step.WAIT),
        (Look(Sight.READ, same=True, own=False, first_seen=NOON), GRACE - timedelta(seconds=1), Step.WAIT),
        (Look(Sight.READ, same=True, own=False, first_seen=NOON), GRACE, Step.REMOVE),
        (Look(Sight.READ, same=False, own=True, first_seen=None), timedelta(0), Step.PUT_BACK),
        (Look(Sight.READ, same=False, own=False, first_seen=NOON), GRACE, Step.PUT_BACK),
        (Look(Sight.GONE, same=False, own=False, first_seen=None), timedelta(0), Step.PUT_BACK),
        (Look(Sight.UNREADABLE, same=False, own=True, first_seen=None), timedelta(0), Step.WAIT),
        (Look(Sight.UNREADABLE, same=True, own=False, first_seen=NOON), GRACE, Step.WAIT),
    ],
)
def test_a_value_goes_only_by_what_was_seen(look_of: Look, after: timedelta, step: Step) -> None:
    decision = decide(look_of, NOON + after, GRACE)
    assert decision.step is step
    assert (decision.look_at is None) == (step is not Step.WAIT)


def test_a_digest_is_of_one_question_one_version_and_one_value() -> None:
    said = ("ab" * 32, "secret", 1, "v1", "value")
    others = [("cd" * 32, *said[1:]), (*said[:2], 2, *said[3:]), (*said[:3], "v2", "value"), (*said[:4], "other")]
    assert len({seen_digest(*one) for one in [said, *others]}) == 5


def test_a_gateway_shows_it_twice_and_a_grace_period_apart_before_ours_goes(desk: SyncDesk) -> None:
    filled(desk)
    assert move(desk)["state"] == "succeeded" and kept(desk) == (5, "")
    assert storage_kept.keep_up(now()) == 0, "not before the first look is due"
    assert looked_for(desk) == 5
    assert kept(desk) == (5, "the secret is deleted, and so is its name in the vault: it is looked for when it is restored")
    assert KeptValue.objects.exclude(seen_at=None).count() == 4 and not Secret.objects.filter(
        versions__sealed_value__isnull=False
    )
    assert looked_for(desk) == 5, "the grace period is not over"
    later(GRACE)
    assert looked_for(desk) == 1, "a deleted one cannot be looked at"
    desk.portal().begin_recover_deleted_secret("GONE").result()
    Secret.objects.filter(key="GONE").update(status="active", deleted_at=None)
    later(LOOK_AGAIN)
    assert looked_for(desk) == 1 and KeptValue.objects.get().seen_at is not None
    seen = AuditEntry.objects.filter(action="secret.seen_in_vault")
    assert seen.count() == 4 and {row.details["by"] for row in seen} == {"gw-npr-primary"}
    assert not accusations() and look(desk)["state"] == "succeeded"
    text = str(list(Task.objects.values())) + str(list(AuditEntry.objects.values()))
    assert "nonce" not in text and "digest" not in text, "nobody gets something to try values by"


def test_where_the_primary_has_its_own_way_it_looks_itself_and_once(desk: SyncDesk) -> None:
    own_application(desk)
    desk.put("A", "one")
    move(desk)
    later(FIRST_LOOK)
    assert storage_kept.keep_up(now()) == 1 and not KeptValue.objects.exists()
    assert not Task.objects.filter(kind="storage.look").exists(), "the gateway is not asked"
    assert AuditEntry.objects.get(action="secret.seen_in_vault").details["by"] == "the Primary"
    assert desk.there() == {"A": "one"} and look(desk)["kept"] == 0


def test_an_answer_that_was_remembered_proves_nothing(desk: SyncDesk) -> None:
    """The first look is honest, then the value goes from the vault and the gateway says again what it said before."""
    desk.put("A", "one")
    move(desk)
    said = list[Message]()

    def remember(body: Message) -> Message:
        said.extend([body] if isinstance(body, LookReport) and body.seen else [])
        return body

    assert looked_for(desk, line=Liar(desk.npr, bend=remember)) == 1
    again = said[0]
    assert isinstance(again, LookReport)

    def repeat(body: Message) -> Message:
        return structs.replace(body, seen=again.seen) if isinstance(body, LookReport) and body.seen else body

    later(GRACE)
    assert looked_for(desk, line=Liar(desk.npr, bend=repeat)) == 0
    assert desk.here() == {"A": "one"} and len(accusations()) == 1


def test_what_cannot_be_read_now_stays_until_it_can(desk: SyncDesk) -> None:
    for key in ("OFF", "DELETED", "FINE"):
        desk.put(key, key.lower())
    move(desk)
    version = SecretVersion.objects.get(secret__key="OFF").external_version
    desk.portal().update_secret_properties("OFF", version, enabled=False)
    desk.portal().begin_delete_secret("DELETED").result()
    later(GRACE)
    looked_for(desk)
    assert dict(KeptValue.objects.values_list("version__secret__key", "seen_at")).keys() == {"OFF", "DELETED", "FINE"}
    troubles = dict(KeptValue.objects.values_list("version__secret__key", "trouble"))
    assert "disabled" in troubles["OFF"] and "somebody deleted" in troubles["DELETED"] and troubles["FINE"] == ""
    assert not accusations()
    desk.portal().update_secret_properties("OFF", version, enabled=True)
    later(LOOK_AGAIN)
    looked_for(desk)
    assert KeptValue.objects.get(version__secret__key="OFF").seen_at is not None


def test_where_the_primary_does_not_reach_the_vault_the_gateway_looks(desk: SyncDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    own_application(desk)
    desk.put("A", "one")
    move(desk)

    def far(self: Guard, target: object) -> None:
        raise Unreachable("no route to the vault", "open the network")

    later(FIRST_LOOK)
    with monkeypatch.context() as patched:
        patched.setattr(Guard, "session", far)
        storage_kept.keep_up(now())
    assert kept(desk) == (1, "the Primary does not reach the vault: no route to the vault")
    assert looked_for(desk) == 1 and KeptValue.objects.get().seen_at is not None
    later(GRACE)
    assert looked_for(desk) == 0 and Task.objects.filter(kind="storage.look").count() == 2


def test_a_move_back_that_broke_off_leaves_no_deleted_secret_recovered(desk: SyncDesk) -> None:
    """The lease goes after a deleted secret was recovered to be read: the Primary knows, and has it deleted again."""
    desk.put("A", "one")
    desk.delete("A")
    move(desk)
    start(desk, "mazevault")

    class Fading:
        """Gives one right to act, to recover, and no other."""

        epoch, given = 1, 0

        def effect(self) -> Any:
            self.given += 1
            if self.given > 1:
                raise MayNotAct("the lease is over")
            return nullcontext(1)

    desk.work(node=Fading())
    assert desk.there() == {"A": "one"}, "it is recovered, and nobody deleted it again"
    Task.objects.filter(kind="storage.move", state="pending").update(state="dead_letter")
    assert storage_moves.sweep(now()) == 1
    assert Task.objects.get(kind="vault.put_back").payload["does"] == "delete"
    desk.work()
    assert desk.there() == {} and StorageMove.objects.order_by("-created_at")[0].opened == {}


@pytest.mark.parametrize("own", [False, True], ids=["the gateway looks", "the Primary looks"])
def test_what_was_only_said_to_be_moved_rests_here_again(desk: SyncDesk, monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    if own:
        own_application(desk)
    for key in ("A", "B"):
        for number in range(2):
            desk.put(key, f"value {number}")
    honest, lied = Work.create, iter(["0" * 32])
    monkeypatch.setattr(Work, "create", lambda self, value: next(lied, "") or honest(self, value + " spoilt"))
    monkeypatch.setattr(Work, "update", lambda self, value: "1" * 32)
    done = move(desk)
    assert (done["state"], done["moved"], list(desk.there().values())) == ("succeeded", 2, ["value 0 spoilt"])
    assert looked_for(desk) == 0
    assert desk.here() == {"A": "value 1", "B": "value 1"}
    row = look(desk)
    assert (row["state"], row["kept"], [one["code"] for one in row["failed"]]) == ("incomplete", 0, ["NOT_SEEN_IN_VAULT"] * 2)
    assert sorted(one["versions"][0] for one in accusations()) == [1, 1, 2, 2]
    assert {one["told_by"] for one in accusations()} == {f"gateway:{desk.npr.id}"}
    assert sum("not the value" in one["why"] for one in accusations()) == 1


def test_nothing_is_believed_that_was_not_asked(desk: SyncDesk) -> None:
    desk.put("A", "one")
    desk.put("B", "two")
    move(desk)

    def of_another(body: Message) -> Message:
        other = Secret.objects.get(key="B" if isinstance(body, LookReport) and body.secret == desk.ids()["A"] else "A")
        return structs.replace(body, secret=str(other.id)) if isinstance(body, LookReport) and body.seen else body

    later(FIRST_LOOK)
    storage_kept.keep_up(now())
    moved = StorageMove.objects.get()
    for claim in (str(Task.objects.get(kind="storage.move").claim), str(moved.id)):
        answer = desk.npr.call(paths.STORAGE_LOOK, LookReport(str(moved.id), claim, 1), LookReport)
        assert answer.status_code == 409 and answer.json()["code"] == "STALE_CLAIM"
    desk.work(line=Liar(desk.npr, bend=of_another))
    assert KeptValue.objects.filter(seen_at=None).count() == 2


def test_a_place_told_twice_is_not_moved_and_what_comes_home_is_what_went_there(desk: SyncDesk) -> None:
    desk.put("A", "one")
    desk.put("B", "two")
    told = list[MoveProgress]()

    def again(body: Message) -> Message:
        if isinstance(body, MoveProgress) and body.ended:
            told.append(body)
            if len(told) == 2:
                first = told[0].ended[0]
                moved = [structs.replace(one, external_version="f" * 32) for one in first.versions]
                return structs.replace(body, ended=[structs.replace(first, versions=moved), *body.ended])
        return body

    def spoilt(body: Message) -> Message:
        if not isinstance(body, MoveProgress):
            return body
        return structs.replace(body, ended=[
            structs.replace(one, versions=[structs.replace(row, value="wrong") for row in one.versions]) for one in body.ended
        ])  # fmt: skip

    start(desk)
    desk.work(line=Liar(desk.npr, bend=again))
    assert not SecretVersion.objects.filter(external_version="f" * 32).exists() and look(desk)["moved"] == 2
    start(desk, "mazevault")
    desk.work(line=Liar(desk.npr, bend=spoilt))
    assert desk.here() == {"A": "one", "B": "two"} and not KeptValue.objects.exists()
    assert len(accusations()) == 2


def test_a_vault_that_lets_nobody_look_is_asked_again_after_a_pause_and_not_for_each_name(desk: SyncDesk, control: Any) -> None:
    for number in range(3):
        desk.put(f"K{number}", "value")
    move(desk)
    control.post("/faults", json={"vault_forbidden": ["kv-mazevault-npr"]})
    assert looked_for(desk) == 3
    task = Task.objects.get(kind="storage.look")
    assert (task.state, task.result) == ("succeeded", {"looked": 0, "code": "KEY_VAULT_ROLE_MISSING"})
    assert "KEY_VAULT_ROLE_MISSING" in kept(desk)[1]
    assert storage_kept.keep_up(now()) == 0, "there is a pause"
    control.post("/faults", json={"vault_forbidden": []})
    later(LOOK_AGAIN)
    assert storage_kept.keep_up(now()) == 1 and storage_kept.keep_up(now()) == 0, "one task at a time"
    Task.objects.filter(kind="storage.look", state="pending").update(state="dead_letter", detail="it broke")
    assert storage_kept.keep_up(now()) == 0 and kept(desk) == (3, "it broke")
    later(LOOK_AGAIN)
    looked_for(desk)
    assert KeptValue.objects.exclude(seen_at=None).count() == 3


def test_a_kept_value_follows_its_keys_and_ends_with_its_version(desk: SyncDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("one", "two"):
        desk.put("RETIRED", value)
    desk.put("GONE", "g")
    desk.put("LOST", "lost")
    desk.delete("GONE")
    move(desk)
    SecretVersion.objects.filter(secret__key="RETIRED", version=1).update(retired_at=now())
    SecretVersion.objects.filter(secret__key="LOST").update(external_version="0" * 32)
    secret = Secret.objects.get(key="GONE")
    purge = SecretChange(
        WriteOperation.PURGE, secret.id, secret.project_id, secret.environment_id, secret.key, None, WriteBody()
    )  # fmt: skip
    apply_change(purge, Origin("user:x"), None, now())
    assert not KeptValue.objects.filter(version__secret=secret).exists()
    before = {row.pk: bytes(row.sealed_value) for row in KeptValue.objects.all()}
    assert begin("NPR", "user:x", now())
    list(reseal("NPR"))
    assert not set(before.items()) & {(row.pk, bytes(row.sealed_value)) for row in KeptValue.objects.all()}
    looked_for(desk)
    (left,) = KeptValue.objects.select_related("version__secret")
    assert (left.version.secret.key, left.version.version) == ("RETIRED", 2) and left.seen_at is not None
    assert desk.here()["LOST"] == "lost"


@pytest.mark.parametrize("own", [False, True])
def test_a_kept_value_that_does_not_open_is_named_and_the_others_are_looked_for(desk: SyncDesk, own: bool) -> None:
    if own:
        own_application(desk)
    desk.put("A", "one")
    desk.put("B", "two")
    assert move(desk)["state"] == "succeeded"
    KeptValue.objects.filter(version__secret__key="A").update(sealed_value=b"\x01" + bytes(200))
    looked_for(desk)
    later(GRACE)
    assert looked_for(desk) == 1
    left = KeptValue.objects.select_related("version__secret").get()
    assert left.version.secret.key == "A" and "'A' (version 1) does not open" in left.trouble
