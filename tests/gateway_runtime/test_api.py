"""What a gateway tells people and probes near it."""

from __future__ import annotations

import json
import time

import pytest
from django.test import RequestFactory

from common.clock import boottime
from gateway_runtime import api, current
from tests.gateway_runtime.conftest import Site
from tests.gateway_runtime.test_node import directive


def health() -> dict[str, object]:
    answer = api.health(RequestFactory().get("/api/v1/health"))
    assert answer.status_code == 200
    return dict(json.loads(answer.content))


def test_health_says_to_anybody_whether_it_serves_and_not_who_it_is(site: Site) -> None:
    told = health()
    assert set(told) == {"status", "mode", "version", "database", "cache", "registered", "serving", "epoch"}
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
