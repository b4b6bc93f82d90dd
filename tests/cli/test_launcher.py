"""`./mazevault` as a newcomer and as a vandal uses it: processes are real, so is what is killed."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.stack import databases
from cli.stack.layout import ROOT, Layout
from cli.stack.stack import free_port_base
from sandbox.azure.directory import TENANT_ID

pytestmark = pytest.mark.xdist_group("journeys")
CTRL_C_SECONDS = 10.0
LOADED_SECONDS = 60.0
"""For what takes seconds on a machine that does not run the other tests beside it."""


class Home:
    """A data folder and ports of its own, and the command run with them."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.var, self.base = folder, free_port_base()
        kept = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
        self.environ = {**kept, "MAZEVAULT_VAR": str(folder), "MAZEVAULT_PORT_BASE": str(self.base),
                        "MAZEVAULT_TIME_PROFILE": "short", **environ}  # fmt: skip

    def run(self, *arguments: str, seconds: float = 4 * LOADED_SECONDS) -> subprocess.CompletedProcess[str]:
        command = [str(ROOT / "mazevault"), *arguments]
        return subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=seconds, check=False)

    def run_file(self) -> dict[str, Any]:
        return dict(json.loads((self.var / "run.json").read_text()))

    def pids(self) -> list[int]:
        found = self.run_file()
        return [*found["pids"].values(), found["launcher_pid"]]


