"""Gives the suite a real PostgreSQL and Valkey: the caller's own by DATABASE_URL and REDIS_URL, else throw-away ones.

Loaded with `-p` so that it comes before pytest-django reads the settings.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from cli.stack import children, databases
from cli.stack.layout import Layout


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests() -> Generator[None, object, object]:
    is_worker = "PYTEST_XDIST_WORKER" in os.environ  # its controller started them and passed their URLs on
    if not is_worker and not (os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL")):
        _start_servers()
    return (yield)


def _start_servers() -> None:
    folder = Path(tempfile.mkdtemp(prefix="mazevault-tests-"))
    servers = databases.start(Layout(var=folder), os.environ, durable=False)
    os.environ["DATABASE_URL"] = servers.admin_url
    os.environ["REDIS_URL"] = servers.redis_for(0)

    def end() -> None:
        children.stop(servers.children, 5)
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
