"""The template of a Primary's Django processes: everything is imported once, then each of them is a fork of it.

A process that was killed is there again within a tenth of a second, not after two seconds of imports, and all share the memory of
what was imported. The template starts no thread and opens no connection, so a fork takes nothing over that is not its own. It
exists only between fork and fork: when it dies, its children live on.
"""

from __future__ import annotations

import gc
import json
import os
import random
import select
import signal
import socket
import sys
from pathlib import Path

from orchestrator.node.lifeline import PULSE_SECONDS, Lifeline, end_with_parent, set_process_name


def main() -> None:
    """`python -m orchestrator.node.template DIRECTORY LIFELINE`: started by the parent."""
    end_with_parent()
    set_process_name("mv-template")
    lifeline = Lifeline(int(sys.argv[2]))
    if not load(lifeline):
        sys.exit(1)
    gc.collect()
    gc.freeze()  # the collector would otherwise touch, and so copy, every page in every child
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    lifeline.ready()
    _obey(Path(sys.argv[1]), lifeline)


def load(lifeline: Lifeline) -> bool:
    """Import Django and everything a request needs; False when the settings are wrong, with the reason told."""
    from orchestrator.environment import EnvironmentMistake
    from orchestrator.mode import settings_module

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", settings_module(os.environ))
    try:
        from django.urls import get_resolver

        import orchestrator.wsgi  # noqa: F401  sets Django up

        get_resolver().url_patterns  # noqa: B018  imports every view
    except EnvironmentMistake as error:
        lifeline.failed(str(error))
        return False
    return True


def _obey(directory: Path, lifeline: Lifeline) -> None:
    with socket.socket(fileno=os.dup(lifeline.descriptor)) as line:
        while True:
            if not select.select([line], [], [], PULSE_SECONDS)[0]:
                lifeline.alive()
                continue
            order, descriptors, _, _ = socket.recv_fds(line, 4096, 1)
            if not order:
                return
            wish = json.loads(order)
            pid = os.fork()
            if pid == 0:
                _be(wish["name"], wish["role"], directory, descriptors[0], line, lifeline)
            os.close(descriptors[0])
            lifeline.say(f"forked {wish['name']} {pid}")


def _be(name: str, role: str, directory: Path, descriptor: int, line: socket.socket, template: Lifeline) -> None:
    """In the child: never returns."""
    status = 1
    try:
        line.close()
        template.let_go()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        random.seed()
        from orchestrator.node import roles

        status = roles.run(name, role, directory, Lifeline(descriptor))
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
