"""Bringing the stack up and down, and looking after it. The only owner of its processes."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import socket as sockets
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cli.stack import children, control, databases, readiness, sandbox
from cli.stack.children import Child
from cli.stack.control import Command
from cli.stack.databases import Databases
from cli.stack.layout import ADMIN_EMAIL, ROOT, GatewaySpec, Layout, StackError, child_environment
from cli.stack.primary_client import PrimaryClient, PrimaryError, is_ready
from cli.stack.sandbox import SANDBOX
from common.files import private_folder, write_private

START_SECONDS = 90.0
"""How long one node may take to listen, and the whole fleet to become ready."""
ANSWERS_SECONDS = 45.0
"""How long `start` and `restart` wait for a node to answer; less than whoever asked for it waits for us (`control`)."""
COPIES_SECONDS = 20.0
"""How long `up` waits for the copies of the standbys. Each is complete a few seconds after its gateway has registered; one that
takes longer than this is told."""
PRIMARY = "primary"
BACKGROUND = ("worker", "beat")
TABLES = "tables of the gateways"
"""The child that makes them; it ends before any gateway starts."""

_DONE = {"start": "started", "stop": "stopped", "restart": "restarted"}

Say = Callable[[str], None]


class Interrupted(Exception):
    """Ctrl-C or `down` came while the stack was starting."""


class Stack:
    """One stack: `up`, then `watch` until told to stop, then `down`."""

    patience = START_SECONDS

    def __init__(self, layout: Layout, environ: Mapping[str, str], say: Say, *, durable: bool = True,
                 azure: bool = True, asked: Callable[[], bool] = lambda: False) -> None:  # fmt: skip
        self._asked = asked
        self.layout, self._environ, self._say, self._durable, self._sandbox = layout, environ, say, durable, azure
        self.children: dict[str, Child] = {}
        self._databases: Databases | None = None
        self._commands: queue.Queue[Command] = queue.Queue()
        self._control: sockets.socket | None = None
        self._noted: set[str] = set()
        self._starting = "the stack"

    def up(self) -> None:
        """Start everything and return when the fleet is ready. Raises `StackError`, `PrimaryError`, or `Interrupted` when it was
        asked to end meanwhile; the caller then calls `down`."""
        self._refuse_taken_ports()
        private_folder(self.layout.var)
        self.layout.run_file.unlink(missing_ok=True)
        self._control = control.listen(self.layout, self._commands)
        if self._sandbox:
            self._say(f"starting the Azure sandbox at {self.layout.sandbox_url}")
            self._start(SANDBOX)
        self._say("starting PostgreSQL and Valkey")
        self._databases = databases.start(self.layout, self._environ, durable=self._durable)
        self.children |= {child.name: child for child in self._databases.children}
        databases.ensure_databases(self._databases, ["mazevault"])
        tables = self._begin_gateway_tables(self._databases)
        if self._sandbox:
            self._wait_for_health(SANDBOX, self.layout.sandbox_url)
        for node in self.layout.primaries:  # one after the other: the first one makes the tables and the keys
            self._say(f"starting the {'Primary' if node.name == PRIMARY else node.name} at {node.url}")
            self._start(node.name)
            self._wait_for_health(node.name, node.url)
        for name in BACKGROUND:
            self._start(name)
        self._say("starting the gateways " + ", ".join(spec.name for spec in self.layout.gateways))
        self._end_gateway_tables(self._databases, tables)
        for spec in self.layout.gateways:
            self._start(spec.name)
        self._say("waiting until all gateways are registered and the active ones hold their lease")
        self._wait_until_ready()
        if self._sandbox and not sandbox.own_tenant(self._environ):
            self._map_the_cast()
        self._write_run_file()

    def _begin_gateway_tables(self, found: Databases) -> Child | None:
        """Where a gateway's database is made by us just now, its tables are made beside the start of the Primary, once for all
        gateways. None where there is nothing to make, or the server is the caller's own: there each gateway makes its tables."""
        if len(self.layout.gateways) < 2 or not found.own_cluster:
            return None
        spec = self.layout.gateways[0]
        first = spec.name
        if not databases.ensure_databases(found, [first]):
            return None
        environment = {**self._common_environment(first), **self._gateway_environment(spec, token="")}
        argv = [sys.executable, str(ROOT / "manage.py"), "migrate", "--verbosity=0"]
        made = Child(TABLES, argv, environment, self.layout.logs / f"{first}.log", ROOT)
        made.start()
        self.children[TABLES] = made
        return made

    def _end_gateway_tables(self, found: Databases, made: Child | None) -> None:
        """The other gateways' databases: copies of the first one, while no gateway has used that."""
        if made is not None:
            deadline = time.monotonic() + self.patience
            while made.ended() is None:
                self._refuse_ended(deadline, "the tables of the gateways are not made", [self.children[PRIMARY]])
                time.sleep(0.05)
            del self.children[TABLES]
        is_made = made is not None and made.ended() == "exit status 0"
        names = [spec.name for spec in self.layout.gateways]
        databases.ensure_databases(found, names, names[0] if is_made else "")

    def watch(self, should_stop: Callable[[], bool]) -> None:
        """Carry out commands and tell about processes that end, until told to stop. Ended processes are not restarted."""
        while not should_stop():
            with contextlib.suppress(queue.Empty):
                command = self._commands.get(timeout=0.2)
                if command.verb == "down":
                    command.answer.put("going down")
                    return
                command.answer.put(self._carry_out(command))
            self._note_ended()

    def _heed(self) -> None:
        """While something starts: a wish to end is heard at once, every other one must wait."""
        with contextlib.suppress(queue.Empty):
            while True:
                command = self._commands.get_nowait()
                ending = command.verb == "down"
                command.answer.put("going down" if ending else f"error: {self._starting} is starting; try again when it is ready")
                if ending:
                    raise Interrupted
        if self._asked():
            raise Interrupted

    def down(self) -> None:
        """End everything: gateways give their leases back, then the Primary, then the servers. At most 10 s."""
        self.layout.run_file.unlink(missing_ok=True)
        named = dict(self.children)
        servers = [named.pop(name) for name in ("postgres", "valkey") if name in named]
        primaries = [named.pop(node.name) for node in self.layout.primaries if node.name in named]
        children.stop(named.values(), 4.0)
        children.stop(primaries, 2.0)
        children.stop(servers, 2.0)
        if self._control:
            self._control.close()
            control.socket_path(self.layout).unlink(missing_ok=True)

    def start(self, name: str, more: Mapping[str, str] | None = None) -> None:
        """Start one process again, in the calling thread, with `more` variables in its environment."""
        self._start(name, more)
        self._write_run_file()

    def wait_until_primary_answers(self) -> None:
        """Return when the Primary is healthy. Raises `StackError`."""
        self._wait_for_health(PRIMARY, self.layout.primary_url)

    def stop(self, name: str, seconds: float = 6.0) -> None:
        children.stop([self._child(name)], seconds)
        self._write_run_file()

    def kill(self, name: str) -> None:
        """End a process the hard way, and return when it is gone: until then its port answers and it counts as running."""
        child = self._child(name)
        child.tell(signal.SIGKILL)
        if child.process:
            child.process.wait()

    def freeze(self, name: str) -> None:
        """All processes of one node stand still until `thaw`."""
        self._child(name).tell(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self._child(name).tell(signal.SIGCONT)

    def client(self, url: str = "") -> PrimaryClient:
        """The Primary's API as the administrator, at its first node or at `url`; use it in a `with` block."""
        return PrimaryClient(url or self.layout.primary_url, self.layout.ca_file, ADMIN_EMAIL, self.layout.password_file)

    def pids(self) -> dict[str, int]:
        return {name: child.pid for name, child in self.children.items() if child.pid is not None}

    def attached(self, found: Mapping[str, Any]) -> Stack:
        """The same stack as seen by another process, for what its nodes run with. `found` is what `run.json` holds."""
        own = found["servers"]["postgres"]
        self._databases = Databases(
            [],
            admin_url=own or self._environ.get("DATABASE_URL", ""),
            redis_url=found["servers"]["valkey"] or self._environ.get("REDIS_URL", ""),
            own_cluster=own is not None,
        )
        if not self._databases.admin_url:
            raise StackError("this stack uses a database of your own; set DATABASE_URL as it was set for ./mazevault up")
        return self

    def environment_of(self, name: str) -> dict[str, str]:
        """The variables one node runs with."""
        spec = next((one for one in self.layout.gateways if one.name == name), None)
        more = self._gateway_environment(spec, token=self._bootstrap_token(spec)) if spec else self._primary_environment(name)
        overrides = {k: v for k, v in self._environ.items() if k.startswith("MAZEVAULT_TIME_")}
        return {**self._common_environment(name), **overrides, **more}

    def _common_environment(self, name: str) -> dict[str, str]:
        assert self._databases is not None  # noqa: S101  set by `up` before any node starts
        spec = next((one for one in self.layout.gateways if one.name == name), None)
        node = spec.name if spec else PRIMARY
        return {
            **child_environment(self._environ),
            "DATABASE_URL": self._databases.url_for(spec.name if spec else "mazevault"),
            "REDIS_URL": self._databases.redis_for(self.layout.gateways.index(spec) + 1 if spec else 0),
            "MAZEVAULT_MASTER_KEY_FILE": str(self.layout.secret(node, "master.key")),
            **self._previous_master_key(node),
            "MAZEVAULT_SESSION_SECRET_FILE": str(self.layout.secret(node, "session.secret", 48)),
            "METRICS_TOKEN_FILE": str(self.layout.secret(node, "metrics.token")),
            "MAZEVAULT_TIME_PROFILE": self.layout.time_profile,
            "RUN_MIGRATIONS": "true",
            "LOG_LEVEL": self._environ.get("LOG_LEVEL", "info"),
        }

    def _previous_master_key(self, node: str) -> dict[str, str]:
        """An operator who changes a node's master key moves the old one here until its keys are wrapped anew."""
        path = self.layout.node(node) / "master.key.previous"
        return {"MAZEVAULT_MASTER_KEY_PREVIOUS_FILE": str(path)} if path.exists() else {}

    def _primary_environment(self, name: str) -> dict[str, str]:
        """Of one node of the Primary, or of its worker and beat, which are told what the first node is told."""
        node = next((one for one in self.layout.primaries if one.name == name), self.layout.primaries[0])
        folder = self.layout.node(node.name)
        return {
            "MAZEVAULT_MODE": "primary",
            "MAZEVAULT_LISTEN_ADDR": f"127.0.0.1:{node.port}",
            "MAZEVAULT_BASE_URL": self.layout.primary_url,
            "MAZEVAULT_TLS_CERT_PATH": str(folder / "tls"),
            "MAZEVAULT_CA_FILE": str(self.layout.ca_file),
            "MAZEVAULT_ADMIN_EMAIL": ADMIN_EMAIL,
            "MAZEVAULT_ADMIN_PASSWORD_FILE": str(self.layout.password_file),
            **self._entra_environment(self.layout.primary_url),
        }

    def _entra_environment(self, base_url: str) -> dict[str, str]:
        """Sign-in through the caller's own tenant when they name one, else through the sandbox, else not at all."""
        return sandbox.own_tenant(self._environ) or (sandbox.entra_environment(self.layout, base_url) if self._sandbox else {})

    def _machine_environment(self, code: str) -> dict[str, str]:
        """The managed identity of a gateway's machine: the caller's own machine has it, or the sandbox plays it."""
        local = self._sandbox and not sandbox.own_tenant(self._environ)
        return sandbox.machine_environment(self.layout, code) if local else {}

    def _gateway_environment(self, spec: GatewaySpec, token: str) -> dict[str, str]:
        return {
            "MAZEVAULT_MODE": "gateway",
            "MAZEVAULT_LISTEN_ADDR": f"127.0.0.1:{spec.port}",
            "PRIMARY_BACKEND_URL": ",".join(node.url for node in self.layout.primaries),
            "GATEWAY_NAME": spec.name,
            "MAZEVAULT_GATEWAY_ENVIRONMENT": spec.environment,
            "MAZEVAULT_GATEWAY_ROLE": spec.role,
            "MAZEVAULT_GATEWAY_STATE_FILE": str(self._state_file(spec)),
            **self._entra_environment(spec.url),
            **self._machine_environment(spec.environment),
            "ENTRA_REDIRECT_URI": f"{spec.url}{sandbox.CALLBACK}",
            "GATEWAY_FRONTEND_URL": f"{spec.url}/",
            **({"GATEWAY_BOOTSTRAP_TOKEN": token} if token else {}),
        }

    def _state_file(self, spec: GatewaySpec) -> Path:
        return self.layout.node(spec.name) / "gateway-state.json"

    def _bootstrap_token(self, spec: GatewaySpec) -> str:
        """A fresh one for a gateway that has never registered; an empty text for one that has."""
        if self._state_file(spec).exists():
            return ""
        wish = {"name": spec.name, "environment": spec.environment, "role": spec.role}
        with self.client() as primary:
            token: str = primary.post("gateways/bootstrap", wish)["token"]
        return token

    def _start(self, name: str, more: Mapping[str, str] | None = None) -> None:
        known = self.children.get(name)
        if known is not None and known.pid is not None:
            return
        self._noted.discard(name)
        if known is None or name not in ("postgres", "valkey"):
            self.children[name] = known = self._new_child(name, more or {})
        if name == "postgres":
            databases.wait_for_processes_of_a_killed_server(Path(known.argv[list(known.argv).index("-D") + 1]))
        known.start()

    def _new_child(self, name: str, more: Mapping[str, str]) -> Child:
        log = self.layout.logs / f"{name}.log"
        if name == SANDBOX:
            return Child(name, sandbox.command(self.layout), child_environment(self._environ), log, ROOT)
        python = sys.executable
        celery = [python, "-m", "celery", "-q", "-A", "orchestrator.celery"]  # without banners, which are no lines of a log
        schedule = str(self.layout.node(PRIMARY) / "beat-schedule")
        commands = {
            "worker": [*celery, "worker", "-c", "1", "--loglevel=WARNING", "--without-gossip", "--without-mingle"],
            "beat": [*celery, "beat", "--loglevel=WARNING", "-s", schedule],
        }
        argv = commands.get(name, [python, str(ROOT / "manage.py"), "serve"])
        return Child(name, argv, {**self.environment_of(name), **more}, log, ROOT)

    def _child(self, name: str) -> Child:
        if name not in self.children:
            raise StackError(f"there is no process {name}; there are {', '.join(self.children)}")
        return self.children[name]

    def _carry_out(self, command: Command) -> str:
        if command.verb == "ping":
            return "the stack runs"
        try:
            if command.verb == "environment":
                return json.dumps(self.environment_of(command.name))
            child = self._child(command.name)
            runs = child.pid is not None
            if command.verb == ("start" if runs else "stop"):
                return f"{command.name} {'runs already' if runs else 'is stopped already'}; nothing had to be done"
            if command.verb in ("stop", "restart"):
                children.stop([child], 6.0)
            if command.verb in ("start", "restart"):
                self._start(command.name)
                self._write_run_file()
                self._wait_until_it_answers(command.name)
        except (StackError, PrimaryError) as error:
            return f"error: {error}"
        self._write_run_file()
        before = "" if runs or command.verb == "start" else "; it was not running"
        return f"{command.name}: {_DONE[command.verb]}{before}"

    def _wait_until_it_answers(self, name: str) -> None:
        """Return when a node that was just started is ready; at once for what is no node. Raises `StackError` in one line."""
        urls = {node.name: node.url for node in self.layout.primaries} | {spec.name: spec.url for spec in self.layout.gateways}
        if name not in urls:
            return
        self._starting = name
        try:
            self._wait_for_health(name, urls[name], ANSWERS_SECONDS)
        except StackError as error:
            told = str(error).splitlines()[0].removesuffix(":")
            raise StackError(f"{name} was started, but {told}; see ./mazevault logs {name}") from error

    def _note_ended(self) -> None:
        changed = False
        for name, child in self.children.items():
            how = child.ended()
            if how and name not in self._noted:
                self._noted.add(name)
                self._say(f"{name} has ended ({how}); its log is {child.log}; start it again with: ./mazevault start {name}")
                changed = True
        if changed:
            self._write_run_file()

    def _wait_for_health(self, name: str, url: str, patience: float | None = None) -> None:
        """Wait until a node listens and says that it is ready."""
        port = int(url.rsplit(":", 1)[1])
        deadline = time.monotonic() + (patience or self.patience)
        while True:
            try:
                with sockets.create_connection(("127.0.0.1", port), timeout=1) as found:
                    if found.getsockname() == found.getpeername():  # nobody listens, and we were given this very port
                        raise OSError("connected to itself")
                if name == SANDBOX or is_ready(url, self.layout.ca_file):
                    return
                raise OSError("it is not ready")
            except OSError:
                self._refuse_ended(deadline, f"{name} is not ready on port {port}", [self.children[name]])
                time.sleep(0.1)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.patience
        while True:
            try:
                with self.client() as primary:
                    missing = readiness.missing(primary, self.layout.gateways)
                    while missing:
                        self._refuse_ended(deadline, f"the fleet is not ready: {missing}")
                        time.sleep(0.25)
                        missing = readiness.missing(primary, self.layout.gateways)
                    self._wait_for_copies(primary)
                return
            except PrimaryError as error:
                self._refuse_ended(deadline, str(error))
                time.sleep(0.25)

    def _wait_for_copies(self, primary: PrimaryClient) -> None:
        """Who asks for a plan right after "ready" shall not be told of a copy that is a moment away."""
        deadline = time.monotonic() + COPIES_SECONDS
        while told := readiness.without_copies(primary, self.layout.gateways):
            if time.monotonic() > deadline:
                self._say(f"ready but for this: {told}; ./mazevault status shows how it goes on")
                return
            self._refuse_ended(deadline + 1, told)
            time.sleep(0.25)

    def _map_the_cast(self) -> None:
        """Let the sandbox's App Roles and a group give roles here, unless somebody made mappings already."""
        with self.client() as primary:
            if primary.get("rbac/mappings"):
                return
            roles = {row["name"]: row["id"] for row in primary.get("rbac/roles")}
            for name, role in sandbox.MAPPINGS:
                primary.post("rbac/mappings", {"group_name": name, "role_id": roles[role]})

    def _refuse_ended(self, deadline: float, sentence: str, needed: Iterable[Child] | None = None) -> None:
        self._heed()
        for child in self.children.values() if needed is None else needed:
            how = child.ended()
            if how:
                raise StackError(f"{child.name} has ended ({how}):\n{child.last_lines()}")
        if time.monotonic() > deadline:
            raise StackError(f"{sentence}; the logs are in {self.layout.logs}")

    def _refuse_taken_ports(self) -> None:
        ports = {node.port: node.name for node in self.layout.primaries}
        ports |= {spec.port: spec.name for spec in self.layout.gateways}
        if self._sandbox:
            ports[self.layout.sandbox_port] = SANDBOX
        for port, name in ports.items():
            with sockets.socket(sockets.AF_INET, sockets.SOCK_STREAM) as probe:
                probe.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as error:
                    raise StackError(
                        f"port {port} for {name} is taken; end what listens there (./mazevault down), "
                        "or choose other ports: MAZEVAULT_PORT_BASE=18443"
                    ) from error

    def _write_run_file(self) -> None:
        write_private(self.layout.run_file, json.dumps(self.describe(), indent=2) + "\n")

    def describe(self) -> dict[str, Any]:
        """What `var/run.json` holds."""
        return {
            "primary_url": self.layout.primary_url,
            "primary_urls": [node.url for node in self.layout.primaries],
            "ca_file": str(self.layout.ca_file),
            "admin_email": ADMIN_EMAIL,
            "admin_password_file": str(self.layout.password_file),
            "time_profile": self.layout.time_profile,
            "gateways": [
                {"name": spec.name, "environment": spec.environment, "role": spec.role, "url": spec.url}
                for spec in self.layout.gateways
            ],
            **({"sandbox_url": self.layout.sandbox_url} if self._sandbox else {}),
            "metrics_token_file": str(self.layout.node(PRIMARY) / "metrics.token"),
            "logs": str(self.layout.logs),
            "servers": self._servers(),
            "launcher_pid": os.getpid(),
            "pids": self.pids(),
        }

    def _servers(self) -> dict[str, str | None]:
        """Where our own servers listen (sockets in private folders, no passwords); None for servers of the caller."""
        names = {child.name for child in self._databases.children} if self._databases else set()
        return {
            "postgres": self._databases.admin_url if self._databases and "postgres" in names else None,
            "valkey": self._databases.redis_url if self._databases and "valkey" in names else None,
        }


@contextlib.contextmanager
def throwaway(say: Say = lambda _line: None, *, time_profile: str = "short",
              environ: Mapping[str, str] | None = None, azure: bool = False, primaries: int = 1) -> Iterator[Stack]:  # fmt: skip
    """A stack with its own data and free ports that leaves nothing behind. For demos and journeys."""
    folder = Path(tempfile.mkdtemp(prefix="mazevault-"))
    layout = Layout(var=folder, port_base=free_port_base(), time_profile=time_profile, nodes=primaries)
    own = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    stack = Stack(layout, {**own, **(environ or {})}, say, durable=False, azure=azure)
    try:
        stack.up()
        yield stack
    finally:
        stack.down()
        databases.forget(layout)
        shutil.rmtree(folder, ignore_errors=True)


def free_port_base(count: int = 8) -> int:
    """The first of `count` ports in a row that are free now."""
    for step in range(1200):  # below 32768, where the system takes ports for outgoing connections
        base = 20000 + (os.getpid() + step) % 1200 * 10
        with contextlib.ExitStack() as held:
            try:
                for port in range(base, base + count):
                    probe = held.enter_context(sockets.socket())
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return base
    raise StackError(f"no {count} free ports in a row were found; end some servers, or set MAZEVAULT_PORT_BASE")


def stop_on_signals() -> Callable[[], bool]:
    """From here on INT and TERM set a flag instead of ending the process; returns the question."""
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _frame: asked.append(got))
    return lambda: bool(asked)
