"""The copy of the environment: pages, cursor, reading anew, and what the heartbeat says of it (DESIGN §9, I4, I13)."""

from __future__ import annotations

import threading
import time
import uuid
from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from accounts.models import Environment, Organization, Project
from common.clock import now
from common.models import AuditEntry
from gateway_runtime import replica, state
from gateway_runtime.models import NodeState, ReplicaPrincipal, ReplicaRow, ReplicaToken
from gateway_runtime.replica import Pulled
from protocol.messages import Directive
from protocol.replica import (
    ReplicaEnvironment,
    ReplicaGrant,
    ReplicaOrganization,
    ReplicaProject,
    ReplicaSecret,
    ReplicaVersion,
    digest,
    fingerprint,
)
from protocol.replica import ReplicaPrincipal as Told
from protocol.replica import ReplicaToken as ToldToken
from protocol.vocabulary import Assignment
from tests.gateway_runtime.conftest import Site
from vault import values
from vault.models import Secret, SecretVersion

AT = "2026-01-02T03:04:05.000006Z"
TIMES = {"created_at": AT, "updated_at": AT}


def organization(name: str = "Insurer", **more: Any) -> ReplicaOrganization:
    return ReplicaOrganization(**{"id": str(uuid.uuid4()), "name": name, "deleted": False, **TIMES, **more})


