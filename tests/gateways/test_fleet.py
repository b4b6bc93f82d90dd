"""Whoever is held is so for everybody at once: the route's lock first, and the waiting directive call woken with the commit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from common.clock import now
from gateways import fleet, routes
from gateways.models import Gateway
from protocol import messages, paths
from tests.fakes.gateway import FakeGateway

Pair = tuple[FakeGateway, FakeGateway]


def steal_token(gateway: FakeGateway) -> None:
    assert FakeGateway(gateway.name, role=gateway.role).register(gateway.token).status_code == 409


def contradict_chain(gateway: FakeGateway) -> None:
    wrong = messages.AuditRecord(position=1, text="{}", hash="0" * 64)
    assert gateway.call(paths.AUDIT, messages.AuditUpload(records=[wrong]), messages.AuditTaken).status_code == 409


@pytest.mark.parametrize("harm", [steal_token, contradict_chain])
def test_a_hold_locks_the_route_first_and_wakes_the_gateway(
    npr: Pair, monkeypatch: pytest.MonkeyPatch, harm: Callable[[FakeGateway], None]
) -> None:
    first, _ = npr
    done: list[str] = []
    lock, wake = routes.lock_route, routes.wake
    monkeypatch.setattr(routes, "lock_route", lambda code: (done.append(f"lock {first.row.held_at is None}"), lock(code))[1])
    monkeypatch.setattr(routes, "wake", lambda code: (done.append("wake"), wake(code))[1])
    harm(first)
    assert done == ["lock True", "wake"] and first.row.held_at is not None


def test_who_is_held_already_keeps_the_first_reason(npr: Pair) -> None:
    first, _ = npr
    itself = Gateway.objects.filter(pk=first.id)
    assert fleet.hold("NPR", itself, "first", now()) is True
    assert fleet.hold("NPR", itself, "second", now()) is False
    assert first.row.held_reason == "first"
