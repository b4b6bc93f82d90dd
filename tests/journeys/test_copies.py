"""A gateway's machine is copied, or its database put back, with real processes: one writer, and both are named (I1, I2)."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from cli.stack import children
from cli.stack.children import Child
from cli.stack.layout import ROOT, GatewaySpec
from cli.stack.observer import Observer
from cli.stack.stack import free_port_base
from tests.journeys.conftest import Town

SHORT_LEASE = 5.35
"""Lease and drift of the short times, in seconds."""


class Machine:
    """The machine of one gateway, whose disk and database can be copied."""

    def __init__(self, town: Town, name: str, folder: Path) -> None:
        self.town, self.name, self.folder = town, name, folder
        self.spec = next(one for one in town.stack.layout.gateways if one.name == name)
        self.url = town.stack.environment_of(name)["DATABASE_URL"]

    def sql(self, *statements: sql.Composed | sql.SQL) -> None:
        databases = self.town.stack._databases
        assert databases is not None
        with psycopg.connect(databases.admin_url, autocommit=True) as admin:
            for one in statements:
                admin.execute(one)

    def copy_database(self, there: str, source: str = "") -> None:
        """Its database under another name; nobody may be connected to either."""
        own = urlsplit(self.url).path.lstrip("/")
        self.sql(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(there)),
            sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(
                sql.Identifier(there), sql.Identifier(source or own), sql.Identifier(own)
            ),
        )

    def copied(self) -> tuple[Child, GatewaySpec]:
        """A copy of it as it is now, off. The machine itself is stopped for the moment and runs again."""
        self.town.stack.stop(self.name)
        self.copy_database("copied")
        shutil.copytree(self.town.stack.layout.node(self.name), self.folder / self.name, dirs_exist_ok=True)
        self.town.stack.start(self.name)
        port = free_port_base()
        environment = {
            **self.town.stack.environment_of(self.name),
            "DATABASE_URL": self.url.replace(f"/{urlsplit(self.url).path.lstrip('/')}?", "/copied?"),
            "MAZEVAULT_LISTEN_ADDR": f"127.0.0.1:{port}",
            "MAZEVAULT_GATEWAY_STATE_FILE": str(self.folder / self.name / "gateway-state.json"),
        }
        argv = [sys.executable, str(ROOT / "manage.py"), "serve"]
        child = Child("copy", argv, environment, self.town.stack.layout.logs / "copy.log", ROOT)
        return child, replace(self.spec, name="copy", port=port)


@pytest.fixture
def machine(town: Town, tmp_path: Path) -> Iterator[Callable[[str], Machine]]:
    yield lambda name: Machine(town, name, tmp_path)
    for gateway in town.primary.get("gateways"):
        if gateway["held_at"]:
            town.primary.post(f"gateways/{gateway['id']}/release", {"reason": "the journey is over"})
            town.stack.stop(gateway["name"])  # go_home starts it: nothing is left of a quarantine


def why(town: Town, name: str) -> str:
    return " | ".join(town.health(name)["why"])


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", ["gw-npr-primary", pytest.param("gw-npr-dr", marks=pytest.mark.long)])
def test_a_copy_never_serves_and_both_are_named(town: Town, machine: Callable[[str], Machine], name: str) -> None:
    here = machine(name)
    copy, there = here.copied()
    town.wait_for("the original to speak", lambda: town.health(name)["health"] == "healthy")
    if name == "gw-npr-primary":
        town.wait_for_a_lease()
    specs = [one for one in town.stack.layout.gateways if one.environment == "NPR"]
    try:
        with Observer(town.stack.layout, [*specs, there]) as observer:
            copy.start()
            town.wait_for("both to be named", lambda: "two machines use this identity" in why(town, name))
            children.stop([copy], 6.0)  # its next process begins with numbers that nobody used
            copy.start()
            time.sleep(2 * SHORT_LEASE)
        assert not [one for one in observer.sightings if one.name == "copy" and one.serving]
        assert observer.two_at_once() == []
        assert any(one.name == "copy" for one in observer.sightings)
    finally:
        children.stop([copy], 6.0)
    told = why(town, name)
    assert told.startswith("quarantined: ") or "| quarantined: " in told
    assert told.count("instance ") >= 2 and told.count("127.0.0.1") >= 2


@pytest.mark.timeout(180)
def test_a_database_that_was_put_back_serves_again_at_once(town: Town, machine: Callable[[str], Machine]) -> None:
    name = "gw-npr-primary"
    here = machine(name)
    town.stack.stop(name)
    here.copy_database("earlier")
    town.stack.start(name)
    town.wait_for_a_lease()
    town.wait_for("a heartbeat", lambda: town.health(name)["health"] == "healthy")
    town.stack.stop(name)
    own = urlsplit(here.url).path.lstrip("/")
    here.copy_database(own, "earlier")
    with Observer(town.stack.layout, [here.spec]) as observer:
        town.stack.start(name)
        observer.wait_until_serving(name, 90, time.monotonic())
    assert "put back to an earlier state" in why(town, name) and "quarantined" not in why(town, name)
    log = (town.stack.layout.logs / f"{name}.log").read_text()
    assert log.count("its database was put back to an earlier state, or another machine uses its identity") >= 1
    assert "REPLAYED" not in log
