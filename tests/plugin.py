"""Gives the suite a real PostgreSQL and Valkey: the caller's own by DATABASE_URL and REDIS_URL, else throw-away ones.

Loaded with `-p` so that it comes before pytest-django reads the settings.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from _pytest.nodeid import coerce_node_id
from hypothesis import HealthCheck, settings

from cli.stack import children, databases
from cli.stack.layout import Layout

CALM = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("suite", **CALM, derandomize=True, database=None)
settings.register_profile("searching", **CALM)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))
# How long an example takes is the machine's, not the code's. The suite tries the same examples each time; `searching` looks for
# new ones.


RARELY = (10_000, 20, 20)
"""Thresholds of the garbage collector. The suite makes many objects that die at once, and few circles."""


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests() -> Generator[None, object, object]:
    is_worker = "PYTEST_XDIST_WORKER" in os.environ  # its controller started them and passed their URLs on
    if not is_worker and not (os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL")):
        _start_servers()
    return (yield)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        name_groups(items)


def name_groups(items: list[pytest.Item]) -> None:
    """Write the group of a test behind its name, by which `--dist loadgroup` keeps it on one worker. pytest-xdist 3.8 writes it
    where pytest 9 no longer looks; without it journeys ran on both workers at once, each with a stack of its own."""
    for item in items:
        marker = item.get_closest_marker("xdist_group")
        if marker and "@" not in item.nodeid.rpartition("]")[2]:
            item._id = coerce_node_id(f"{item.nodeid}@{marker.args[0]}")


def pytest_collection_finish() -> None:
    """What was collected stays until the end: the garbage collector need not walk through all of it each time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*RARELY)


def _start_servers() -> None:
    folder = Path(tempfile.mkdtemp(prefix="mazevault-tests-"))
    layout = Layout(var=folder)
    servers = databases.start(layout, os.environ, durable=False)
    os.environ["DATABASE_URL"] = servers.admin_url
    os.environ["REDIS_URL"] = servers.redis_for(0)

    def end() -> None:
        children.stop(servers.children, 5)
        databases.forget(layout)
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
