"""What each Django process of a node does. Its main thread accepts; TERM ends it in order."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from common import lanes
from common.lanes import Lane
from orchestrator.node.inner import Inner
from orchestrator.node.lifeline import Lifeline, set_process_name
from orchestrator.node.preparing import CannotServe, prepare
from orchestrator.node.wire import Listener

log = logging.getLogger("mazevault.server")

LEAVE_SECONDS = 5.0
"""A worker that was told to end once stops accepting after so long, or when it is told again: by then the front has ended."""
STOP_HOOK_SECONDS = 8.5
"""The launcher kills after 10 s."""


def run(name: str, role: str, directory: Path, lifeline: Lifeline) -> int:
    """Be this process until told to end; returns the exit status."""
    set_process_name(f"mv-{name}")
    lifeline.start()
    try:
        ROLES[role](directory / f"{name}.sock", lifeline)
    except (CannotServe, CommandError) as error:
        lifeline.failed(str(error))
        return 1
    except OSError as error:
        if error.filename is None:
            log.exception("this process cannot start")
        where = f"{error.filename}: " if error.filename else ""
        lifeline.failed(f"{where}{error.strerror or error} (this account is {os.getuid()}); serve --check looks at all folders")
        return 1
    except Exception as error:
        log.exception("this process cannot start")
        lifeline.failed(f"unexpected failure: {type(error).__name__}")
        return 1
    return 0


def _prepare(socket: Path, lifeline: Lifeline) -> None:
    prepare(settings.MAZEVAULT)
    lifeline.ready()


def _machine(socket: Path, lifeline: Lifeline) -> None:
    from orchestrator.node import machine_lane

    lanes.process_is(Lane.MACHINES)
    machine_lane.serve(socket, lifeline)


def _people(socket: Path, lifeline: Lifeline) -> None:
    from accounts import rights

    rights.follow()
    _serve(socket, lifeline)


def _loops(socket: Path, lifeline: Lifeline) -> None:
    from orchestrator import loops

    stop = threading.Event()
    loops.start(stop)
    _serve(socket, lifeline, on_stop=stop.set)


def _core(socket: Path, lifeline: Lifeline) -> None:
    """A gateway: enrol, then serve and keep the loops running. Lease, fence and effects are in this one process."""
    from gateway_runtime import current, principals
    from gateway_runtime.enroll import EnrolmentImpossible
    from gateway_runtime.identity import StateFileBroken
    from gateway_runtime.secrets_node import sweep_claims
    from gateway_runtime.supervisor import Supervisor

    node = settings.MAZEVAULT
    prepare(node)
    supervisor = Supervisor()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stop.set())
    try:
        supervisor.enrol()
    except (EnrolmentImpossible, StateFileBroken) as error:
        raise CannotServe(str(error)) from error
    supervisor.hear_first()
    current.supervisor = supervisor
    supervisor.end_claims = sweep_claims
    supervisor.start()
    principals.follow()
    _serve(socket, lifeline, listener=_gateway_listener, on_stop=supervisor.shut_down)


ROLES: dict[str, Callable[[Path, Lifeline], None]] = {
    "prepare": _prepare, "machine": _machine, "people": _people, "loops": _loops, "core": _core,
}  # fmt: skip


def _gateway_listener() -> Listener:
    from gateway_runtime import current
    from gateway_runtime.identity import key_password, tls_files

    node, identity = settings.MAZEVAULT, current.registered().known_identity()
    _, certificate = tls_files(node.own_gateway.state_file, identity, node.master_key)
    return Listener(str(certificate), None, identity.root, key_password(node.master_key))


def _serve(socket: Path, lifeline: Lifeline, *, listener: Callable[[], Listener] | None = None,
           on_stop: Callable[[], None] = lambda: None) -> None:  # fmt: skip
    from orchestrator.wsgi import application

    inner = Inner(socket, application, listener, lifeline)
    ending = _Ending(inner, lifeline, on_stop)
    ending.install()
    lifeline.ready()
    inner.serve()
    ending.finish()
    logging.shutdown()
    os._exit(0)  # threads that wait for something must not hold the end of the process


class _Ending:
    """The first TERM begins what must be done before the end, while requests are still served; the second one ends those too."""

    def __init__(self, inner: Inner, lifeline: Lifeline, hook: Callable[[], None]) -> None:
        self._inner, self._lifeline = inner, lifeline
        self._thread = threading.Thread(target=hook, name="stop-hook", daemon=True)
        self._begun = False

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._handle)

    def finish(self) -> None:
        self._begin()
        self._thread.join(STOP_HOOK_SECONDS)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._lifeline.close()
            self._thread.start()

    def _handle(self, number: int, frame: Any) -> None:
        if self._begun:
            self._inner.stop()
            return
        self._begin()
        timer = threading.Timer(LEAVE_SECONDS, self._inner.stop)
        timer.daemon = True
        timer.start()
