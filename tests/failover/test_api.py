"""Moving an environment over the API, with gateways that speak the real protocol."""

from __future__ import annotations

from failover import driver
from tests.conftest import Person
from tests.fakes.gateway import FakeGateway

Pair = tuple[FakeGateway, FakeGateway]


def test_a_planned_move_and_back(npr: Pair, admin: Person) -> None:
    first, second = npr
    status, body = admin.post("admin/failover/npr/activate-dr")
    assert (status, body["operation"]["kind"]) == (202, "activate-dr")
    driver.drive_all()
    order = first.take_over().fence
    assert order is not None
    first.acknowledge_fence(order.operation, order.epoch)
    driver.drive_all()
    status, body = admin.get("admin/failover/NPR")
    assert (body["state"], body["active_gateway"], body["epoch"], body["operation"]) == ("DR_ACTIVE", "gw-npr-dr", 2, None)
    second.take_over()
    assert second.renew_lease().verdict == "granted"
