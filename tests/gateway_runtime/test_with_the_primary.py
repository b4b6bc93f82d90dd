"""A gateway and the real Primary's views, end to end without sockets: copy, writes, conflicts, a failover in between.

Both sides share one database here, so what is compared is what crossed the channel and what became of it.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from accounts.models import Environment, Session, User
from common import feed
from common.clock import now
from gateway_runtime import replica, state, write_queue
from gateway_runtime.models import NodeState, PendingWrite, ReplicaPrincipal, ReplicaRow, ReplicaToken
from gateway_runtime.replica import Pulled
from gateway_runtime.secrets_node import GatewayNode
from gateway_runtime.storage_ways import GatewayWays
from gateways import copy_digests, fleet, inbox
from gateways.models import CopyDigest, Gateway, ReceivedWrite
from integrations.keeping import VaultKeeper
from protocol import paths
from protocol.replica import EMPTY_DIGEST, AskChanges, Changes, ReplicaKind
from protocol.vocabulary import WriteOperation, WriteOutcome
from protocol.writes import WriteBody
from tests import factories
from tests.fakes.gateway import FakeGateway
from tests.fakes.primary import RealPrimary
from tests.gateway_runtime.conftest import GatewayPerson, Site, identity_of, start
from vault.models import Secret
from vault.ports import Origin, SecretChange
from vault.secrets import apply_change


@dataclass
class Pair:
    site: Site
    gateway: FakeGateway
    ann: GatewayPerson
    secret: Secret

    def at_primary(self, value: str) -> None:
        """Somebody changes the secret at the Primary."""
        place = (self.site.project.id, self.site.environment.id)
        change = SecretChange(WriteOperation.UPDATE, self.secret.id, *place, "", None, WriteBody(value=value))
        apply_change(change, Origin("user:admin"), None, now())

    def pull(self) -> None:
        while replica.pull(self.site.primary, "NPR") is Pulled.MORE:
            pass

    def put(self, value: str, **headers: str) -> tuple[int, Any]:
        return self.ann.put(f"secrets/{self.secret.id}", {"value": value}, **headers)

    def version(self) -> int:
        return Secret.objects.get(id=self.secret.id).version


@pytest.fixture
def pair(as_gateway: None, npr: tuple[FakeGateway, FakeGateway]) -> Pair:
    gateway = npr[0]
    NodeState.objects.all().delete()
    state.this_life()
    NodeState.objects.update(
        generation=gateway.generation, highest_epoch=gateway.epoch, assigned_role="active", assigned_epoch=gateway.epoch
    )  # fmt: skip
    primary = RealPrimary(gateway)
    supervisor = start(identity_of(gateway.keys, gateway.generation, gateway.id), primary)
    project = factories.project()
    dev = factories.environment_of(project)
    user = User.objects.create(email="ann@example.com", full_name="Ann", role="secret_manager", password="!")
    token = _session(user)
    made = uuid.uuid4()
    wish = SecretChange(WriteOperation.CREATE, made, project.id, dev.id, "db", None, WriteBody(value="one"))
    apply_change(wish, Origin("user:admin"), None, now())
    feed.note(["NPR"], ReplicaKind.PRINCIPAL, user.id)
    site = Site(supervisor, primary, project, dev, GatewayNode(VaultKeeper(GatewayWays())))
    found = Pair(site, gateway, GatewayPerson(token, f"user:{user.id}"), Secret.objects.get(id=made))
    found.pull()
    return found


def _session(user: User) -> str:
    from accounts.models import Session
    from accounts.sessions import PREFIX, hash_token

    token = f"{PREFIX}ann-token-at-both"
    Session.objects.create(user=user, token_hash=hash_token(token), expires_at=now() + timedelta(hours=1), address="")
    return token


def test_the_copy_knows_the_environment_and_who_may_use_it_and_nothing_of_production(pair: Pair) -> None:
    assert [ReplicaRow.objects.filter(kind=kind).count() for kind in ("project", "secret")] == [1, 1]
    places = Environment.objects.filter(id__in=ReplicaRow.objects.filter(kind="environment").values("entity_id"))
    assert pair.site.environment in places and {place.gateway_environment for place in places} == {"NPR"}
    assert ReplicaToken.objects.count() == 1
    assert pair.ann.get(f"secrets/{pair.secret.id}")[1]["value"] == "one"
    assert NodeState.objects.get().replica_position == feed.head("NPR")


def test_the_digests_of_both_sides_agree(pair: Pair) -> None:
    copy_digests.advance_all()
    ours, theirs = CopyDigest.objects.get(pk="NPR"), replica.report(now())
    assert (theirs.position, theirs.digest) == (ours.position, ours.digest)
    assert ours.digest != EMPTY_DIGEST


def test_a_change_through_the_gateway_is_applied_at_the_primary_in_one_answer(pair: Pair) -> None:
    status, body = pair.put("two")
    assert (status, body["version"], body["value"]) == (200, 2, "two")
    received = ReceivedWrite.objects.get()
    assert (received.outcome, received.actor) == ("applied", pair.ann.actor)
    assert NodeState.objects.get().replica_position == feed.head("NPR"), "who wrote reads what they wrote"


def test_queued_changes_are_applied_in_order_when_the_primary_is_back(pair: Pair) -> None:
    pair.site.primary.down = True
    assert [pair.put(value)[0] for value in ("a", "b", "c")] == [202, 202, 202]
    pair.site.primary.down = False
    pair.site.upload()
    assert set(PendingWrite.objects.values_list("outcome", flat=True)) == {"received"}
    inbox.apply_pending()
    PendingWrite.objects.update(not_before=now())
    pair.site.upload()
    rows = PendingWrite.objects.order_by("sequence").values_list("outcome", "version")
    assert list(rows) == [("applied", 2), ("applied", 3), ("applied", 4)] and pair.version() == 4


def test_a_secret_made_and_changed_while_the_primary_was_away_is_there_when_it_is_back(pair: Pair) -> None:
    pair.site.primary.down = True
    wish = {"project_id": str(pair.site.project.id), "environment": "dev", "key": "new", "value": "x"}
    made = pair.ann.post("secrets", wish)[1]
    path = f"secrets/{made['secret_id']}"
    assert pair.ann.get(path)[1]["pending_write"] == made["id"]
    assert pair.ann.put(path, {"value": "y"})[0] == 202
    pair.site.primary.down = False
    pair.site.upload()
    inbox.apply_pending()
    PendingWrite.objects.update(not_before=now())
    pair.site.upload()
    pair.pull()
    status, body = pair.ann.get(path)
    assert (status, body["value"], body["version"], body["pending_write"]) == (200, "y", 2, None)


def test_a_change_at_the_primary_before_the_cut_makes_a_conflict_of_the_queued_one(pair: Pair) -> None:
    pair.site.primary.down = True
    Secret.objects.filter(id=pair.secret.id).update(version=1)
    queued = pair.put("mine")[1]["id"]
    pair.at_primary("theirs")
    pair.site.primary.down = False
    pair.site.upload()
    inbox.apply_pending()
    PendingWrite.objects.update(not_before=now())
    pair.site.upload()
    followed = pair.ann.get(f"writes/{queued}")[1]
    assert (followed["outcome"], followed["code"]) == ("conflict", "VERSION_CONFLICT") and pair.version() == 2


@pytest.fixture
def doomed(pair: Pair) -> list[str]:
    """Two promised writes, the second made on the first. That one has ended as a conflict, as the gateway knows; of the second
    it knows only that the Primary has it. The secret is in version 2."""
    pair.site.primary.down = True
    promised = [pair.put(value)[1]["id"] for value in ("mine", "mine after that")]
    pair.at_primary("theirs")
    pair.site.primary.down = False
    pair.site.upload()
    assert outcomes_of(promised) == ["received", "received"]
    inbox.apply_pending()
    PendingWrite.objects.filter(id=promised[1]).update(not_before=now() + timedelta(minutes=4))
    PendingWrite.objects.filter(id=promised[0]).update(not_before=now())
    pair.site.upload()
    assert outcomes_of(promised) == ["conflict", "received"]
    return promised


def outcomes_of(writes: list[str]) -> list[str]:
    found = {str(row.id): row.outcome for row in PendingWrite.objects.filter(id__in=writes)}
    return [found[one] for one in writes]


def test_a_conflict_is_not_the_end_of_every_later_change(pair: Pair, doomed: list[str]) -> None:
    for version in (3, 4):
        status, body = pair.put(f"later {version}", **{"If-Match": f'"{version - 1}"'} if version == 4 else {})
        assert (status, body.get("version")) == (200, version), body
    PendingWrite.objects.update(not_before=now())
    pair.site.upload()
    assert outcomes_of(doomed) == ["conflict", "conflict"], "what was promised behind it is left to a person"
    assert pair.version() == 4


def test_changes_after_a_conflict_build_on_each_other_while_the_primary_is_away(pair: Pair, doomed: list[str]) -> None:
    pair.site.primary.down = True
    later = [pair.put(value)[1]["id"] for value in ("a", "b")]
    rows = [PendingWrite.objects.get(id=one) for one in later]
    assert [(row.previous, row.base_version) for row in rows] == [(None, 2), (rows[0].id, None)]
    pair.site.primary.down = False
    for _ in range(2):
        PendingWrite.objects.update(not_before=now())
        pair.site.upload()
        inbox.apply_pending()
    assert outcomes_of([*doomed, *later]) == ["conflict", "conflict", "applied", "applied"]
    assert pair.version() == 4


def test_a_refusal_is_told_while_the_caller_waits(pair: Pair) -> None:
    User.objects.update(role="viewer")
    status, body = pair.put("two")
    assert (status, body["code"]) == (403, "ACTOR_NOT_ALLOWED")
    assert PendingWrite.objects.get().outcome == "refused" and pair.version() == 1


def test_a_lost_answer_changes_the_secret_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway_runtime.client import PrimaryUnreachable

    answer = pair.site.primary.call

    def lose(path: str, message: Any, kind: Any, *, timeout: float) -> Any:
        answer(path, message, kind, timeout=timeout)
        raise PrimaryUnreachable("lost")

    monkeypatch.setattr(pair.site.primary, "call", lose)
    assert pair.put("two")[0] == 202
    monkeypatch.setattr(pair.site.primary, "call", answer)
    pair.site.upload()
    assert pair.version() == 2 and PendingWrite.objects.get().outcome == WriteOutcome.APPLIED


def test_a_write_of_an_earlier_epoch_is_quarantined(pair: Pair) -> None:
    from gateways.models import Route

    pair.site.primary.down = True
    pair.put("late")
    Route.objects.filter(pk="NPR").update(epoch=pair.gateway.epoch + 1)
    pair.site.primary.down = False
    pair.site.upload()
    assert PendingWrite.objects.get().outcome == WriteOutcome.QUARANTINED and pair.version() == 1


def test_a_revoked_session_is_gone_from_the_copy_with_the_next_page(pair: Pair) -> None:
    from accounts.models import Session

    user = User.objects.get(email="ann@example.com")
    Session.objects.update(revoked_at=now())
    feed.note(["NPR"], ReplicaKind.PRINCIPAL, user.id)
    pair.pull()
    assert pair.ann.get(f"secrets/{pair.secret.id}")[0] == 401
    assert write_queue.depth().writes == 0


def test_a_held_gateway_goes_on_with_what_it_has_and_hears_who_lost_their_rights(pair: Pair) -> None:
    fleet.hold("NPR", Gateway.objects.filter(pk=pair.gateway.row.pk), "its bootstrap token was presented again", now())
    complete, read = NodeState.objects.get().replica_complete_at, f"secrets/{pair.secret.id}"
    pair.at_primary("two")
    assert replica.pull(pair.site.primary, "NPR") is Pulled.RIGHTS_ONLY
    assert NodeState.objects.get().replica_complete_at == complete, "its copy is as old as it was"
    assert pair.ann.get(read)[0] == 200
    User.objects.filter(email="ann@example.com").update(is_active=False)
    feed.note(["NPR"], ReplicaKind.PRINCIPAL, User.objects.get(email="ann@example.com").id)
    assert replica.pull(pair.site.primary, "NPR") is Pulled.RIGHTS_ONLY
    assert pair.ann.get(read)[0] == 401
    heard = NodeState.objects.get()
    assert heard.rights_position == feed.head("NPR") > heard.replica_position


def test_a_held_gateway_is_given_nothing_and_a_late_page_takes_nothing_that_was_given_after_the_release(pair: Pair) -> None:
    ann = User.objects.get(email="ann@example.com")
    fleet.hold("NPR", Gateway.objects.filter(pk=pair.gateway.row.pk), "its bootstrap token was presented again", now())
    before = (list(ReplicaPrincipal.objects.values("id", "grants", "round")), list(ReplicaToken.objects.values()))
    Session.objects.create(user=ann, token_hash="ab" * 32, expires_at=now() + timedelta(hours=1))
    Session.objects.exclude(token_hash="ab" * 32).update(expires_at=now() + timedelta(days=1))
    User.objects.filter(pk=ann.pk).update(role="secret_reader")
    feed.note(["NPR"], ReplicaKind.PRINCIPAL, ann.id)
    asked = state.this_life()
    ask = AskChanges(after=asked.replica_position, generation=asked.replica_generation, rights_after=0)
    late = pair.site.primary.call(paths.CHANGES, ask, Changes, timeout=5)
    assert replica.pull(pair.site.primary, "NPR") is Pulled.RIGHTS_ONLY
    left = list(ReplicaPrincipal.objects.values("id", "grants", "round"))
    assert (left[0]["id"], left[0]["round"]) == (ann.id, before[0][0]["round"])
    held = {name for grant in before[0][0]["grants"] for name in grant["permissions"]}
    assert {name for grant in left[0]["grants"] for name in grant["permissions"]} < held
    assert list(ReplicaToken.objects.values()) == before[1]
    Gateway.objects.filter(pk=pair.gateway.row.pk).update(held_at=None, held_reason="", held_code="")
    pair.pull()
    assert ReplicaToken.objects.filter(principal=ann.id).count() == 2
    assert replica.apply_page(late, asked, "NPR", now()) is Pulled.OUTDATED
    assert ReplicaToken.objects.filter(principal=ann.id).count() == 2
