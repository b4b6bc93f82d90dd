"""Who read this secret: one answer with what gateways saw, or with which of them may have more to tell (N4)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import F

from gateways.models import GatewayAuditRecord, GatewayStatus
from gateways.secret_audit import NodeFacts, missing_of
from protocol import messages
from protocol.audit import GENESIS, link_hash
from tests import factories
from tests.conftest import Person
from tests.fakes.gateway import FakeGateway
from tests.gateways.test_audit_chains import told, upload

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
Pair = tuple[FakeGateway, FakeGateway]
HEARD = NodeFacts("gw", NOW, silent=False, stopped=False, told=3, held=3, held_until=NOW - timedelta(minutes=1))


@pytest.mark.parametrize(
    ("other", "since", "because"),
    [({}, None, ""), ({"told": 5}, HEARD.held_until, "2 entries"), ({"told": 5, "held": 0, "held_until": None}, NOW, "5 entries"),
     ({"silent": True}, NOW, "nothing was heard"), ({"silent": True, "stopped": True}, None, ""),
     ({"told": 4, "silent": True, "stopped": True}, HEARD.held_until, "1 entries"), ({"heard_at": None}, None, "never heard")],
)  # fmt: skip
def test_a_node_that_may_have_more_is_named_with_the_moment(other: dict[str, Any], since: Any, because: str) -> None:
    found = missing_of(NodeFacts(**{**vars(HEARD), **other}))
    assert found[0] == since and because in found[1]


def records(gateway: FakeGateway, secret: str, count: int) -> list[messages.AuditRecord]:
    previous, made = GENESIS, []
    for position in range(1, count + 1):
        text = told(position, entity_id=secret, details='{"entity":"secret","entity_id":"another"}')
        previous = link_hash(str(gateway.generation), position, previous, text)
        made.append(messages.AuditRecord(position=position, text=text, hash=previous))
    return made


def test_reads_at_a_gateway_are_in_the_answer_and_what_is_missing_is_told(
    npr: Pair, admin: Person, person: Callable[..., Person]
) -> None:
    wish = {"project_id": str(factories.project().id), "key": "db", "value": "x"}
    secret = admin.post("secrets", wish)[1]
    assert admin.get(f"secrets/{secret['id']}")[0] == 200
    first = npr[0]
    upload(first, records(first, secret["id"], 2))
    for gateway, position in zip(npr, (2, 0), strict=True):
        gateway.heartbeat(audit_position=position)
    status, body = admin.get(f"secrets/{secret['id']}/audit")
    assert status == 200 and body["complete"] is True
    seen = [(row["node"], row["action"]) for row in body["entries"]]
    assert seen.count(("gw-npr-primary", "secret.read")) == 2 and ("primary", "secret.read") in seen
    assert next(row["name"] for row in body["entries"] if row["node"] == "primary") == "admin@example.com"
    assert [row["at"] for row in body["entries"]] == sorted((row["at"] for row in body["entries"]), reverse=True)

    first.heartbeat(audit_position=5)
    body = admin.get(f"secrets/{secret['id']}/audit?limit=1&offset=1")[1]
    lacking = next(row for row in body["nodes"] if row["node"] == "gw-npr-primary")
    assert body["complete"] is False and len(body["entries"]) == 1
    assert lacking["missing_since"].startswith("2026-11-25T12:00:00") and "3 entries" in lacking["because"]

    GatewayStatus.objects.update(heartbeat_at=F("heartbeat_at") - timedelta(minutes=9))
    body = admin.get(f"secrets/{secret['id']}/audit")[1]
    assert all(row["missing_since"] for row in body["nodes"])
    assert person("user").get(f"secrets/{secret['id']}/audit")[0] in (403, 404)
    assert admin.get(f"secrets/{first.id}/audit")[0] == 404


SHAPES = [
    '"entity":"secret","entity_id":"SECRET"', '{"entity":"secret","entity_id":"SECRET"}',
    told(1, entity_id="SECRET", details="[NaN]"), told(1, entity_id="SECRET", at="never"),
    told(1, entity_id="SECRET", details="{"),
    told(1, entity_id="SECRET", at="0001-01-01T00:00:00+23:59"),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=range(len(SHAPES)))
def test_what_a_gateway_wrote_in_no_form_ends_nobodys_reading(npr: Pair, admin: Person, shape: str) -> None:
    secret = admin.post("secrets", {"project_id": str(factories.project().id), "key": "db", "value": "x"})[1]
    gateway, text = npr[0], shape.replace("SECRET", secret["id"])
    hashed = link_hash(str(gateway.generation), 1, GENESIS, text)
    upload(gateway, [messages.AuditRecord(position=1, text=text, hash=hashed)])
    gateway.heartbeat(audit_position=1)
    status, body = admin.get(f"secrets/{secret['id']}/audit")
    assert status == 200
    shown = [row for row in body["entries"] if row["node"] == "gw-npr-primary"]
    assert [row["action"] for row in shown] == ["audit.entry.unreadable"]


def test_they_are_found_by_an_index(npr: Pair) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        from gateways.models import ABOUT_SECRET

        plan = GatewayAuditRecord.objects.annotate(about=ABOUT_SECRET).filter(about="x").order_by("-id")[:5].explain()
    assert "gateway_audit_of_a_secret" in plan
