"""Nobody outside stops a node: slow and silent connections, floods from one address; workers that are busy, frozen or gone."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.addresses import network_of
from orchestrator.node.front import within
from orchestrator.node.limits import HANDSHAKE_SECONDS, Caps
from tests.orchestrator.node.desk import Desk, desk, read_answer, talk, until

LEASE, DIRECTIVE = "/api/v1/gateways/channel/lease", "/api/v1/gateways/channel/directive"
HOSTILE = 300
QUICK = 5.0
"""Seconds within which a gateway and people are answered while strangers try to stop the node, on a machine that is busy too.
Who waited for the strangers would wait for 10."""
LIMITS = {"HANDSHAKE_SECONDS": 1.5, "HEAD_SECONDS": 1.5, "BODY_SECONDS": 3.0}


@contextlib.contextmanager
def hostile(front: Desk, count: int) -> Iterator[None]:
    """So many connections for as long as the block lasts; each one that is closed is made anew.

    A third says nothing, a third drips the head of a request, a third its body.
    """
    over = threading.Event()

    def hold(number: int) -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                if number % 3 == 0:
                    with socket.create_connection(("127.0.0.1", front.port), 10) as raw:
                        raw.recv(1)
                else:
                    with contextlib.closing(front.connect(seconds=10)) as connection:
                        connection.sendall(b"POST /a HTTP/1.1\r\nHost: localhost\r\n")
                        connection.sendall(b"X-A: " if number % 3 == 1 else b"Content-Length: 900000\r\n\r\n")
                        while not over.wait(0.5):
                            connection.sendall(b"a")
            over.wait(0.1)

    threads = [threading.Thread(target=hold, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()


def test_hostile_connections_stop_neither_a_gateway_nor_people(tmp_path: Path) -> None:
    with desk(tmp_path) as front, contextlib.closing(front.connect(known=True)) as warm:
        talk(warm, LEASE)
        with hostile(front, HOSTILE):
            time.sleep(1)
            slowest = {"warm lease": 0.0, "new gateway": 0.0, "people": 0.0}
            until_moment = time.monotonic() + 5
            while time.monotonic() < until_moment:
                for name, ask in (
                    ("warm lease", lambda: talk(warm, LEASE)),
                    ("new gateway", lambda: front.ask(LEASE, known=True)),
                    ("people", lambda: front.ask("/api/v1/health")),
                ):
                    began = time.monotonic()
                    assert ask().status == 200
                    slowest[name] = max(slowest[name], time.monotonic() - began)
        print(slowest)
        assert max(slowest.values()) < QUICK


def test_who_is_slow_is_told_so_and_let_go(tmp_path: Path) -> None:
    with desk(tmp_path, changes={**LIMITS, "IDLE_SECONDS": 2.0}) as front:
        with socket.create_connection(("127.0.0.1", front.port), 10) as silent:
            began = time.monotonic()
            assert silent.recv(1) == b"" and time.monotonic() - began < 5
        with contextlib.closing(front.connect()) as head:
            head.sendall(b"GET / HTTP/1.1\r\n")
            assert read_answer(head).status == 408
        with contextlib.closing(front.connect()) as body:
            body.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
            assert read_answer(body).status == 408
        with contextlib.closing(front.connect()) as idle:
            assert talk(idle, "/a").status == 200
            assert idle.recv(1) == b""


def test_one_address_holds_only_so_many_unfinished_connections(tmp_path: Path) -> None:
    with desk(tmp_path, unfinished_per_address=5) as front, contextlib.ExitStack() as held:
        warm = held.enter_context(contextlib.closing(front.connect(known=True)))
        for _ in range(5):
            held.enter_context(socket.create_connection(("127.0.0.1", front.port), 10))
        time.sleep(0.3)
        with socket.create_connection(("127.0.0.1", front.port), 10) as one_more:
            began = time.monotonic()
            assert one_more.recv(1) == b"" and time.monotonic() - began < HANDSHAKE_SECONDS / 2, "closed at once, not in the end"
        assert talk(warm, LEASE).status == 200
        with contextlib.closing(front.connect(address="127.0.0.2")) as elsewhere:
            assert talk(elsewhere, "/a").status == 200


def test_addresses_that_fill_all_unfinished_connections_keep_nobody_else_out(tmp_path: Path) -> None:
    with desk(tmp_path, unfinished_per_address=4, caps={"unfinished": 12}) as front, contextlib.ExitStack() as held:
        warm = held.enter_context(contextlib.closing(front.connect(known=True)))
        silent = [
            held.enter_context(socket.create_connection(("127.0.0.1", front.port), 10, source_address=(f"127.0.0.{place}", 0)))
            for place in (2, 3, 4) for _ in range(4)
        ]  # fmt: skip
        time.sleep(0.3)
        began = time.monotonic()
        with contextlib.closing(front.connect(address="127.0.0.9")) as elsewhere:
            assert talk(elsewhere, "/a").status == 200
            assert front.ask(LEASE, known=True).status == talk(warm, LEASE).status == 200
        assert time.monotonic() - began < HANDSHAKE_SECONDS / 2, "nobody waited for the silent ones to be given up"
        assert [_has_ended(one) for one in silent].count(True) == 1 and _has_ended(silent[0]), "one made room, the oldest"


def test_addresses_that_fill_all_bodies_keep_nobody_else_out(tmp_path: Path) -> None:
    changes = {"BODY_BYTES": 90_000, "BODY_BYTES_PER_ADDRESS": 30_000}
    with desk(tmp_path, changes=changes) as front, contextlib.ExitStack() as held:
        for place in (2, 3, 4):
            sender = held.enter_context(contextlib.closing(front.connect(address=f"127.0.0.{place}")))
            sender.sendall(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n" + b"a" * 30_000)
        time.sleep(0.5)
        assert len(front.ask("/a", method="POST", body=b"b" * 20_000).json["body"]) == 20_000


def test_addresses_that_fill_all_connections_keep_nobody_else_out(tmp_path: Path) -> None:
    with desk(tmp_path, caps={"connections": 6}) as front, contextlib.ExitStack() as held, ThreadPoolExecutor(6) as threads:
        busy = [held.enter_context(contextlib.closing(front.connect(address=f"127.0.0.{place}"))) for place in (2, 3, 4) * 2]
        slow = [threads.submit(talk, one, "/slow?4") for one in busy]
        time.sleep(0.5)
        assert front.ask("/a").status == 200
        assert [one.exception() is None for one in slow].count(True) == 5


def test_who_reads_slowly_gets_the_whole_answer_and_who_stops_loses_the_connection(tmp_path: Path) -> None:
    with desk(tmp_path, changes={"SEND_SECONDS": 1.0}) as front:
        with contextlib.closing(front.connect()) as slow:
            assert _read_at(slow, 1_200_000, b"GET /stream?6000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") > 6_000_000
        with contextlib.closing(front.connect()) as stopped:
            stopped.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            stopped.sendall(b"GET /stream?9000 HTTP/1.1\r\nHost: a\r\n\r\n")
            time.sleep(4)
            with pytest.raises(OSError):
                while stopped.recv(65536):
                    pass
                raise ConnectionError("ended")


def _read_at(connection: socket.socket, rate: int, request: bytes) -> int:
    """Ask, and take the answer at so many bytes a second up to its end. Returns how many came."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    connection.sendall(request)
    total = 0
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while piece := connection.recv(rate // 20):
            total += len(piece)
            time.sleep(len(piece) / rate)
    return total


def _has_ended(connection: socket.socket) -> bool:
    connection.settimeout(0.05)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_one_address_gets_only_so_many_answers_at_once_and_a_gateway_there_all_it_needs(tmp_path: Path) -> None:
    with desk(tmp_path, requests_per_address=2) as front, ThreadPoolExecutor(4) as threads:
        slow = [threads.submit(front.ask, "/slow?2") for _ in range(2)]
        time.sleep(0.5)
        refused = front.ask("/a")
        assert refused.status == 429 and refused.json["code"] == "RATE_LIMITED" and refused.headers["retry-after"] == "1"
        assert front.ask(LEASE, known=True).status == 200
        assert [one.result().status for one in slow] == [200, 200]
        assert front.ask("/a").status == 200


def test_a_saturated_node_says_so_at_once_and_machines_have_a_queue_of_their_own(tmp_path: Path) -> None:
    changes = {"PATIENCE_SECONDS": 1.0}
    with desk(tmp_path, threads=1, changes=changes) as front, ThreadPoolExecutor(8) as threads:
        crowd = [threads.submit(front.ask, "/slow?4") for _ in range(6)]
        time.sleep(0.5)
        began = time.monotonic()
        refused = front.ask("/a")
        assert refused.status == 503 and refused.json["code"] == "UNAVAILABLE" and int(refused.headers["retry-after"]) >= 1
        assert time.monotonic() - began < QUICK
        assert front.ask(LEASE, known=True).status == 200
        assert front.ask("/api/v1/health").status == 200
        assert sorted(one.result().status for one in crowd) == [200, 503, 503, 503, 503, 503]


def test_waiting_directive_calls_hold_up_no_lease_and_strangers_no_gateway(tmp_path: Path) -> None:
    with desk(tmp_path, threads=4, changes={"PATIENCE_SECONDS": 1.0}) as front, ThreadPoolExecutor(40) as threads:
        for _ in range(12):
            threads.submit(front.ask, f"{DIRECTIVE}/slow?3", known=True)
            threads.submit(front.ask, f"{DIRECTIVE}?", known=True)
            threads.submit(front.ask, f"{LEASE}/slow?3")
        time.sleep(0.5)
        began = time.monotonic()
        assert front.ask(LEASE, known=True).status == 200 and time.monotonic() - began < QUICK


def test_a_frozen_worker_stops_nobody_else_and_its_successor_takes_over(tmp_path: Path) -> None:
    processes = [("machine", "machine"), ("people-0", "people"), ("people-1", "people")]
    with desk(tmp_path, processes=processes) as front:
        os.kill(front.workers["people-0"].pid, signal.SIGSTOP)
        time.sleep(3)
        assert {front.ask("/a").json["worker"] for _ in range(6)} == {"people-1"}
        assert front.ask("/api/v1/health/live").status == 200
        odd = front.ask("/api/v1/health/live?verbose=1")
        assert odd.status == 400 and odd.json["error"].startswith("verbose: this parameter of the query is not known")
        os.kill(front.workers["machine"].pid, signal.SIGSTOP)
        assert front.ask("/a").status == 200
        until(lambda: front.ask("/api/v1/health/live").status == 503, 10)
        assert front.ask("/api/v1/health/live").json["reasons"] == ["no machine process answers"]
        for name in ("machine", "people-0"):
            front.workers[name].kill()
            front.workers[name].wait()
            front.start_worker(name)
        took = until(lambda: front.ask(LEASE, known=True).status == 200, 10)
        assert took < 5
        until(lambda: {front.ask("/a").json["worker"] for _ in range(6)} == {"people-0", "people-1"}, 10)


def test_whose_worker_dies_hears_that_nobody_knows_what_was_done(tmp_path: Path) -> None:
    with desk(tmp_path) as front, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(front.ask, "/slow?20")
        time.sleep(0.5)
        front.workers["people-0"].kill()
        front.workers["people-0"].wait()
        answer = waiting.result(5)
        assert answer.status == 503 and "Idempotency-Key" in answer.json["error"] and answer.headers["retry-after"] == "1"
        queued = threads.submit(front.ask, "/a")
        front.start_worker("people-0")
        assert queued.result().status == 200


def test_health_answers_within_a_second_whatever_is_down(tmp_path: Path) -> None:
    with desk(tmp_path) as front:
        os.kill(front.workers["people-0"].pid, signal.SIGSTOP)
        for _ in range(3):
            began = time.monotonic()
            answer = front.ask("/api/v1/health")
            assert answer.status == 503 and answer.json["database"] == "unknown" and time.monotonic() - began < QUICK
        assert front.ask("/api/v1/health/ready").status == 503


def test_a_silent_connection_costs_little_memory(tmp_path: Path) -> None:
    with desk(tmp_path) as front, contextlib.ExitStack() as held:
        assert front.front is not None
        front.ask("/a")
        before = _resident(front.front.pid)
        for _ in range(100):
            held.enter_context(contextlib.closing(front.connect()))
        each = (_resident(front.front.pid) - before) / 100
        print(f"{each:.0f} kB for a connection after its handshake")
        assert each < 150


@pytest.mark.parametrize(
    ("address", "network"),
    [("10.0.0.1", "10.0.0.1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("2001:db8::1", "2001:db8::/64"),
     ("2001:db8::2", "2001:db8::/64"), ("nonsense", "nonsense")],
)  # fmt: skip
def test_one_customer_is_one_address(address: str, network: str) -> None:
    assert network_of(address) == network


def _resident(pid: int) -> int:
    """kB of memory a process has."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@pytest.mark.parametrize(("soft", "hard", "raised", "strangers"), [
    (1024, 20_000, 20_000, 4000), (1024, 1_000_000, 106_200, 4000), (1024, resource.RLIM_INFINITY, 106_200, 4000),
    (20_000, 20_000, None, 4000), (1024, 2000, 2000, 1200),
])  # fmt: skip
def test_a_front_takes_the_open_files_a_fleet_needs_and_strangers_get_no_more_of_them(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int | None, strangers: int
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    assert within(Caps()).connections == strangers
    assert asked == ([(raised, hard)] if raised else [])
