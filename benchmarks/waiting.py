"""What directive calls cost that wait: the shipped machine process with 10,000 of them, asked over its private socket.

The sealed messages are real ones of enrolled gateways. The sockets of TLS clients belong to the front and are measured there.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from benchmarks.lane import Bench, _cpu_of, _register_all, _resident_mb, _running
from cli.simulation.real.http import Connection
from cli.simulation.real.speaker import Speaker
from orchestrator.node.wire import REPLIES, Answered, Asked, Frames, Numbered, Peer, Told
from protocol import messages, paths

CALLS = 10_000
WAIT_SECONDS = 25.0
WINDOW_SECONDS = 8.0
"""CPU is measured for so long, after the last call has been taken and before the first one ends."""


def waiting() -> dict[str, object]:
    """Memory and CPU of the machine process while calls wait, and how fast all hear of a change."""
    with _running() as bench:
        return asyncio.run(_measured(bench))


async def _measured(bench: Bench) -> dict[str, object]:
    await _register_all(bench)
    pid = next(one for one in bench.pids() if _name(one) == "mv-machine")
    before = _resident_mb(pid)
    revisions = {one.id: await _revision(bench, one) for one in bench.fleet}
    link = Link()
    await asyncio.get_running_loop().create_unix_connection(lambda: link.frames, str(_socket(bench)))
    began = time.monotonic()
    for number in range(CALLS):
        gateway = bench.fleet[number % len(bench.fleet)]
        link.ask(number, gateway, messages.AskDirective(after=revisions[gateway.id], wait=WAIT_SECONDS))
        if number % 50 == 0:
            await asyncio.sleep(0)
    sent = time.monotonic() - began
    await asyncio.sleep(min(3.0, max(0.5, WAIT_SECONDS - sent - WINDOW_SECONDS - 1)))
    early, cpu = len(link.answered), _cpu_of(pid)
    await asyncio.sleep(min(WINDOW_SECONDS, max(1.0, WAIT_SECONDS - (time.monotonic() - began) - 1)))
    spent, late = _cpu_of(pid) - cpu, len(link.answered)
    return {
        "calls": CALLS, "sent_in_seconds": round(sent, 1), "answered_before_the_window": early, "answered_in_it": late - early,
        "machine_resident_mb": _resident_mb(pid), "machine_resident_mb_before": before,
        "machine_cpu_percent": round(spent / WINDOW_SECONDS * 100, 2),
    }  # fmt: skip


class Link:
    """The private socket as the front uses it."""

    def __init__(self) -> None:
        self.answered: dict[int, Answered] = {}
        self.frames = Frames(REPLIES, self._heard, lambda: None)

    def ask(self, number: int, gateway: Speaker, body: messages.Message) -> None:
        peer = Peer("127.0.0.1", 1, gateway.der)
        self.frames.say(
            Numbered(number, Asked("POST", paths.DIRECTIVE.encode(), b"", [], gateway.sealed(paths.DIRECTIVE, body), peer))
        )

    def _heard(self, frames: Frames, told: object) -> None:
        if isinstance(told, Told):
            self.answered[told.number] = told.answered


async def _revision(bench: Bench, gateway: Speaker) -> str:
    connection = Connection(bench.port, gateway.context(bench.trust["root"]))
    await connection.ask(gateway.heartbeat())
    _, answer = await connection.ask(gateway.directive())
    connection.close()
    return str(gateway.opened(answer, messages.Directive).revision)


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _socket(bench: Bench) -> Path:
    template = next(one for one in bench.pids() if _name(one) == "mv-template")
    words = Path(f"/proc/{template}/cmdline").read_text().split("\0")
    return next(Path(word) / "machine.sock" for word in words if Path(word).is_dir() and (Path(word) / "machine.sock").exists())