def gone(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(_lives(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def _kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """In a folder that only we may enter, so that the account that PostgreSQL gets from root may not."""
    private = tmp_path_factory.mktemp("private")
    private.chmod(0o700)
    made = Home(private / "var")
    yield made
    made.run("down")
    databases.forget(Layout(var=made.var))


@pytest.fixture
def home(_kept: Home) -> Home:
    """The data folder and ports of all tests here, whatever runs there now: a first start takes long."""
    return _kept


@pytest.fixture
def running(home: Home) -> Home:
    """The same with everything in it running and healthy."""
    if not (home.var / "run.json").exists() or home.run("status").returncode != 0:
        home.run("down")
        _up(home)
    return home


def _up(home: Home) -> str:
    up = home.run("up", "--detach")
    assert up.returncode == 0, up.stdout + up.stderr
    assert (home.var.parent.stat().st_mode & 0o777) == 0o700, "the parent folder was not opened"
    _until_status(home, 0)
    return up.stdout


def test_the_first_start_says_where_everything_is(home: Home) -> None:
    said = _up(home)
    assert "ready after" in said and "password in" in said
    found = home.run_file()
    assert found["primary_url"] == f"https://localhost:{home.base}"
    assert Path(found["ca_file"]).exists() and Path(found["admin_password_file"]).exists()
    assert [row["name"] for row in found["gateways"]] == ["gw-npr-primary", "gw-npr-dr", "gw-pro-primary", "gw-pro-dr"]
    assert {"primary", "worker", "beat", "postgres", "valkey", "gw-npr-primary", "sandbox"} <= found["pids"].keys()
    _the_sandbox_answers_as_the_primarys_tenant(home, found)
    for secret in (found["admin_password_file"], home.var / "primary" / "master.key", home.var / "run.json"):
        assert Path(secret).stat().st_mode & 0o077 == 0, secret


def test_status_and_logs_of_a_running_stack(running: Home) -> None:
    shown = running.run("status", "-o", "json")
    assert shown.returncode == 0, shown.stdout
    assert json.loads(shown.stdout)["status"] == "healthy"
    assert "gw-pro-dr" in running.run("status").stdout
    assert running.run("status", "-o", "xml").returncode == 1
    wanted = ["Starting MazeVault in gateway mode", "Registering gateway with primary...", "Setting up mTLS...",
              "Gateway registered successfully: ", "Heartbeat loop started"]  # fmt: skip
    lines = running.run("logs", "gw-npr-primary", "-n", "5000").stdout
    places = [lines.index(text) for text in wanted]
    assert places == sorted(places)
    assert running.run("logs", "nobody").returncode == 1


def test_a_second_start_is_refused_and_harms_nothing(running: Home) -> None:
    pids = running.pids()
    again = running.run("up", "--detach")
    assert again.returncode == 1 and "runs already" in again.stderr
    assert running.pids() == pids and not gone(pids, 0.5)


def _the_sandbox_answers_as_the_primarys_tenant(home: Home, found: dict[str, Any]) -> None:
    assert found["sandbox_url"] == f"https://localhost:{home.base + 5}"
    trusted = ssl.create_default_context(cafile=str(home.var / "sandbox" / "ca.crt"))
    url = f"{found['sandbox_url']}/{TENANT_ID}/v2.0/.well-known/openid-configuration"
    assert httpx.get(url, verify=trusted).json()["issuer"] == f"{found['sandbox_url']}/{TENANT_ID}/v2.0"
    assert (home.var / "sandbox" / "client-secret").stat().st_mode & 0o077 == 0
    examined = home.run("doctor", "--as", "ada.admin@bank.example")
    assert examined.returncode == 0, examined.stdout + examined.stderr
    assert "sign-in: as ada.admin@bank.example, role admin" in examined.stdout
    assert "admin out of 3 mappings" in examined.stdout


def test_keys_are_rotated_while_it_runs(running: Home) -> None:
    """First an environment's key, then the master key, the way docs/operations/keys.md says."""
    home = running
    before = json.loads(home.run("keys", "status", "-o", "json").stdout)
    rotated = home.run("keys", "rotate", "--environment", "npr")
    assert rotated.returncode == 0 and "1 old keys are destroyed" in rotated.stdout, rotated.stdout + rotated.stderr
    after = json.loads(home.run("keys", "status", "-o", "json").stdout)
    moved = {new["scope"] for old, new in zip(before["scopes"], after["scopes"], strict=True) if old["key"] != new["key"]}
    assert moved == {"NPR"}

    key = home.var / "primary" / "master.key"
    old = key.read_text()
    key.rename(key.with_name("master.key.previous"))
    for name in ("primary", "worker", "beat"):
        assert home.run("restart", name).returncode == 0
    assert key.read_text() != old, "the launcher made a new one"
    assert json.loads(home.run("keys", "status", "-o", "json").stdout)["wrapped_elsewhere"] == len(after["scopes"])
    assert home.run("keys", "rotate", "--master").returncode == 0
    key.with_name("master.key.previous").unlink()
    assert home.run("restart", "primary").returncode == 0
    found = json.loads(home.run("keys", "status", "-o", "json").stdout)
    assert (found["wrapped_elsewhere"], found["previous_master_key_known"]) == (0, False)
    _until_status(home, 0)
    assert home.run("keys", "rotate").returncode == 1
    assert "there is no node nobody" in home.run("keys", "status", "--node", "nobody").stderr
    assert home.run("keys", "status", "--node", "gw-npr-primary").returncode == 0


def test_status_says_what_is_wrong_and_one_process_is_started_again(running: Home) -> None:
    home = running
    assert home.run("stop", "gw-pro-dr").returncode == 0
    degraded = _until_status(home, 2)
    assert "gw-pro-dr is not running" in degraded
    assert home.run("start", "gw-pro-dr").returncode == 0
    _until_status(home, 0)
    assert home.run("restart", "worker").returncode == 0
    refused = home.run("stop", "nobody")
    assert refused.returncode == 1 and "there is no process nobody" in refused.stderr
    os.kill(home.run_file()["pids"]["primary"], signal.SIGKILL)
    told = _until_status(home, 1)
    assert "the Primary is not running" in told and "./mazevault start primary" in told
    assert home.run("start", "primary").stdout == "primary: started\n"
    status = home.run("status")
    assert "the Primary is not running" not in status.stdout + status.stderr, "start returns when the Primary answers"
    assert status.returncode in (0, 2), status.stderr


def _until_status(home: Home, code: int) -> str:
    deadline = time.monotonic() + LOADED_SECONDS
    while True:
        shown = home.run("status")
        if shown.returncode == code:
            return shown.stdout
        assert time.monotonic() < deadline, shown.stdout
        time.sleep(0.5)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_stack_of_somebody_without_rights_runs_beside_ours(running: Home) -> None:
    as_user = _home_of_nobody()
    try:
        up = as_user.run("up", "--detach")
        assert up.returncode == 0, up.stdout + up.stderr
        _until_status(as_user, 0)
        _until_status(running, 0)
    finally:
        as_user.run("down")
        shutil.rmtree(as_user.var.parent, ignore_errors=True)


def test_a_killed_launcher_leaves_no_process_and_the_next_start_works(running: Home) -> None:
    pids = running.pids()
    os.kill(running.run_file()["launcher_pid"], signal.SIGKILL)
    assert gone(pids, LOADED_SECONDS)
    took = float(_up(running).split("ready after ")[1].split()[0])
    print(f"second start: {took} s")
    assert took < LOADED_SECONDS


def test_down_ends_what_is_left_and_leaves_nothing_behind(running: Home) -> None:
    pids = running.pids()
    for pid in pids[:-1]:
        os.kill(pid, signal.SIGKILL)
    down = running.run("down")
    assert down.returncode == 0, down.stdout + down.stderr
    assert gone(pids, LOADED_SECONDS)
    assert not (running.var / "run.json").exists()
    assert running.run("status").returncode == 1
    assert running.run("down").stdout.strip() == "nothing runs"


def test_ctrl_c_ends_everything_within_ten_seconds_even_a_frozen_child(home: Home) -> None:
    home.run("down")
    process = subprocess.Popen([str(ROOT / "mazevault"), "up"], env=home.environ, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 2 * LOADED_SECONDS
    while not (home.var / "run.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    pids = home.pids()
    os.killpg(home.run_file()["pids"]["gw-npr-dr"], signal.SIGSTOP)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(CTRL_C_SECONDS + 2) == 0
    print(f"Ctrl-C: {time.monotonic() - begun:.1f} s")
    assert time.monotonic() - begun <= CTRL_C_SECONDS
    assert gone(pids, 0.5)


@pytest.mark.parametrize("way", ["Ctrl-C", "down"])
def test_a_wish_to_end_is_heard_while_the_stack_starts(home: Home, way: str) -> None:
    home.run("down")
    command = [str(ROOT / "mazevault"), "up"]
    with subprocess.Popen(command, env=home.environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "waiting until all gateways" in line:
                break
        (gateway,) = [pid for pid in _children(process.pid) if b"GATEWAY_NAME=gw-pro-dr\0" in _environment(pid)]
        os.killpg(gateway, signal.SIGSTOP)  # so the fleet never becomes ready
        pids, begun = _children(process.pid), time.monotonic()
        if way == "Ctrl-C":
            process.send_signal(signal.SIGINT)
        else:
            down = home.run("down")
            assert (down.returncode, down.stdout) == (0, "down\n"), down.stderr
        assert process.wait(CTRL_C_SECONDS + 5) == 0
        print(f"{way} while starting: {time.monotonic() - begun:.1f} s")
    assert gone(pids, 0.5)


def _children(parent: int) -> list[int]:
    """Processes that this one started and that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == parent:
                found.append(int(path.parent.name))
    return found


def _environment(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes()
    return b""


def test_a_taken_port_is_named_with_the_way_out(home: Home) -> None:
    home.run("down")
    with socket.create_server(("127.0.0.1", home.base)):
        up = home.run("up")
    assert up.returncode == 1
    assert f"port {home.base} for primary is taken" in up.stderr and "MAZEVAULT_PORT_BASE" in up.stderr


@pytest.mark.parametrize("text", ["80", "abc", "-1", "70000"])
def test_a_bad_port_base_is_named(tmp_path: Path, text: str) -> None:
    shown = Home(tmp_path, MAZEVAULT_PORT_BASE=text).run("status")
    assert shown.returncode == 1 and "MAZEVAULT_PORT_BASE" in shown.stderr and "Traceback" not in shown.stderr


class _HomeOfNobody(Home):
    def run(self, *arguments: str, seconds: float = 4 * LOADED_SECONDS) -> subprocess.CompletedProcess[str]:
        return _as_nobody([self.environ["PYTHON"], "-m", "cli", *arguments], self.environ, seconds)


def _as_nobody(command: list[str], environ: dict[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
    account = pwd.getpwnam("nobody")
    return subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=seconds, check=False, user=account.pw_uid,
        group=account.pw_gid, extra_groups=[], cwd="/",
    )  # fmt: skip


def _home_of_nobody() -> Home:
    """A private folder of the account nobody, and an interpreter that it can run with the packages installed here."""
    path = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])
    probe = f"import sys, celery, django, redis, typer; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            usable = _as_nobody([python, "-c", probe], {**os.environ, "PYTHONPATH": path}, 30).returncode == 0
        except OSError:
            usable = False
        if usable:
            break
    else:
        pytest.skip("the account nobody can run no Python of this version, or not read the installed packages")
    account = pwd.getpwnam("nobody")
    folder = Path("/var/tmp") / f"mazevault-user-{os.getpid()}"  # noqa: S108  made private below
    folder.mkdir(mode=0o700)
    os.chown(folder, account.pw_uid, account.pw_gid)
    return _HomeOfNobody(folder / "var", HOME=str(folder), PYTHONPATH=path, PYTHON=python)
