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
