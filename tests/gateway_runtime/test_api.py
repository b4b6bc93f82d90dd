"""What a gateway tells people and probes near it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import RequestFactory

from common.clock import boottime, now
from common.health import Prober
from gateway_runtime import api, current
from gateway_runtime.write_queue import MOST_WRITES
from tests.gateway_runtime.conftest import Site
from tests.gateway_runtime.test_node import directive


def health() -> dict[str, object]:
    answer = api.health(RequestFactory().get("/api/v1/health"))
    assert answer.status_code == 200
    return dict(json.loads(answer.content))


def test_health_says_to_anybody_whether_it_serves_and_not_who_it_is(site: Site) -> None:
    told = health()
    assert set(told) == {
        "status", "mode", "version", "database", "cache", "registered", "serving", "epoch", "may_act", "because", "answers_reads",
        "takes_changes", "primary",
    }  # fmt: skip
    assert (told["registered"], told["serving"], told["epoch"]) == (True, False, 1)
    known = site.supervisor.known_identity()
    assert not {known.gateway_id, known.name, known.environment} & {str(value) for value in told.values()}


def test_health_says_that_it_serves_while_it_holds_the_lease(site: Site) -> None:
    node = site.supervisor.node
    node.obey(directive(epoch=3))
    assert node.take_lease(epoch=3, ttl=60, sent_boot=boottime(), sent_wall=time.time())
    assert (health()["serving"], health()["epoch"]) == (True, 3)


def test_health_of_a_gateway_that_is_nobody_yet(as_gateway: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(current, "supervisor", None)
    told = health()
    assert (told["status"], told["registered"], told["serving"], told["epoch"]) == ("ok", False, False, 0)


@pytest.mark.parametrize(("stored", "usable", "room"), [
    (lambda: (now(), 0, 0), True, True), (lambda: (None, 0, 0), False, True),
    (lambda: (now() - timedelta(hours=9), 0, 0), False, True), (lambda: (now(), MOST_WRITES, 0), True, False),
])  # fmt: skip
def test_a_gateway_that_is_cut_off_says_that_it_may_not_act_and_whether_it_still_answers_and_takes_changes(
    site: Site, monkeypatch: pytest.MonkeyPatch, stored: Callable[[], Any], usable: bool, room: bool
) -> None:
    monkeypatch.setattr(api, "_stored", stored)
    monkeypatch.setattr(api, "usable_copy", Prober("copy", api._copy_is_usable))
    monkeypatch.setattr(api, "room_in_queue", Prober("queue", api._queue_has_room))
    node = site.supervisor.node
    node.obey(directive(epoch=3))
    for _ in range(5):
        node.breaker.failed(time.monotonic() - 60)
    told = health()
    assert (told["serving"], told["may_act"], told["primary"]) == (False, False, "unreachable")
    assert (told["answers_reads"], told["takes_changes"]) == (usable, usable and room), told
    assert "the Primary does not answer" in str(told["because"])
