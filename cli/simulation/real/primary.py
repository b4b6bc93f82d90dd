"""The throw-away Primary of a run: its own data and ports, an environment for every two gateways, and what its processes take."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psycopg

from cli.stack import databases
from cli.stack.layout import GatewaySpec, Layout, StackError
from cli.stack.stack import PRIMARY, Stack, free_port_base

SECONDS_PER_ENVIRONMENT = 0.1
"""How much longer a start may take for each environment: its authority and its key are made at the first one."""
SLOW_COMMIT_MICROSECONDS = 100_000
"""The longest `commit_delay` that PostgreSQL has."""


class Alone(Layout):
    """A Primary without gateways of the launcher's."""

    @property
    def gateways(self) -> tuple[GatewaySpec, ...]:
        return ()


class SimulatedPrimary(Stack):
    """A stack of one Primary that knows `codes` as environments."""

    codes: tuple[str, ...] = ()

    def environment_of(self, name: str) -> dict[str, str]:
        more = {"MAZEVAULT_GATEWAY_ENVIRONMENTS": ",".join(self.codes), "MAZEVAULT_API_RATE_LIMIT": "10000000"}
        first = {
            "MAZEVAULT_DEFAULT_GATEWAY_ENVIRONMENT": self.codes[0],
            "MAZEVAULT_PRODUCTION_GATEWAY_ENVIRONMENT": self.codes[-1],
        }
        return {**super().environment_of(name), **more, **first}

    def slow_down(self, *, slow: bool) -> None:
        """Every commit waits a tenth of a second, or no longer."""
        assert self._databases is not None  # noqa: S101  it runs
        with psycopg.connect(self._databases.admin_url, autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET commit_delay = {SLOW_COMMIT_MICROSECONDS if slow else 0}")
            connection.execute("ALTER SYSTEM SET commit_siblings = 0")
            connection.execute("SELECT pg_reload_conf()")

    def database_bytes(self) -> int:
        assert self._databases is not None  # noqa: S101  it runs
        with psycopg.connect(self._databases.admin_url, autocommit=True) as connection:
            row = connection.execute("SELECT pg_database_size('mazevault')").fetchone()
        return int(row[0]) if row else 0

    def processes(self) -> dict[str, list[int]]:
        """Living processes by name: those of the Primary one by one, PostgreSQL's together."""
        pids = self.pids()
        found = {_title(pid): [pid] for pid in group_of(pids[PRIMARY])} if PRIMARY in pids else {}
        return {**found, "postgres": with_children(pids["postgres"])} if "postgres" in pids else found


@contextlib.contextmanager
def running(codes: tuple[str, ...], say: Callable[[str], None], environ: Mapping[str, str]) -> Iterator[SimulatedPrimary]:
    """The Primary while the block runs; nothing is left behind. Raises `StackError`."""
    folder = Path(tempfile.mkdtemp(prefix="mazevault-simulate-"))
    layout = Alone(var=folder, port_base=free_port_base(), time_profile=environ.get("MAZEVAULT_TIME_PROFILE") or "standard")
    own = {name: value for name, value in environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    made = SimulatedPrimary(layout, own, say, azure=False)
    made.codes, made.patience = codes, made.patience + SECONDS_PER_ENVIRONMENT * len(codes)
    try:
        made.up()
        yield made
    finally:
        made.down()
        databases.forget(layout)
        shutil.rmtree(folder, ignore_errors=True)


def group_of(leader: int) -> list[int]:
    """The living processes of the group that this process leads."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                if os.getpgid(int(folder.name)) == leader:
                    found.append(int(folder.name))
    return sorted(found)


def with_children(parent: int) -> list[int]:
    """A process and those it started. PostgreSQL's leave its group."""
    found = [parent]
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                if int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent:
                    found.append(int(folder.name))
    return sorted(found)


def cpu_seconds(pids: list[int]) -> float:
    """User and system time so far."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def resident_mb(pids: list[int]) -> float:
    """What they hold in memory, shared pages once (PSS) where the system tells, in MB."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError, ValueError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return round(total / 1000, 1)


def require_linux() -> None:
    """Addresses of its own for each gateway and figures of processes are Linux's. Raises `StackError`."""
    if not Path("/proc/self/stat").exists():
        raise StackError("a real run needs Linux; simulate with --virtual here")


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip().removeprefix("mv-")
    except OSError:
        return str(pid)
