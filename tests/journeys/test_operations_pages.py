"""The pages for operators do what they say: every shell line of them runs against a real stack."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.stack import children, databases
from cli.stack.layout import ROOT, Layout
from cli.stack.stack import free_port_base
from tests.journeys.conftest import Town

PRINTS = re.compile(r"^(?P<command>.*?)\s+# prints: (?P<expected>.*)$")


def shell_lines(page: Path) -> list[str]:
    """The lines of all sh blocks of a page, in order."""
    return [line for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL) for line in block.splitlines()]


def script_of(page: Path) -> tuple[str, list[str]]:
    """One bash script of a page, and what its marked lines shall print."""
    lines, expected = ["set -u"], []
    for line in shell_lines(page):
        found = PRINTS.match(line)
        if found:
            expected.append(found["expected"])
            lines.append(f'echo "PRINTED: $({found["command"]})"')
        else:
            lines.append(line)
    return "\n".join(lines), expected


@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", ["offline-writes.md", "key-vault.md"])
def test_every_line_of_the_page_works(town: Town, page: str) -> None:
    script, expected = script_of(ROOT / "docs" / "operations" / page)
    layout = town.stack.layout
    environment = {
        **os.environ,
        "PRIMARY_URL": layout.primary_url.removeprefix("https://"),
        "GATEWAY_URL": layout.gateways[0].url.removeprefix("https://"),
        "VAULT_DOMAIN": f"vault.localhost:{layout.sandbox_port}",
        "CA": str(layout.ca_file),
        "PASSWORD_FILE": str(layout.password_file),
        "MAZEVAULT_VAR": str(layout.var),
        "MAZEVAULT_PORT_BASE": str(layout.primary_port),
    }
    with subprocess.Popen(
        ["bash", "-c", script], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        deadline = time.monotonic() + 300
        town.stack.watch(lambda: process.poll() is not None or time.monotonic() > deadline)  # carries out ./mazevault stop, start
        process.kill()
        output = process.stdout.read() if process.stdout else ""
    assert re.findall(r"^PRINTED: (.*)$", output, re.MULTILINE) == expected, output


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[databases.Databases]:
    """A PostgreSQL that keeps what it confirms, as production demands it, and a Valkey."""
    layout = Layout(var=tmp_path / "servers", port_base=free_port_base())
    layout.var.mkdir()
    environ = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    found = databases.start(layout, environ, durable=True)
    try:
        databases.ensure_databases(found, ["mazevault", "gateway"])
        yield found
    finally:
        children.stop(found.children, 5.0)
        databases.forget(layout)


@pytest.mark.timeout(400)
def test_the_production_page_starts_a_node_of_each_kind(servers: databases.Databases, tmp_path: Path) -> None:
    script, expected = script_of(ROOT / "docs" / "operations" / "production.md")
    base = free_port_base()
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "BASE": str(tmp_path / "mazevault"), "PYTHON": sys.executable,
        "PRIMARY_DB": servers.url_for("mazevault"), "GATEWAY_DB": servers.url_for("gateway"), "REDIS": servers.redis_for(0),
        "DOMAIN": "localhost", "PRIMARY_PORT": str(base), "GATEWAY_PORT": str(base + 1),
    }  # fmt: skip
    said = tmp_path / "said"
    with said.open("wb") as stream, subprocess.Popen(
        ["bash", "-c", script], cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:  # fmt: skip
        try:
            process.wait(timeout=330)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    output = said.read_text(errors="replace")
    assert re.findall(r"^PRINTED: (.*)$", output, re.MULTILINE) == expected, output
    written = [path for path in (tmp_path / "mazevault").rglob("*") if path.name != "certs"]
    assert not [path for path in written if path.stat().st_mode & 0o077], "private files are 0600 in folders of 0700"
