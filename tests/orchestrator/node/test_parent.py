"""The parent of a node: what ends or stands still is started again, what cannot start ends the node, nothing outlives it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from cli.stack.layout import ROOT
from common import starvation
from orchestrator.node.inner import REQUEST_SECONDS, STUCK_REQUESTS, Inner
from orchestrator.node.parent import GIVE_UP, NodeFailed, Parent, _forget_dead_ones, private_directory, shape_of_children
from orchestrator.node.shape import node_shape
from orchestrator.variables import EnvironmentMistake, listen_address, secret
from tests.orchestrator.node.desk import until

EVERYWHERE = "0.0.0.0"  # noqa: S104  an address to compare with
CHILD = """
import os, signal, sys, threading, time
from orchestrator.node.lifeline import Lifeline
role, what, line = sys.argv[1], sys.argv[2], Lifeline(int(sys.argv[3]))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if what == "cannot":
    line.failed("the cellar is flooded")
    sys.exit(3)
line.start()
line.ready()
print(f"{role} begins {os.getpid()}", flush=True)
if what == "dies":
    sys.exit(1)
if what == "stuck":
    line.progress.moved("lease", 0.5)
while True:
    time.sleep(0.1)
"""
NODE = """
import logging, os, sys
from pathlib import Path
from typing import IO
from orchestrator.node import parent
from orchestrator.node.shape import node_shape
parent.SILENT_SECONDS, parent.SILENT_DEFAULT, parent.BACKOFF = {{}}, 2.0, 0.01
if {what!r} == "starves":
    import time
    parent.all_waited = lambda pid: {{"1": time.monotonic()}}
logging.basicConfig(format="%(message)s", level="ERROR", stream=sys.stdout)
class Small(parent.Parent):
    def command(self, child):
        return [sys.executable, "-c", {child!r}, child.role, {what!r}]
try:
    Small(node_shape({environ!r}), Path("/nowhere")).run()
except parent.NodeFailed as error:
    print("failed:", error, flush=True)
    sys.exit(1)
