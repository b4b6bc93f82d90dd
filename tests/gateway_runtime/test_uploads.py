"""Carrying the queue to the Primary: order, size of batches, poison, crashes, old generations (DESIGN §9, I7 to I10)."""

from __future__ import annotations

import threading
import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from common import retention
from common.clock import now
from gateway_runtime import replica, state, uploads, write_queue
from gateway_runtime.client import PrimaryRefused
from gateway_runtime.models import NodeState, PendingWrite
from protocol.messages import DrainOrder, FenceOrder
from protocol.vocabulary import Assignment, WriteOutcome
from protocol.writes import WriteForged, WriteReceipt, check
from tests.gateway_runtime.conftest import Site
from tests.gateway_runtime.test_node import directive
from vault.encryption import SealBroken
from vault.models import Secret


def queue(site: Site, secret: Secret, value: str = "two", *, promised: bool = True) -> PendingWrite:
    write = write_queue.accept(site.change(secret, value), "user:ann", site.supervisor.known_identity(), now=now()).write
    return write_queue.promise(write, now()) if promised else write


def outcomes() -> list[str]:
    return list(PendingWrite.objects.order_by("life", "sequence").values_list("outcome", flat=True))


def test_batches_go_in_order_and_have_at_most_a_hundred_writes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "BATCH_WRITES", 3)
    secrets = [site.secret(f"k{number}") for number in range(7)]
    for secret in secrets:
        queue(site, secret)
    while site.upload() == 0:
        if not write_queue.depth().writes:
            break
    assert [len(batch.writes) for batch in site.primary.batches] == [3, 3, 1]
    assert [secret for secret, _, _ in site.primary.applied] == [str(secret.id) for secret in secrets]


def test_a_batch_is_about_a_mebibyte_and_a_large_write_goes_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "BATCH_BYTES", 3000)
    for number, size in enumerate((10, 5000, 10, 10)):
        queue(site, site.secret(f"k{number}"), "x" * size)
    while write_queue.depth().writes:
        site.upload()
    assert [len(batch.writes) for batch in site.primary.batches] == [1, 1, 2]


def test_a_poison_message_stops_no_other_write(site: Site) -> None:
    poison, good = site.secret("poison"), [site.secret(f"k{number}") for number in range(3)]
    site.primary.poison = str(poison.id)
    for secret in (good[0], poison, *good[1:]):
        queue(site, secret)
    for _ in range(8):
        site.upload()
    assert outcomes() == ["applied", "queued", "applied", "applied"]
    waiting = PendingWrite.objects.get(secret=poison.id)
    assert waiting.not_before > now() and waiting.attempts == 1
    site.primary.poison = ""
    PendingWrite.objects.filter(id=waiting.id).update(not_before=now())
    site.upload()
    assert outcomes() == ["applied"] * 4


def test_a_write_whose_content_was_changed_in_the_database_is_put_aside(site: Site) -> None:
    broken, good = queue(site, site.secret("a")), queue(site, site.secret("b"))
    PendingWrite.objects.filter(id=broken.id).update(sealed_body=good.sealed_body)
    site.upload()
    assert outcomes() == ["queued", "applied"]
    with pytest.raises(SealBroken):
        write_queue.on_the_wire(PendingWrite.objects.get(id=broken.id), promised=True)


def test_a_refusal_of_the_gateway_itself_keeps_everything(site: Site) -> None:
    queue(site, site.secret())
    site.primary.refuse_message = (403, "GATEWAY_BANNED")
    with pytest.raises(PrimaryRefused):
        site.upload()
    assert outcomes() == ["queued"]


def test_a_request_that_still_waits_keeps_its_write_to_itself(site: Site) -> None:
    write = queue(site, site.secret(), promised=False)
    site.upload()
    assert not site.primary.batches
    PendingWrite.objects.filter(id=write.id).update(not_before=now())  # its request died
    site.upload()
    assert outcomes() == ["applied"] and site.primary.batches[0].writes[0].promised


