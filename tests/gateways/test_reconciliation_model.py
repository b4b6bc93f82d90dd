"""The inbox against a model of 90 lines, on real PostgreSQL: lost answers, repeats, gaps, promotions (T15, I3, I8 to I10)."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from common.clock import database_now
from gateways import inbox, routes
from gateways.models import ReceivedWrite, Route
from protocol.vocabulary import WriteOperation
from protocol.writes import QueuedWrite, WriteBatch
from tests.fakes.gateway import FakeGateway
from tests.gateways.desk import Desk, id_of
from tests.model.writes_model import OPEN, Model, Write
from tests.model.writes_model import Secret as Modelled
from vault import values
from vault.models import Secret, SecretVersion

KEYS = ("a", "b", "c")


class Reconciliation(RuleBasedStateMachine):
    """Two gateways with queues, one Primary, three secrets."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.gateways = {gateway.id: gateway for gateway in (desk.active, desk.standby)}
        self.wire: dict[str, QueuedWrite] = {}
        self.queues: dict[str, list[str]] = {identifier: [] for identifier in self.gateways}
        self.count = 0

    @initialize()
    def begin(self) -> None:
        route = Route.objects.get(pk="NPR")
        self.model = Model(str(route.active_gateway_id), route.epoch)
        self.order = sorted(self.gateways.values(), key=lambda gateway: gateway.id != self.model.active)
        self.rows = {}
        for key in KEYS:
            self.rows[key] = self.desk.secret(f"{key}-{Secret.objects.count()}", "first")
        self.model.secrets = {key: Modelled(1, "first") for key in KEYS}
        self.known = dict.fromkeys(KEYS, 1)

    @rule(key=st.sampled_from(KEYS), number=st.integers(1, 3))
    def enqueue(self, key: str, number: int) -> None:
        """The active gateway accepts writes one after the other, so that chains are long enough to be torn apart."""
        for _ in range(number):
            self._accept(key)

    def _accept(self, key: str) -> None:
        """A write on the version the gateway knows, or on its own open write before."""
        gateway = self.gateways[self.model.active]
        gateway.epoch = self.model.epoch
        self.count += 1
        value = f"value {self.count}"
        before = [one for one in self.queues[gateway.id] if self.model.writes[one].secret == key]
        previous = before[-1] if before else ""
        base = None if previous else self.known[key]
        write = gateway.write(self.rows[key], value, actor=self.desk.actor, previous=previous, base_version=base)
        self.wire[id_of(write)] = write
        self.model.accept(Write(id_of(write), gateway.id, gateway.write_sequence, gateway.epoch, key, value, base, previous))
        self.queues[gateway.id].append(id_of(write))

    @rule(data=st.data(), answer_is_lost=st.booleans())
    def upload(self, data: st.DataObject, answer_is_lost: bool) -> None:
        """Any part of a queue, in order; a later part may come first."""
        gateway = self.order[data.draw(st.integers(0, 1))]
        queue = self.queues[gateway.id]
        first = data.draw(st.integers(0, len(queue)))
        last = data.draw(st.integers(first, len(queue)))
        self._send(gateway, queue[first:last])
        if not answer_is_lost:
            self.queues[gateway.id] = [
                one for one in queue if one not in queue[first:last] or self.model.writes[one].outcome in OPEN
            ]

    @precondition(lambda self: self.wire)
    @rule(data=st.data())
    def resend(self, data: st.DataObject) -> None:
        """Old messages come again, whatever became of them."""
        known = list(self.wire)
        some = [known[index] for index in data.draw(st.lists(st.integers(0, len(known) - 1), max_size=4))]
        for gateway in self.gateways.values():
            self._send(gateway, [one for one in some if self.model.writes[one].gateway == gateway.id])

    @rule()
    def apply_pass(self) -> None:
        ReceivedWrite.objects.filter(outcome="received").update(not_before=database_now())
        inbox.apply_pending()
        self.model.settle_all()

    @rule(key=st.sampled_from(KEYS))
    def primary_write(self, key: str) -> None:
        if self.model.secrets[key].living:
            self.count += 1
            self._change(key, WriteOperation.UPDATE, f"primary {self.count}")

    @rule(key=st.sampled_from(KEYS))
    def delete(self, key: str) -> None:
        if self.model.secrets[key].living:
            self._change(key, WriteOperation.DELETE, None)

    @rule(key=st.sampled_from(KEYS))
    def restore(self, key: str) -> None:
        if not self.model.secrets[key].living:
            self._change(key, WriteOperation.RESTORE, None)

    @rule()
    def promote(self) -> None:
        other = next(one for one in self.gateways if one != self.model.active)
        with transaction.atomic():
            routes.promote(routes.lock_route("NPR"), self.gateways[other].row, None)
        self.model.promote(other)

    @rule()
    def copy(self) -> None:
        """The gateways read what the Primary has."""
        self.known = {key: secret.version for key, secret in self.model.secrets.items()}

    @invariant()
    def the_database_is_what_the_model_says(self) -> None:
        if not hasattr(self, "known"):
            return
        found = dict(ReceivedWrite.objects.filter(id__in=self.wire).values_list("id", "outcome"))
        expected = {one.id: one.outcome for one in self.model.writes.values() if one.outcome != "unsent"}
        assert {str(identifier): outcome for identifier, outcome in found.items()} == expected
        for key, modelled in self.model.secrets.items():
            row = Secret.objects.select_related("environment").get(id=self.rows[key].id)
            assert (row.version, values.open_value(row, values.holding(row))) == (modelled.version, modelled.value), key
            assert (row.status == "active") == modelled.living

    def teardown(self) -> None:
        """In the end everything has arrived and nothing is lost, applied twice or out of order."""
        if not hasattr(self, "known"):
            return
        for gateway in self.gateways.values():
            self._send(gateway, [one for one, write in self.model.writes.items() if write.gateway == gateway.id])
        self.apply_pass()
        self.the_database_is_what_the_model_says()
        assert not [one for one in self.model.writes.values() if one.outcome in OPEN]
        for key in KEYS:
            made = SecretVersion.objects.filter(secret=self.rows[key], write__isnull=False).order_by("version")
            order = [self.model.writes[str(version.write)] for version in made]
            assert len({write.id for write in order}) == len(order)
            assert order == sorted(order, key=lambda write: (write.epoch, write.sequence))

    def _send(self, gateway: FakeGateway, identifiers: list[str]) -> None:
        if identifiers:
            inbox.take_batch(gateway.row, WriteBatch(writes=[self.wire[one] for one in identifiers]), database_now())
        for identifier in identifiers:
            self.model.take(identifier)

    def _change(self, key: str, operation: WriteOperation, value: str | None) -> None:
        self.desk.change(operation, self.rows[key].id, value=value)
        self.model.change(key, value, living=operation is not WriteOperation.DELETE)


@pytest.mark.parametrize(
    "examples", [20, pytest.param(200, marks=[pytest.mark.long, pytest.mark.timeout(3600)])], ids=["1000 steps", "10000 steps"]
)
def test_the_inbox_does_what_the_model_says(npr: Any, examples: int) -> None:
    desk = Desk(*npr)
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    chosen = settings(
        max_examples=examples, stateful_step_count=50, deadline=None, suppress_health_check=checks, database=None,
        phases=[Phase.generate] if examples < 100 else [Phase.generate, Phase.shrink],  # a found fault is told at once
    )  # fmt: skip
    run_state_machine_as_test(lambda: Reconciliation(desk), settings=chosen)