print("ended in order", flush=True)
"""


class Node:
    """A parent in a process of its own, with the two children of a gateway, which do what `what` says."""

    def __init__(self, what: str, **environ: str) -> None:
        program = NODE.format(child=CHILD, what=what, environ={"MAZEVAULT_MODE": "gateway", **environ})
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
        )  # fmt: skip
        os.set_blocking(self.process.stdout.fileno(), False)
        self._said = ""

    @property
    def said(self) -> str:
        assert self.process.stdout is not None
        with contextlib.suppress(TypeError):
            self._said += self.process.stdout.read() or ""
        return self._said

    def pids(self, role: str) -> list[int]:
        return [int(line.split()[2]) for line in self.said.splitlines() if line.startswith(f"{role} begins")]


@contextlib.contextmanager
def node(what: str, **environ: str) -> Iterator[Node]:
    made = Node(what, **environ)
    try:
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(made.process.pid, signal.SIGKILL)
        made.process.wait()


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_is_killed_or_frozen_comes_back_and_term_ends_all(tmp_path: Path) -> None:
    with node("serves") as made:
        until(lambda: made.pids("front") and made.pids("core"))
        os.kill(made.pids("front")[0], signal.SIGKILL)
        assert until(lambda: len(made.pids("front")) == 2) < 5
        assert "the process front" in made.said and len(made.pids("core")) == 1
        time.sleep(1)  # it has shown a sign of life
        os.kill(made.pids("core")[0], signal.SIGSTOP)
        until(lambda: len(made.pids("core")) == 2, 20)
        said = re.search(r"stands still: no sign of life for (\d+) s", made.said)
        assert said and int(said[1]) <= 3, "it is told in the promised time, however little the machine has to give"
        assert "stands still: no sign of life for" in made.said
        made.process.send_signal(signal.SIGTERM)
        assert made.process.wait(10) == 0 and "ended in order" in made.said
        assert not any(lives(pid) for pid in made.pids("front") + made.pids("core"))


def test_a_process_that_gets_no_processor_has_a_while_longer_and_not_for_ever() -> None:
    with node("starves") as made:
        until(lambda: made.pids("front") and made.pids("core"))
        time.sleep(1)
        os.kill(made.pids("core")[0], signal.SIGSTOP)
        time.sleep(4)
        assert "stands still" not in made.said, "2 s are the promise"
        until(lambda: len(made.pids("core")) == 2, 30)
        assert "stands still: no sign of life for 10 s" in made.said


def test_what_says_that_a_loop_stands_still_shows_its_stacks_and_is_replaced() -> None:
    with node("stuck") as made:
        until(lambda: len(made.pids("core")) >= 2, 20)
        assert "lease has not moved for" in made.said
        assert "Current thread" in made.said and "time.sleep" not in made.said


def test_a_process_that_cannot_start_ends_the_node_with_its_reason() -> None:
    with node("cannot") as made:
        assert made.process.wait(30) == 1
        assert "failed: the cellar is flooded" in made.said


def test_a_process_that_never_lasts_ends_the_node() -> None:
    with node("dies") as made:
        assert made.process.wait(60) == 1
        assert f"ended {GIVE_UP} times in a row" in made.said


def test_nothing_outlives_a_killed_parent() -> None:
    with node("serves") as made:
        until(lambda: made.pids("front") and made.pids("core"))
        time.sleep(0.5)
        made.process.kill()
        until(lambda: not any(lives(pid) for pid in made.pids("front") + made.pids("core")), 5)


def test_a_node_that_was_frozen_as_a_whole_goes_on() -> None:
    with node("serves") as made:
        until(lambda: made.pids("front") and made.pids("core"))
        time.sleep(1)
        os.killpg(made.process.pid, signal.SIGSTOP)
        time.sleep(3)
        os.killpg(made.process.pid, signal.SIGCONT)
        time.sleep(3)
        assert len(made.pids("front")) == len(made.pids("core")) == 1, made.said


def test_a_failpoint_stands_for_a_crash_of_the_whole_node() -> None:
    with node("serves", MAZEVAULT_FAILPOINT="anywhere") as made:
        until(lambda: made.pids("front") and made.pids("core"))
        time.sleep(0.5)
        os.kill(made.pids("core")[0], signal.SIGKILL)
        assert made.process.wait(10) == -signal.SIGKILL
        until(lambda: not lives(made.pids("front")[0]), 5)


def test_each_mode_has_its_processes() -> None:
    def names(**environ: str) -> list[str]:
        return [child.name for child in shape_of_children(node_shape(environ))]

    assert names() == ["front", "template", "prepare", "machine", "people-0", "loops"]
    assert names(MAZEVAULT_PROCESSES="3")[4:7] == ["people-0", "people-1", "people-2"]
    assert names(MAZEVAULT_MODE="gateway", MAZEVAULT_PROCESSES="3") == ["front", "core"]


def test_without_tls_nobody_is_limited_by_the_address_of_a_proxy() -> None:
    plain, secure = node_shape({"MAZEVAULT_TLS_ENABLED": "false"}), node_shape({})
    assert plain.requests_per_address == plain.unfinished_per_address == 0
    assert secure.requests_per_address and secure.unfinished_per_address
    assert node_shape({"MAZEVAULT_TLS_ENABLED": "false", "MAZEVAULT_REQUESTS_PER_ADDRESS": "9"}).requests_per_address == 9


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        ({}, (EVERYWHERE, 8443)),
        ({"PORT": "80"}, (EVERYWHERE, 80)),
        ({"MAZEVAULT_LISTEN_ADDR": ":1"}, (EVERYWHERE, 1)),
        ({"MAZEVAULT_LISTEN_ADDR": "[::1]:8443"}, ("::1", 8443)),
        ({"MAZEVAULT_LISTEN_ADDR": "localhost:8443"}, ("localhost", 8443)),
    ],
)
def test_an_address_to_listen_on(environ: dict[str, str], address: tuple[str, int]) -> None:
    assert listen_address(environ) == address


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"PORT": "tcp://10.0.0.1:8443"}, "PORT"),
        ({"PORT": "0"}, "PORT"),
        ({"PORT": "٣"}, "PORT"),
        ({"MAZEVAULT_LISTEN_ADDR": "::1"}, "MAZEVAULT_LISTEN_ADDR"),
        ({"MAZEVAULT_LISTEN_ADDR": "::1:8443"}, "MAZEVAULT_LISTEN_ADDR"),
        ({"MAZEVAULT_LISTEN_ADDR": "localhost"}, "MAZEVAULT_LISTEN_ADDR"),
        ({"MAZEVAULT_LISTEN_ADDR": ":99999"}, "MAZEVAULT_LISTEN_ADDR"),
    ],
)
def test_an_address_that_is_none_is_refused_by_name(environ: dict[str, str], named: str) -> None:
    with pytest.raises(EnvironmentMistake, match=named):
        listen_address(environ)


def test_a_secret_file_of_another_system_is_read_or_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes("geheim\r\n".encode("utf-8-sig"))
    assert secret({"NAME_FILE": str(path)}, "NAME") == "geheim"
    path.write_bytes("geheim".encode("utf-16"))  # with its mark, as PowerShell writes it
    assert secret({"NAME_FILE": str(path)}, "NAME") == "geheim"
    for content, told in (
        ("geheim".encode("utf-16-le"), "not one line of UTF-8"), ("geh\u00e9im".encode("latin-1"), "not UTF-8"),
        (b"one\ntwo\n", "not one line"), (b"one\rtwo", "not one line"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(EnvironmentMistake, match=f"NAME_FILE .* {told}"):
            secret({"NAME_FILE": str(path)}, "NAME")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Sockets have short names; pytest's own folders may have long ones."""
    with tempfile.TemporaryDirectory(prefix="mv-") as name:
        yield Path(name)


