"""The embedded servers after a crash: what a killed PostgreSQL leaves behind stops no start."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from cli.stack import children, databases
from cli.stack.children import Child
from cli.stack.layout import Layout, StackError

pytestmark = pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="only Linux tells working directories")


class Servers:
    """The servers of one data folder, started and killed as often as wanted."""

    def __init__(self, layout: Layout) -> None:
        self._layout, self._started = layout, list[Child]()

    def start(self) -> databases.Databases:
        found = databases.start(self._layout, {}, durable=False)
        self._started += found.children
        return found

    def end(self) -> None:
        children.stop(self._started, 5)
        for child in self._started:
            if child.name == "postgres":
                shutil.rmtree(_data(child), ignore_errors=True)


def _data(postgres: Child) -> Path:
    return Path(postgres.argv[list(postgres.argv).index("-D") + 1])


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(Layout(var=tmp_path / "var"))
    yield made
    made.end()


@pytest.fixture
def killed(servers: Servers) -> Child:
    """PostgreSQL after kill -9, its lock file still there."""
    postgres, valkey = servers.start().children
    assert postgres.pid and valkey.pid
    os.kill(postgres.pid, signal.SIGKILL)
    children.stop([postgres, valkey], 5)
    assert (_data(postgres) / "postmaster.pid").exists()
    return postgres


def test_lock_files_that_name_a_zombie_are_taken_away(servers: Servers, killed: Child) -> None:
    account = killed.account
    lent = {"user": account.uid, "group": account.gid} if account else {}
    with subprocess.Popen(["/bin/true"], **lent) as zombie:  # type: ignore[call-overload]
        while Path(f"/proc/{zombie.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
            time.sleep(0.01)
        for lock in (_data(killed) / name for name in databases.LOCK_FILES):
            lock.write_text("\n".join([str(zombie.pid), *lock.read_text().splitlines()[1:]]) + "\n")
        found = servers.start()
        with psycopg.connect(found.admin_url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_somebody_who_works_in_the_data_folder_is_not_disturbed(
    servers: Servers, killed: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "ABANDONED_SECONDS", 0.3)
    account = killed.account
    lent = {"user": account.uid, "group": account.gid} if account else {}
    other = subprocess.Popen(["/bin/sleep", "60"], cwd=_data(killed), **lent)  # type: ignore[call-overload]
    try:
        with pytest.raises(StackError, match=f"process {other.pid}"):
            servers.start()
        assert (_data(killed) / "postmaster.pid").exists()
    finally:
        other.kill()
        other.wait()


class TestCopies:
    """The gateways' databases are copies of the first one's tables, and each belongs to its own gateway alone."""

    GATEWAYS = ("gw-a", "gw-b", "gw-c")

    def made(self, servers: Servers) -> databases.Databases:
        found = servers.start()
        assert databases.ensure_databases(found, ["gw-a"]) == ["gw_a"]
        with psycopg.connect(found.url_for("gw-a")) as first:
            first.execute("CREATE TABLE kept (id int)")
        assert databases.ensure_databases(found, self.GATEWAYS, "gw-a") == ["gw_b", "gw_c"]
        return found

    def test_each_gateway_makes_tables_in_its_own_and_touches_nobody_elses(self, servers: Servers) -> None:
        found = self.made(servers)
        for name in self.GATEWAYS:
            with psycopg.connect(found.url_for(name)) as own:
                own.execute("ALTER TABLE kept ADD COLUMN more int")
                own.execute("CREATE TABLE later (id int)")
        with (
            psycopg.connect(found.url_for("gw-b"), autocommit=True) as stranger,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            stranger.execute("DROP DATABASE gw_a")

    def test_an_interrupted_start_is_put_right_by_the_next_one(self, servers: Servers) -> None:
        found = self.made(servers)
        with psycopg.connect(found.admin_url, autocommit=True) as admin:
            admin.execute("ALTER DATABASE gw_a OWNER TO gw_b")
            admin.execute("DROP DATABASE gw_c")
            admin.execute("CREATE DATABASE gw_c_being_made TEMPLATE gw_b")
        assert databases.ensure_databases(found, self.GATEWAYS, "gw-a") == ["gw_c"]
        with psycopg.connect(found.admin_url) as admin:
            rows = admin.execute("SELECT datname, pg_get_userbyid(datdba) FROM pg_database WHERE datname LIKE 'gw_%'").fetchall()
        assert sorted(rows) == [("gw_a", "gw_a"), ("gw_b", "gw_b"), ("gw_c", "gw_c")]
