"""The parent of a node's processes: starts them, watches that they move, starts them again, ends them in order.

It does nothing else, imports no Django, and has one thread, so there is little in it that could stop. Each child shows signs of
life on a line of its own (`lifeline`); one that shows none for longer than `SILENT_SECONDS`, or says that something in it
stands still, writes the stacks of its threads to the log, is killed, and is started again. One that got no processor meanwhile is
starved, not stuck, and has a while longer (`common.starvation`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from common.logs import TEXT, log_to_standard_error, say
from common.starvation import EXCUSED_AT_MOST, all_waited, longest_wait
from orchestrator.node.lifeline import DUMP_SIGNAL, set_process_name
from orchestrator.node.shape import FrontPlan, NodeShape, node_shape
from orchestrator.variables import EnvironmentMistake

log = logging.getLogger("mazevault.node")

TICK_SECONDS = 0.1
SILENT_SECONDS: Mapping[str, float] = {"core": 10.0}
SILENT_DEFAULT = 6.0
"""Signs of life come twice a second. A process without any for so long is frozen, or something holds its interpreter. A gateway
whose lease falls due at a frozen machine worker is answered by the next one while two thirds of what is left of it last."""
STARTING_SECONDS = 120.0
"""From the start of a process to its first sign of life: imports, on a machine that starts many nodes at once."""
DUMP_SECONDS = 0.5
"""Time to write the stacks, before the process is killed."""
STOP_SECONDS = 8.5
"""The launcher kills after 10 s."""
GOOD_SECONDS = 10.0
"""A process that has lived so long is started again at once when it ends; one that ends sooner waits, each time longer."""
BACKOFF, LONGEST_BACKOFF = 0.5, 15.0
GIVE_UP = 8
"""So many starts in a row that came to nothing: the node ends, and whoever started it sees that it cannot run."""
LONGEST_SOCKET_PATH = 100
"""Bytes; the system takes 107."""


@dataclass(eq=False)
class Child:
    """One process of the node. `forked` ones are made by the template, the others by the parent itself."""

    name: str
    role: str
    forked: bool = False
    pid: int | None = None
    process: subprocess.Popen[bytes] | None = None
    line: socket.socket | None = None
    heard: float | None = None
    """Monotonic second of its last sign of life; None before the first."""
    started: float = 0.0
    is_ready: bool = False
    was_ready: bool = False
    failures: int = 0
    start_at: float | None = None
    """When to start it (again); None while it runs."""
    kill_at: float | None = None
    reason: str = ""
    buffer: bytes = b""
    waits: Mapping[str, float] | None = None
    """How long its threads had waited for a processor when half of the silence was over, and when that was."""
    waits_at: float = 0.0

    @property
    def silent_seconds(self) -> float:
        return STARTING_SECONDS if self.heard is None else SILENT_SECONDS.get(self.role, SILENT_DEFAULT)


class NodeFailed(Exception):
    """The node cannot run; the sentence says why."""


def shape_of_children(shape: NodeShape) -> list[Child]:
    """Which processes a node has, in the order in which they are started."""
    if shape.mode == "gateway":
        return [Child("front", "front"), Child("core", "core")]
    people = [Child(f"people-{number}", "people", forked=True) for number in range(shape.processes)]
    return [
        Child("front", "front"), Child("template", "template"), Child("prepare", "prepare", forked=True),
        Child("machine", "machine", forked=True), *people, Child("loops", "loops", forked=True),
    ]  # fmt: skip


@dataclass
class Parent:
    """The processes of one node and what is known of each."""

    shape: NodeShape
    directory: Path
    children: dict[str, Child] = field(default_factory=dict)
    stopping: bool = False

    def __post_init__(self) -> None:
        self.children = {child.name: child for child in shape_of_children(self.shape)}
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._signals = socket.socketpair()
        self._signals.setblocking(False)
        self._wakeup.setblocking(False)
        self._last_turn = time.monotonic()
        self._stop_deadline = 0.0
        self._told_again = False
        self._orphans: set[int] = set()
        """Forks that have ended. Whose template died before them may be ours to bury: in a container we are process 1."""

    def run(self) -> None:
        """Until TERM or INT. Raises `NodeFailed`."""
        self._install_signals()
        for child in self._first():
            child.start_at = 0.0
        try:
            while not (self.stopping and self._all_ended()):
                self._turn()
        finally:
            self._kill_all()

    def _first(self) -> Iterator[Child]:
        """What is started at once. The forks of the template wait until it and the database are prepared."""
        return (child for child in self.children.values() if not child.forked)

    def _turn(self) -> None:
        for key, _ in self._selector.select(TICK_SECONDS):
            if key.data is None:
                self._take_signals()
            else:
                self._hear(key.data)
        now = time.monotonic()
        if now - self._last_turn > 10 * TICK_SECONDS:
            self._forgive(now)
        self._last_turn = now
        for child in self.children.values():
            self._look_after(child, now)
        self._bury()
        if self.stopping:
            self._go_on_stopping(now)

    def _bury(self) -> None:
        for pid in list(self._orphans):
            try:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    self._orphans.discard(pid)
            except ChildProcessError:
                self._orphans.discard(pid)

    def _forgive(self, now: float) -> None:
        """This process itself stood still (the whole node was frozen, the machine was busy): nobody's silence counts."""
        for child in self.children.values():
            if child.heard is not None:
                child.heard, child.waits = now, None

    def _look_after(self, child: Child, now: float) -> None:
        if child.start_at is not None:
            if now >= child.start_at and not self.stopping:
                self._start(child, now)
        elif child.line is not None and child.kill_at is None:
            silent = now - (child.heard or child.started)
            if silent > child.silent_seconds / 2 and child.waits is None:
                child.waits, child.waits_at = all_waited(child.pid or 0), now
            if silent > child.silent_seconds and not _is_starved(child, silent, now):
                self._put_down(child, f"no sign of life for {silent:.0f} s", now)
        elif child.kill_at is not None and now >= child.kill_at:
            child.kill_at = float("inf")
            self._signal(child, signal.SIGKILL)

    def _start(self, child: Child, now: float) -> None:
        template = self.children.get("template")
        if child.forked and (template is None or template.line is None or not template.is_ready):
            child.start_at = now + TICK_SECONDS
            return
        ours, theirs = socket.socketpair()
        child.line, child.heard, child.is_ready, child.started = ours, None, False, now
        child.start_at = child.kill_at = child.pid = child.waits = None
        child.buffer = b""
        try:
            self._spawn(child, template, theirs)
        except (ConnectionError, BlockingIOError) as error:  # the template died and is not buried yet, or is busy
            ours.close()
            child.line, child.start_at = None, now + TICK_SECONDS
            log.warning("the process %s cannot be started now, next try in a moment: %s", child.name, error)
            return
        finally:
            theirs.close()
        ours.setblocking(False)
        self._selector.register(ours, selectors.EVENT_READ, child)

    def _spawn(self, child: Child, template: Child | None, theirs: socket.socket) -> None:
        if child.forked:
            assert template is not None and template.line is not None  # noqa: S101  the caller looked
            order = json.dumps({"name": child.name, "role": child.role}).encode()
            socket.send_fds(template.line, [order], [theirs.fileno()])
            return
        argv = [*self.command(child), str(theirs.fileno())]
        child.process = subprocess.Popen(argv, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        child.pid = child.process.pid

    def command(self, child: Child) -> list[str]:
        """How a process is started; the number of its line is added."""
        what = self._front_plan() if child.role == "front" else str(self.directory)
        return [sys.executable, "-m", f"orchestrator.node.{child.role}", what]

    def _front_plan(self) -> str:
        shape = self.shape
        served = [(one.name, one.role) for one in self.children.values() if one.role in ("machine", "people", "loops", "core")]
        plan = FrontPlan(
            mode=shape.mode, version=shape.version, host=shape.listen_host, port=shape.listen_port, secure=shape.tls_enabled,
            threads=shape.threads, directory=str(self.directory), processes=served,
            log_level=shape.log_level, log_format=shape.log_format,
            unfinished_per_address=shape.unfinished_per_address, requests_per_address=shape.requests_per_address,
        )  # fmt: skip
        return msgspec.json.encode(plan).decode()

    def _hear(self, child: Child) -> None:
        assert child.line is not None  # noqa: S101  only then is it registered
        try:
            received = child.line.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self._note_end(child)
            return
        child.heard, child.waits = time.monotonic(), None
        *lines, child.buffer = (child.buffer + received).split(b"\n")
        for line in lines:
            self._take(child, line.decode(errors="replace"))

    def _take(self, child: Child, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "ready":
            child.is_ready = child.was_ready = True
            self._note_ready(child)
        elif word == "failed":
            child.reason = rest
        elif word == "stuck" and child.kill_at is None and not self.stopping:
            self._put_down(child, rest, time.monotonic())
        elif word == "forked":
            name, _, pid = rest.partition(" ")
            self.children[name].pid = int(pid)

    def _note_ready(self, child: Child) -> None:
        if child.role == "template" and not self.children["prepare"].was_ready:
            self.children["prepare"].start_at = 0.0
        log.debug("%s (%s) is ready", child.name, child.pid)

    def _note_end(self, child: Child) -> None:
        assert child.line is not None  # noqa: S101  it is what told
        now = time.monotonic()
        self._selector.unregister(child.line)
        child.line.close()
        child.line, child.kill_at = None, None
        if child.process is not None:
            child.process.wait()
        elif child.pid is not None:
            self._orphans.add(child.pid)
        if child.role == "prepare" and child.is_ready:
            for one in self.children.values():
                if one.forked and one is not child:
                    one.start_at = 0.0
            return
        if not self.stopping:
            self._start_again(child, now)

    def _start_again(self, child: Child, now: float) -> None:
        if self.shape.failpoint:
            self._die_as_one()
        if not child.was_ready:
            raise NodeFailed(child.reason or f"its process {child.name} ended before it was ready")
        child.failures = 0 if child.is_ready and now - child.started >= GOOD_SECONDS else child.failures + 1
        if child.failures >= GIVE_UP:
            raise NodeFailed(f"its process {child.name} ended {child.failures} times in a row soon after its start")
        pause = min(LONGEST_BACKOFF, BACKOFF * 2.0 ** (child.failures - 2)) if child.failures > 1 else 0.0
        child.start_at = now + pause
        log.error("the process %s (%s) has ended; it is started again in %.1f s", child.name, child.pid, pause)

    def _put_down(self, child: Child, why: str, now: float) -> None:
        log.error("the process %s (%s) stands still: %s; its stacks follow, then it is started again", child.name, child.pid, why)
        self._signal(child, DUMP_SIGNAL)
        child.kill_at = now + DUMP_SECONDS

    def _signal(self, child: Child, number: signal.Signals) -> None:
        if child.pid is not None and child.line is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, number)

    def _die_as_one(self) -> None:
        """A failpoint stands for a crash of the node: nothing of it may live on and repair what the test looks at."""
        self._kill_all()
        os.kill(os.getpid(), signal.SIGKILL)

    # Ending.

    def _install_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._signals.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._wakeup, selectors.EVENT_READ, None)

    def _take_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wakeup.recv(1024)
        if not self.stopping:
            self.stopping = True
            self._stop_deadline = time.monotonic() + STOP_SECONDS
            for child in self.children.values():
                child.start_at = None
                if child.role != "template":
                    self._signal(child, signal.SIGTERM)

    def _go_on_stopping(self, now: float) -> None:
        """The front first, since it holds the clients; the workers stop accepting when it has ended; the template last."""
        if self.children["front"].line is None and not self._told_again:
            self._told_again = True
            for child in self.children.values():
                self._signal(child, signal.SIGTERM)
        if now > self._stop_deadline:
            self._kill_all()

    def _all_ended(self) -> bool:
        return all(child.line is None for child in self.children.values())

    def _kill_all(self) -> None:
        for child in self.children.values():
            self._signal(child, signal.SIGKILL)
        for child in self.children.values():
            if child.process is not None:
                child.process.wait()


