"""Child processes that end with us: started in their own session, told TERM, then KILL."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.files import open_private

_PR_SET_PDEATHSIG = 1
WHOLE = frozenset({signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT})
"""Signals that a process cannot pass on to its own children."""


@dataclass(frozen=True)
class Account:
    """An account to run as, other than ours."""

    uid: int
    gid: int


@dataclass
class Child:
    """One process of the stack. `stop_signal` is how it is asked to end."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    cwd: Path
    stop_signal: signal.Signals = signal.SIGTERM
    account: Account | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process and self.process.poll() is None else None

    def start(self) -> None:
        """Start it unless it runs. Must be called from a thread that lives as long as the stack (see `_die_with_parent`)."""
        if self.pid is not None:
            return
        more: dict[str, object] = {}
        if self.account:
            more = {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}
        with open_private(self.log, "ab") as stream:
            self.process = subprocess.Popen(
                list(self.argv), env=dict(self.environment), cwd=self.cwd, stdin=subprocess.DEVNULL, stdout=stream,
                stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_die_with_parent(), **more,  # type: ignore[call-overload]
            )  # fmt: skip

    def tell(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs. What nobody can answer in order goes to the process and all that it has started."""
        if self.pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number) if number in WHOLE else os.kill(self.pid, number)

    def ended(self) -> str | None:
        """How it ended, in words; None while it runs or before it was started."""
        if self.process is None or self.process.poll() is None:
            return None
        code = self.process.returncode
        return f"signal {-code}" if code < 0 else f"exit status {code}"

    def last_lines(self, count: int = 15) -> str:
        """The end of its log, for an error message."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])
        except OSError:
            return ""


def stop(children: Iterable[Child], seconds: float) -> None:
    """Ask all of them to end, then kill those that have not ended after so many seconds."""
    living = [child for child in children if child.pid is not None]
    for child in living:
        child.tell(child.stop_signal)
    deadline = time.monotonic() + seconds
    while any(child.pid is not None for child in living) and time.monotonic() < deadline:
        time.sleep(0.02)
    for child in living:
        child.tell(signal.SIGKILL)
        if child.process:
            child.process.wait()


def _die_with_parent():  # type: ignore[no-untyped-def]
    """Linux: the child gets KILL when the thread that started it is gone, so that a killed launcher leaves nothing behind."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