class World:
    """What the Primary holds: one organization, one environment, one project, and a feed."""

    last = 0
    """Newest position of the feed."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.organization = organization()
        self.environment = ReplicaEnvironment(
            id=str(uuid.uuid4()), organization=self.organization.id, name="Development", slug="dev", is_production=False,
            deleted=False, **TIMES,
        )  # fmt: skip
        self.project = ReplicaProject(
            id=str(uuid.uuid4()), organization=self.organization.id, name="claims", type="", default_environment="dev",
            storage="mazevault", conflict_strategy="manual_resolution", max_staleness_seconds=None, deleted=False, **TIMES,
        )  # fmt: skip
        self.say(self.organization, self.environment, self.project)

    def say(self, *records: Any) -> None:
        feed = self.site.primary.records
        for record in records:
            feed[:] = [one for one in feed if (type(one[1]), one[1].id) != (type(record), record.id)]
            self.last += 1
            feed.append((self.last, record))

    def secret(self, key: str = "db", value: str | None = "one", version: int = 1, **more: Any) -> ReplicaSecret:
        versions = [ReplicaVersion(number, "update", "user:ann", "primary", "", AT) for number in range(version, 0, -1)]
        facts: dict[str, Any] = {
            "id": str(uuid.uuid4()), "project": self.project.id, "environment": self.environment.id, "key": key,
            "type": "general", "description": "", "tags": ["a"], "metadata": {"k": "v"}, "ttl_hours": 0, "rotation": None,
            "status": "active", "version": version, "value": value, "created_by": "user:ann", "archived_at": None,
            "deleted_at": None, "versions": versions, **TIMES,
        }  # fmt: skip
        return ReplicaSecret(**{**facts, **more})

    def changed(self, secret: ReplicaSecret, value: str | None, **more: Any) -> ReplicaSecret:
        version = secret.version + 1
        newest = ReplicaVersion(version, "update", "user:bob", "primary", "", AT)
        return structs.replace(secret, value=value, version=version, versions=[newest, *secret.versions], **more)

    def pull(self) -> Pulled:
        """Every page up to the head."""
        pulled = replica.pull(self.site.primary, "NPR")
        while pulled is Pulled.MORE:
            pulled = replica.pull(self.site.primary, "NPR")
        return pulled


@pytest.fixture
def world(site: Site) -> World:
    Project.objects.all().delete()
    Environment.objects.all().delete()
    Organization.objects.all().delete()
    NodeState.objects.update(replica_complete_at=None)
    return World(site)


def held(secret: ReplicaSecret, version: int | None = None) -> str | None:
    row = Secret.objects.select_related("environment").get(id=secret.id)
    holder = values.holding(row, version)
    return values.open_value(row, holder) if holder else None


def test_what_the_primary_says_is_held_with_its_times_and_its_value_sealed(world: World) -> None:
    secret = world.secret(value="canary-51d")
    world.say(secret)
    assert world.pull() is Pulled.COMPLETE
    row = Secret.objects.select_related("environment", "project").get(id=secret.id)
    assert (row.key, row.tags, row.metadata, row.version, row.created_by) == ("db", ["a"], {"k": "v"}, 1, "user:ann")
    assert row.updated_at.isoformat() == "2026-01-02T03:04:05.000006+00:00"
    assert row.environment.gateway_environment == "NPR" and held(secret) == "canary-51d"
    assert b"canary-51d" not in bytes(row.versions.get().sealed_value)


def test_only_the_newest_value_is_held_and_no_old_one_is_taken_for_it(world: World) -> None:
    secret = world.secret(value="one")
    world.say(secret)
    world.pull()
    later = world.changed(world.changed(secret, "two"), "three")
    world.say(later)
    world.pull()
    assert (held(later), held(later, 2), held(later, 1)) == ("three", None, None)
    assert list(SecretVersion.objects.order_by("version").values_list("version", "author")) == [
        (1, "user:ann"), (2, "user:bob"), (3, "user:bob")
    ]  # fmt: skip


def test_a_tombstone_takes_the_value_away(world: World) -> None:
    secret = world.secret()
    world.say(secret)
    world.pull()
    world.say(world.changed(secret, None, status="deleted", deleted_at=AT))
    world.pull()
    row = Secret.objects.get(id=secret.id)
    assert (row.status, row.version, held(secret)) == ("deleted", 2, None)


def test_a_key_or_name_that_went_over_to_another_thing_stops_no_page(world: World) -> None:
    old, new = world.secret("db"), world.secret("db", "new")
    world.say(old)
    world.pull()
    world.say(new, world.changed(old, None, status="deleted", deleted_at=AT))
    one, two = organization("One"), organization("Two")
    world.say(one, two)
    world.pull()
    world.say(structs.replace(one, name="two"), structs.replace(two, name="ONE"))
    assert world.pull() is Pulled.COMPLETE
    assert held(new) == "new" and Secret.objects.get(id=old.id).status == "deleted"
    assert set(Organization.objects.filter(deleted_at=None).values_list("name", flat=True)) == {"Insurer", "two", "ONE"}


def test_a_principal_comes_with_its_credentials_and_loses_them_with_the_page_that_names_none(world: World) -> None:
    until = (now() + timedelta(hours=1)).isoformat()
    ann = Told(
        str(uuid.uuid4()), "user", "ann", [ReplicaGrant(["secrets:read"])], [ToldToken("h1", until), ToldToken("h2", until)]
    )
    world.say(ann)
    world.pull()
    assert set(ReplicaToken.objects.values_list("hash", flat=True)) == {"h1", "h2"}
    world.say(structs.replace(ann, tokens=[ToldToken("h2", until, ["secrets:read"])]))
    world.pull()
    assert list(ReplicaToken.objects.values_list("hash", "scopes")) == [("h2", ["secrets:read"])]
    world.say(structs.replace(ann, grants=[], tokens=[]))
    world.pull()
    assert not ReplicaPrincipal.objects.exists() and not ReplicaToken.objects.exists()


def test_a_page_and_its_cursor_commit_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = NodeState.objects.get().replica_position

    def fail(*_: Any) -> None:
        raise RuntimeError("crash")

    monkeypatch.setattr(replica.copying, "_mark", fail)
    with pytest.raises(RuntimeError):
        world.pull()
    assert (
        NodeState.objects.get().replica_position == before and not Organization.objects.filter(id=world.organization.id).exists()
    )


def test_a_page_for_a_cursor_that_moved_is_not_stored(world: World) -> None:
    stale = state.this_life()
    world.pull()
    page = world.site.primary._give(replica.AskChanges(after=0))
    assert replica.apply_page(page, stale, "NPR", now()) is Pulled.OUTDATED


@pytest.mark.parametrize("what", ["head", "generation"])
def test_a_primary_whose_database_is_older_is_refused_and_the_cursor_stays(world: World, what: str) -> None:
    world.pull()
    before = NodeState.objects.get()
    if what == "head":
        world.site.primary.head = before.replica_position - 1
    else:
        world.site.primary.generation = str(uuid.uuid4())
    assert world.pull() is Pulled.REFUSED
    after = NodeState.objects.get()
    assert (after.replica_position, after.replica_generation, after.replica_complete_at) == (
        before.replica_position, before.replica_generation, before.replica_complete_at,
    )  # fmt: skip
    assert replica.report(now()).position == before.replica_position


def ordered(site: Site, resync: bool) -> None:
    site.supervisor.node.obey(
        Directive(revision="r", assigned_role=Assignment.ACTIVE, epoch=1, poll_tasks=True, next_heartbeat_seconds=1,
                  resync_replica=resync)
    )  # fmt: skip


def step(site: Site) -> None:
    while site.supervisor.replica_step() == 0.0:
        pass


def test_an_ordered_re_read_drops_what_is_not_there_any_more_and_serves_meanwhile(world: World) -> None:
    kept, lost = world.secret("kept"), world.secret("lost")
    world.say(kept, lost)
    world.pull()
    world.site.primary.records = [one for one in world.site.primary.records if one[1].id != lost.id]
    world.site.primary.generation = str(uuid.uuid4())
    ordered(world.site, True)
    world.site.supervisor.replica_step()
    assert NodeState.objects.get().replica_resyncing and replica.report(now()).digest == ""
    assert held(lost) == "one", "what is there goes on answering"
    step(world.site)
    assert not Secret.objects.filter(id=lost.id).exists() and held(kept) == "one"
    assert not NodeState.objects.get().replica_resyncing
    assert NodeState.objects.get().replica_generation == world.site.primary.generation
    assert AuditEntry.objects.get(action="gateway.replica.resynced").details == {"dropped": 1}


def test_an_order_is_followed_once_while_it_stands(world: World) -> None:
    world.pull()
    ordered(world.site, True)
    step(world.site)
    first = NodeState.objects.get().replica_round
    step(world.site)
    assert NodeState.objects.get().replica_round == first
    ordered(world.site, False)
    step(world.site)
    ordered(world.site, True)
    step(world.site)
    assert NodeState.objects.get().replica_round == first + 1


def test_a_restored_version_number_means_what_the_primary_says_now(world: World) -> None:
    secret = world.secret()
    world.say(world.changed(world.changed(secret, "two"), "three"))
    world.pull()
    restored = world.changed(secret, "other")
    world.say(structs.replace(restored, versions=[structs.replace(restored.versions[0], author="user:eve"), *secret.versions]))
    replica.begin_resync()
    world.pull()
    assert held(secret) == "other"
    assert list(SecretVersion.objects.order_by("version").values_list("version", "author")) == [(1, "user:ann"), (2, "user:eve")]


def test_the_digest_is_that_of_the_records_without_values_and_principals(world: World) -> None:
    secret = world.secret()
    ann = Told(str(uuid.uuid4()), "user", "ann", [ReplicaGrant(["secrets:read"])], [ToldToken("h", AT)])
    world.say(secret, ann)
    world.pull()
    told = (world.organization, world.environment, world.project, secret)
    assert replica.report(now()).digest == digest(fingerprint(one) for one in told)
    world.say(world.changed(secret, "two"))
    world.pull()
    assert replica.report(now()).digest != digest(fingerprint(one) for one in told)


def test_a_copy_is_complete_as_of_the_moment_it_was_asked_for(world: World) -> None:
    assert replica.report(now()).age == -1
    before = now()
    world.pull()
    complete_at = NodeState.objects.get().replica_complete_at
    assert before <= complete_at <= now()


def test_a_copy_whose_age_nobody_knows_is_reported_as_very_old(site: Site) -> None:
    site.cut_off_for(seconds=-90)
    assert replica.report(now()).age == replica.LONGEST_AGE


def test_a_new_life_reads_everything_anew_and_serves_nothing_before(world: World) -> None:
    world.say(world.secret())
    world.pull()
    state.begin_new_life(uuid.uuid4())
    row = NodeState.objects.get()
    assert (row.replica_position, row.replica_complete_at, row.replica_resyncing, row.write_sequence) == (0, None, True, 0)
    world.site.primary.records = world.site.primary.records[:1]
    world.pull()
    assert not Secret.objects.exists() and ReplicaRow.objects.count() == 1


def test_who_writes_does_not_wait_for_a_pull_of_somebody_else_longer_than_its_own_time(site: Site) -> None:
    secret, held, done = site.secret(), threading.Event(), threading.Event()

    def pulls() -> None:
        with replica.pulling:
            held.set()
            done.wait(10)

    somebody = threading.Thread(target=pulls)
    somebody.start()
    assert held.wait(5)
    began = time.monotonic()
    assert replica.catch_up(site.primary, "NPR", secret.id, 2, 0.2) is None
    assert 0.2 <= time.monotonic() - began < 2
    done.set()
    somebody.join()


def test_what_somebody_else_pulled_meanwhile_is_not_asked_for_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = site.secret()
    site.primary.down = True

    class Busy:
        """The pull of another thread ends, and has brought the version."""

        released = 0

        def acquire(self, timeout: float) -> bool:
            Secret.objects.filter(id=secret.id).update(version=2)
            return True

        def release(self) -> None:
            self.released += 1

    monkeypatch.setattr(replica, "pulling", Busy())
    found = replica.catch_up(site.primary, "NPR", secret.id, 2, 1.0)
    assert found is not None and found.version == 2


def test_the_pull_of_who_writes_takes_no_longer_than_the_rest_of_its_time(site: Site) -> None:
    waits: list[float] = []

    class Channel:
        def call(self, path: str, message: Any, kind: Any, *, timeout: float) -> Any:
            waits.append(timeout)
            return site.primary.call(path, message, kind, timeout=timeout)

    replica.catch_up(Channel(), "NPR", site.secret().id, 2, 1.0)
    assert len(waits) == 1 and 0 < waits[0] <= 1.0
    assert replica.pulling.acquire(timeout=0), "the lock was given back"
    replica.pulling.release()