def _is_starved(child: Child, silent: float, now: float) -> bool:
    """Whether a thread of a silent process waited for a processor most of the time. For a while that is an excuse."""
    if child.waits is None or silent > (1 + EXCUSED_AT_MOST) * child.silent_seconds:
        return False
    return longest_wait(child.waits, all_waited(child.pid or 0)) > (now - child.waits_at) / 2


@contextlib.contextmanager
def private_directory() -> Iterator[Path]:
    """A folder for the sockets, only for this account. Those of nodes that were killed are removed."""
    _forget_dead_ones()
    directory = Path(tempfile.mkdtemp(prefix="mazevault-node-"))
    if len(str(directory)) + len("/people-99.sock") > LONGEST_SOCKET_PATH:
        directory.rmdir()
        raise NodeFailed(
            f"the folder for temporary files has too long a name for sockets: {directory}; set TMPDIR to a shorter one"
        )
    with (directory / "lock.new").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (directory / "lock").hardlink_to(directory / "lock.new")  # nobody ever finds it without its holder
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _forget_dead_ones() -> None:
    for found in Path(tempfile.gettempdir()).glob("mazevault-node-*"):
        with contextlib.suppress(OSError):
            if found.is_symlink() or found.stat().st_uid != os.getuid():
                continue
            with (found / "lock").open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(found, ignore_errors=True)


def _refuse(why: str) -> None:
    form = os.environ.get("LOG_FORMAT", TEXT)
    say(f"this node cannot run: {why}", form=form, logger=log.name, level=logging.CRITICAL)


def main() -> int:
    """Run this node until TERM or INT; returns the exit status."""
    log_to_standard_error()
    set_process_name("mv-parent")
    try:
        shape = node_shape(os.environ)
        log_to_standard_error(shape.log_format)
        logging.getLogger("mazevault").setLevel(shape.log_level)
        with private_directory() as directory:
            Parent(shape, directory).run()
    except EnvironmentMistake as mistake:
        from orchestrator.node.checking import mistakes  # reads what only the children need, so that all is told at once

        _refuse(f"{mistakes(os.environ) or mistake}")
        return 1
    except NodeFailed as error:
        _refuse(str(error))
        return 1
    return 0
