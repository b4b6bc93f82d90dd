"""The pages for operators do what they say: every shell line of them runs against a real stack."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from cli.stack.layout import ROOT
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