def test_a_write_without_a_receipt_waits_longer_each_time_and_lets_the_others_pass(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that the Primary keeps as evidence under another id."""
    monkeypatch.setattr(uploads, "BATCH_WRITES", 1)
    silent, good = site.secret("silent"), site.secret("good")
    site.primary.silent = str(silent.id)
    for secret in (silent, good):
        queue(site, secret)
    site.upload()
    site.upload()
    assert outcomes() == ["queued", "applied"] and len(site.primary.batches) == 2
    pauses = []
    for _ in range(3):
        PendingWrite.objects.update(not_before=now())
        site.upload()
        pauses.append((PendingWrite.objects.get(secret=silent.id).not_before - now()).total_seconds())
    assert 5 < pauses[0] < pauses[1] < pauses[2]


def test_a_question_without_an_answer_is_not_asked_again_at_once(site: Site) -> None:
    secret = site.secret()
    site.primary.hold = True
    queue(site, secret)
    site.upload()
    site.primary.silent = str(secret.id)
    PendingWrite.objects.update(not_before=now())
    site.upload()
    row = PendingWrite.objects.get()
    assert row.outcome == "received" and row.not_before > now()


def test_a_write_is_a_promise_in_the_database_before_it_is_sent_as_one(site: Site) -> None:
    write = queue(site, site.secret(), promised=False)
    PendingWrite.objects.filter(id=write.id).update(not_before=now())
    site.primary.lose_answers = 1
    with pytest.raises(Exception, match="lost"):
        site.upload()
    assert site.primary.batches[0].writes[0].promised and PendingWrite.objects.get().promised
    write_queue.settle([WriteReceipt(str(write.id), WriteOutcome.REFUSED, 0, "VERSION_CONFLICT", "late")], now())
    assert outcomes() == ["queued"], "the answer to the first request comes too late to refuse it"


def test_a_write_that_ended_while_it_was_packed_is_not_sent(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    write = queue(site, site.secret(), promised=False)
    PendingWrite.objects.filter(id=write.id).update(not_before=now())
    promise_all = write_queue.promise_all

    def refused_first(ids: Any) -> Any:
        write_queue.settle([WriteReceipt(str(write.id), WriteOutcome.REFUSED)], now())
        return promise_all(ids)

    monkeypatch.setattr(write_queue, "promise_all", refused_first)
    site.upload()
    assert outcomes() == ["refused"] and not site.primary.batches


def test_a_pause_that_a_clock_made_too_long_is_over(site: Site) -> None:
    """The clock was a year ahead when the write was put off."""
    queue(site, site.secret())
    PendingWrite.objects.update(not_before=now() + timedelta(minutes=4))
    site.upload()
    assert outcomes() == ["queued"]
    PendingWrite.objects.update(not_before=now() + timedelta(days=365))
    site.upload()
    assert outcomes() == ["applied"]


def test_a_restart_goes_on_with_what_was_open(site: Site) -> None:
    secret = site.secret()
    site.primary.lose_answers = 1
    queue(site, secret, "a")
    with pytest.raises(Exception, match="lost"):
        site.upload()
    site.restart()
    queue(site, secret, "b")
    PendingWrite.objects.update(not_before=now())
    site.upload()
    assert [value for _, _, value in site.primary.applied] == ["a", "b"] and outcomes() == ["applied", "applied"]


def test_a_restart_without_the_primary_serves_and_queues_as_before(site: Site) -> None:
    secret, ann = site.secret(), site.person()
    site.primary.down = True
    site.restart()
    assert site.supervisor.node.directive is None
    assert ann.get(f"secrets/{secret.id}")[0] == 200 and ann.put(f"secrets/{secret.id}", {"value": "two"})[0] == 202


def test_open_writes_of_an_old_generation_are_sent_as_they_were_signed(site: Site) -> None:
    secret = site.secret()
    old = queue(site, secret)
    state.begin_new_life(generation := uuid.uuid4())
    NodeState.objects.update(highest_epoch=1, assigned_role="active", assigned_epoch=1)
    site.supervisor.identity = replace(site.supervisor.known_identity(), generation=generation)
    new = queue(site, secret, "three")
    assert (new.sequence, new.previous, new.generation) == (1, None, generation)
    site.upload()
    sent = [check(write, site.primary.key)[0] for write in site.primary.batches[0].writes]
    assert [(head.generation, head.sequence) for head in sent] == [(str(old.generation), 1), (str(generation), 1)]


def test_a_promised_write_takes_no_refusal(site: Site) -> None:
    write = queue(site, site.secret())
    write_queue.settle([WriteReceipt(str(write.id), WriteOutcome.REFUSED, 0, "VERSION_CONFLICT", "no")], now())
    assert outcomes() == ["queued"]


def test_the_first_end_of_a_write_stays(site: Site) -> None:
    write = queue(site, site.secret())
    for outcome, version in ((WriteOutcome.APPLIED, 2), (WriteOutcome.CONFLICT, 0), (WriteOutcome.RECEIVED, 0)):
        write_queue.settle([WriteReceipt(str(write.id), outcome, version)], now())
    row = PendingWrite.objects.get()
    assert (row.outcome, row.version, row.sealed_body) == ("applied", 2, None)


def test_a_write_the_primary_forgot_is_sent_again(site: Site) -> None:
    write = queue(site, site.secret())
    site.primary.hold = True
    site.upload()
    site.primary.received.clear()  # its database was restored
    site.primary.hold = False
    PendingWrite.objects.update(not_before=now())
    site.upload()
    site.upload()
    assert site.primary.outcome(write.id) is WriteOutcome.APPLIED and outcomes() == ["applied"]


def test_ended_writes_are_forgotten_after_a_week_and_open_ones_never(site: Site) -> None:
    ended, waiting = queue(site, site.secret("a")), queue(site, site.secret("b"))
    write_queue.settle([WriteReceipt(str(ended.id), WriteOutcome.APPLIED, 2)], now())
    long_ago = now() - timedelta(days=8)
    PendingWrite.objects.filter(id=ended.id).update(settled_at=long_ago)
    PendingWrite.objects.update(accepted_at=long_ago)
    retention.apply("gateway")
    assert list(PendingWrite.objects.values_list("id", flat=True)) == [waiting.id]


def test_the_head_is_signed_and_says_nothing_of_the_value(site: Site) -> None:
    write = queue(site, site.secret(), "canary-0b2")
    wire = write_queue.on_the_wire(write, promised=True)
    head, body = check(wire, site.primary.key)
    assert body.value == "canary-0b2" and "canary-0b2" not in wire.head
    assert (head.epoch, head.sequence, head.actor) == (1, 1, "user:ann")
    with pytest.raises(WriteForged):
        check(type(wire)(wire.head, wire.body.replace("0b2", "0b3"), wire.salt, wire.signature, True), site.primary.key)


def test_fence_drain_and_heartbeat_tell_the_truth_about_the_queue(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    queue(site, site.secret(), "x" * 100)
    said: list[Any] = []
    answer = site.primary.call

    def listen(path: str, message: Any, kind: Any, *, timeout: float) -> Any:
        said.append(message)
        return answer(path, message, kind, timeout=timeout)

    monkeypatch.setattr(site.primary, "call", listen)
    monkeypatch.setattr(type(site.supervisor), "certificate_expires_at", lambda self: now())
    monkeypatch.setattr(site.primary, "latency_p95_ms", lambda: None, raising=False)
    beat = site.supervisor._report()
    assert (beat.write_queue_depth, beat.write_queue_last_sequence) == (1, 1) and beat.write_queue_bytes > 100
    assert beat.replica_complete and beat.replica_age_seconds < 60
    NodeState.objects.update(replica_complete_at=None)
    beat = site.supervisor._report()
    assert not beat.replica_complete and beat.replica_age_seconds == replica.LONGEST_AGE, "never complete is not brand new"
    drain = DrainOrder(operation=str(uuid.uuid4()), epoch=1)
    assert not site.supervisor._report_drain(directive(drain=drain)), "a drain ends with an empty queue"
    assert said[-1].write_queue_depth == 1
    order = FenceOrder(operation=str(uuid.uuid4()), epoch=1, number=1)
    assert site.supervisor._follow_fence(order)
    assert said[-1].write_queue_last_sequence == 1


def test_no_write_can_be_accepted_after_a_fence_was_committed(site: Site) -> None:
    secret, ann = site.secret(), site.person()
    site.supervisor.node.fence(FenceOrder(operation=str(uuid.uuid4()), epoch=1, number=1), 0)
    assert ann.put(f"secrets/{secret.id}", {"value": "x"})[1]["code"] == "NOT_ACTIVE"
    assert NodeState.objects.get().write_sequence == 0


def test_a_fenced_gateway_still_carries_its_queue_with_the_old_epoch(site: Site) -> None:
    queue(site, site.secret())
    site.become(Assignment.STANDBY, epoch=2)
    site.upload()
    assert check(site.primary.batches[0].writes[0], site.primary.key)[0].epoch == 1


@pytest.mark.django_db(transaction=True)
def test_many_at_once_get_numbers_without_gaps_and_one_chain_for_each_secret(site: Site) -> None:
    secrets = [site.secret(f"k{number}") for number in range(3)]
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        barrier.wait(10)
        for turn in range(6):
            queue(site, secrets[(number + turn) % 3], f"{number}-{turn}")
        connection.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    rows = list(PendingWrite.objects.order_by("sequence"))
    assert [row.sequence for row in rows] == list(range(1, 49))
    for secret in secrets:
        chain = [row for row in rows if row.secret == secret.id]
        assert [row.previous for row in chain] == [None, *(row.id for row in chain[:-1])]


@pytest.mark.django_db(transaction=True)
def test_twins_of_one_request_are_one_write(site: Site) -> None:
    secret = site.secret()
    found: list[uuid.UUID] = []

    def write() -> None:
        accepted = write_queue.accept(
            site.change(secret), "user:ann", site.supervisor.known_identity(), now=now(), idempotency_key="k"
        )  # fmt: skip
        found.append(accepted.write.id)
        connection.close()

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 6 and len(set(found)) == 1 and PendingWrite.objects.count() == 1


def test_what_waits_is_counted_as_it_comes_and_ends_and_never_by_looking_at_the_queue(site: Site) -> None:
    writes = [queue(site, site.secret(f"k/{number}"), "x" * number) for number in range(4)]
    sizes = {write.id: write.size for write in writes}
    depth = write_queue.depth()
    assert (depth.writes, depth.size, depth.oldest_at) == (4, sum(sizes.values()), writes[0].accepted_at)
    for _ in range(2):  # the second time it has ended already
        write_queue.settle([WriteReceipt(str(writes[0].id), WriteOutcome.APPLIED, 2)], now())
    write_queue.settle([WriteReceipt(str(writes[1].id), WriteOutcome.RECEIVED, 0)], now())
    depth = write_queue.depth()
    assert (depth.writes, depth.size, depth.oldest_at) == (3, sum(sizes.values()) - sizes[writes[0].id], writes[1].accepted_at)
    with CaptureQueriesContext(connection) as seen:
        write_queue.depth()
    assert len(seen) == 2 and not any("count(" in one["sql"].lower() or "sum(" in one["sql"].lower() for one in seen)
