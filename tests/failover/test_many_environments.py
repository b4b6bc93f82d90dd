"""Thousands of environments at rest cost the driver and the start of a Primary no more than a few."""

from __future__ import annotations

import uuid

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from common import feed
from failover import driver
from failover.machine import State
from failover.models import EnvironmentState
from failover.transitions import ensure_states
from gateways import copy_digests, routes
from gateways.models import CopiedThing, CopyDigest, GatewayEnvironment, Route
from protocol.replica import ReplicaKind
from vault import succession

pytestmark = pytest.mark.django_db


def environments(count: int) -> list[str]:
    codes = [f"E{number:04}" for number in range(count)]
    routes.ensure_environments(tuple(codes))
    ensure_states(codes)
    return codes


def statements_of(work) -> int:
    with CaptureQueriesContext(connection) as told:
        work()
    return len(told)


def test_the_driver_asks_once_however_many_environments_rest_or_wait_for_their_first_gateway() -> None:
    codes = environments(300)
    EnvironmentState.objects.filter(environment_id__in=codes[:150]).update(state=State.PRIMARY_ACTIVE.value)
    assert statements_of(driver.drive_all) == 1


def test_the_driver_looks_at_what_moves_and_at_what_is_in_danger_but_not_at_what_a_person_holds() -> None:
    codes = environments(6)
    EnvironmentState.objects.filter(environment_id__in=codes[:4]).update(state=State.DR_ACTIVE.value)
    EnvironmentState.objects.filter(environment_id=codes[1]).update(state=State.FENCING.value)
    Route.objects.filter(environment_id__in=(codes[2], codes[3])).update(danger="two truths")
    EnvironmentState.objects.filter(environment_id=codes[3]).update(state=State.HOLD.value)
    assert driver._environments_to_look_at() == [codes[1], codes[2]]


def test_a_start_finds_its_environments_with_the_same_statements_for_three_and_for_three_hundred() -> None:
    def start(count: int) -> int:
        succession.ensure_authorities(["E0000"])
        return statements_of(lambda: (environments(count), succession.ensure_authorities(["E0000"] * count)))

    assert start(3) == start(300)
    assert GatewayEnvironment.objects.filter(code__startswith="E").count() == 300
    assert Route.objects.filter(environment__code__startswith="E").count() == 300


def test_copies_are_followed_and_looked_at_again_only_where_there_is_something() -> None:
    codes = environments(200)
    assert statements_of(copy_digests.check_all) == 1
    at_rest = statements_of(copy_digests.advance_all)
    thing = uuid.uuid4()
    with transaction.atomic():
        feed.note([codes[7]], ReplicaKind.SECRET.value, thing)
    feed.place_pending()
    assert copy_digests._behind() == [codes[7]] and copy_digests.advance_all() == 1
    assert copy_digests._behind() == [] and statements_of(copy_digests.advance_all) == at_rest <= 4
    CopiedThing.objects.create(environment_id=codes[9], kind=ReplicaKind.SECRET.value, entity_id=thing, fingerprint="0" * 64)
    CopyDigest.objects.create(environment_id=codes[9])
    CopyDigest.objects.create(environment_id=codes[11], digest="1" * 64)
    assert copy_digests._with_something_to_look_at() == [codes[9], codes[11]]
