"""The queue against a model, in any order of accepting, sending, losing, settling and restarting (reliability T15, I7 to I10).

Proven here: nothing accepted is ever lost, sequence numbers have no gap, the writes of a secret are applied once and in the order
they were accepted in, and a promise is never taken back.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from accounts.models import Organization
from common.clock import now
from gateway_runtime import replica, write_queue
from gateway_runtime.client import PrimaryUnreachable
from gateway_runtime.models import NodeState, PendingWrite
from protocol.vocabulary import WriteOutcome
from tests.fakes.primary import FakePrimary
from tests.gateway_runtime.conftest import Site
from vault.models import Secret, SecretVersion

EXAMPLES, STEPS = 20, 50
"""The 1,000 steps of the normal run; the long one has 10,000."""
SECRETS = 3
SITE: list[Site] = []


class QueueMachine(RuleBasedStateMachine):
    """The model: what was told to callers, secret by secret, in the order they were told."""

    @initialize()
    def begin(self) -> None:
        self.site = SITE[0]
        for model in (PendingWrite, SecretVersion, Secret):
            model.objects.all().delete()
        NodeState.objects.update(write_sequence=0, replica_position=0, replica_generation="")
        self.site.primary = FakePrimary(self.site.supervisor.known_identity().keys.signing.public_key(), tells=True)
        self.site.restart()
        self.secrets = [self.site.secret(f"k{number}") for number in range(SECRETS)]
        self.person = self.site.person(name=f"p{uuid.uuid4().hex}")
        self.told: dict[str, list[str]] = defaultdict(list)
        """By secret: values promised or said to be applied."""
        self.promised: set[str] = set()
        self.number = 0

    @rule(which=st.integers(0, SECRETS - 1))
    def write(self, which: int) -> None:
        """A person writes; the answer must be a promise or the truth."""
        self.number += 1
        secret, value = self.secrets[which], f"v{self.number}"
        status, body = self.person.put(f"secrets/{secret.id}", {"value": value})
        assert status in (200, 202), body
        self.told[str(secret.id)].append(value)
        if status == 202:
            self.promised.add(body["id"])
        else:
            assert self.site.primary.applied[-1][2] == value

    @rule(which=st.integers(0, SECRETS - 1))
    def die_between_commit_and_answer(self, which: int) -> None:
        """The process ends after the local commit: the caller knows nothing, and the write is there."""
        self.number += 1
        secret, value = self.secrets[which], f"v{self.number}"
        change = self.site.change(secret, value)
        write_queue.accept(change, self.person.actor, self.site.supervisor.known_identity(), now=now())
        self.told[str(secret.id)].append(value)
        self.site.restart()

    @rule()
    def upload(self) -> None:
        self._time_passes()
        with suppress(PrimaryUnreachable):
            self.site.upload()

    @rule()
    def copy(self) -> None:
        """One page of what the Primary tells, by the loop that keeps the copy."""
        with suppress(PrimaryUnreachable):
            replica.pull(self.site.primary, "NPR")

    @rule()
    def restart(self) -> None:
        self.site.restart()

    @rule(down=st.booleans())
    def cut(self, down: bool) -> None:
        self.site.primary.down = down

    @rule(count=st.integers(1, 3))
    def lose_answers(self, count: int) -> None:
        self.site.primary.lose_answers = count

    @rule(hold=st.booleans())
    def hold(self, hold: bool) -> None:
        self.site.primary.hold = hold

    @rule()
    def settle_held(self) -> None:
        self.site.primary.settle_held()

    @rule(which=st.integers(0, 1000))
    def forget_unsettled(self, which: int) -> None:
        """The Primary's database is restored to a moment before it took a write that it had not settled.

        What is drawn does not depend on the state, which depends on time here and there: hypothesis wants the same choices twice.
        """
        waiting = sorted(key for key, one in self.site.primary.received.items() if one[2].outcome is WriteOutcome.RECEIVED)
        if waiting:
            self.site.primary.received.pop(waiting[which % len(waiting)])

    @invariant()
    def numbers_have_no_gap(self) -> None:
        if hasattr(self, "site"):
            numbers = list(PendingWrite.objects.order_by("sequence").values_list("sequence", flat=True))
            assert numbers == list(range(1, NodeState.objects.get().write_sequence + 1))

    @invariant()
    def no_promise_is_taken_back(self) -> None:
        if hasattr(self, "site"):
            rows = PendingWrite.objects.in_bulk(self.promised)
            assert len(rows) == len(self.promised)
            assert all(row.promised and row.outcome != WriteOutcome.REFUSED for row in rows.values())

    @invariant()
    def content_is_there_exactly_while_it_is_needed(self) -> None:
        if hasattr(self, "site"):
            for row in PendingWrite.objects.all():
                assert row.open == (row.sealed_body is not None)

    def teardown(self) -> None:
        """The Primary is back for good: everything ends, applied once, in order."""
        if not hasattr(self, "site"):
            return
        primary = self.site.primary
        primary.down, primary.hold, primary.lose_answers = False, False, 0
        for _ in range(self.number + 3):
            if not write_queue.depth().writes:
                break
            primary.settle_held()
            self._time_passes()
            self.site.upload()
        assert write_queue.depth().writes == 0
        applied: dict[str, list[str]] = defaultdict(list)
        for secret, _, value in primary.applied:
            applied[secret].append(value)
        assert applied == {secret: values for secret, values in self.told.items() if values}

    def _time_passes(self) -> None:
        PendingWrite.objects.filter(not_before__gt=now()).update(not_before=now())


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        QueueMachine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, database=None, print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate] if examples == EXAMPLES else [Phase.generate, Phase.shrink],  # a found fault is told at once
        ),
    )  # fmt: skip


@pytest.fixture
def machine_site(site: Site) -> Any:
    SITE[:] = [site]
    yield site
    SITE.clear()


def test_the_queue_keeps_its_promises_in_any_order_of_events(machine_site: Site) -> None:
    assert Organization.objects.exists()
    run(EXAMPLES, STEPS)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_queue_keeps_its_promises_for_ten_thousand_steps(machine_site: Site) -> None:
    run(EXAMPLES * 4, STEPS * 5 // 2)