def test_the_folder_of_the_sockets_is_private_and_does_not_stay(monkeypatch: pytest.MonkeyPatch, short_path: Path) -> None:
    tmp_path = short_path
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = tmp_path / "mazevault-node-dead"
    dead.mkdir()
    (dead / "lock").touch()
    with private_directory() as directory:
        assert directory.stat().st_mode & 0o777 == 0o700 and not dead.exists()
        _forget_dead_ones()
        assert directory.exists()
    assert not directory.exists()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("a" * 90)))
    (tmp_path / ("a" * 90)).mkdir()
    with pytest.raises(NodeFailed, match="TMPDIR"), private_directory():
        pass


def test_a_node_that_starts_never_loses_its_folder_to_another_that_starts(
    monkeypatch: pytest.MonkeyPatch, short_path: Path
) -> None:
    """The other one looks for dead folders at the worst moment: when this one has made its folder and not yet its lock."""
    monkeypatch.setattr("tempfile.tempdir", str(short_path))
    real, looks = fcntl.flock, list[int]()

    def flock(file: IO[str], how: int) -> None:
        if not looks:
            looks.append(how)
            _forget_dead_ones()
        real(file, how)

    monkeypatch.setattr("fcntl.flock", flock)
    with private_directory() as directory:
        assert looks and directory.exists()


def test_a_fork_that_is_ordered_of_a_template_that_has_just_died_is_ordered_again() -> None:
    parent = Parent(node_shape({}), Path("/nowhere"))
    template, machine = parent.children["template"], next(one for one in parent.children.values() if one.forked)
    template.line, gone = socket.socketpair()
    gone.close()
    template.is_ready = True
    parent._start(machine, 100.0)
    assert machine.line is None and machine.start_at is not None and machine.start_at > 100.0
    template.line.close()


def test_requests_that_stand_still_are_told_and_starved_ones_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starvation, "watch", starvation.OwnWatch())
    inner = Inner(tmp_path / "inner.sock", lambda *_: [], None, None)
    for number in range(STUCK_REQUESTS):
        assert inner._stuck() is None
        inner._running.moved(str(number), REQUEST_SECONDS, now=time.monotonic() - REQUEST_SECONDS - 1)
    assert inner._stuck() == "4 requests have stood still for more than 120 s"
    starvation.watch.came(REQUEST_SECONDS, 0.5)
    assert inner._stuck() is None
