"""Every command of `manage.py` starts on a Primary and on a gateway, though neither has the other's tables."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(path.stem for path in (ROOT / "orchestrator/management/commands").glob("[!_]*.py"))
PROGRAM = """
import sys, traceback
import django
django.setup()
from django.core.management import load_command_class
for name in sys.argv[1:]:
    try:
        load_command_class("orchestrator", name).create_parser("manage.py", name)
        print("starts:", name)
    except Exception as error:
        print(name, "does not start:", traceback.format_exc(limit=-1))
"""


@pytest.mark.parametrize("mode", ["primary", "gateway"])
def test_every_command_starts_in_both_modes(mode: str) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAZEVAULT_", "DJANGO_", "GATEWAY_"))}
    key = base64.b64encode(os.urandom(32)).decode()
    environ = kept | {
        "MAZEVAULT_MODE": mode, "DJANGO_SETTINGS_MODULE": f"orchestrator.settings.{mode}",
        "DATABASE_URL": "postgresql://nobody@localhost:1/none", "PRIMARY_BACKEND_URL": "https://localhost:1",
        "REDIS_URL": "redis://localhost:1/0", "MAZEVAULT_PUBLIC_URL": "https://localhost:1",
        "MAZEVAULT_MASTER_KEY": key, "MAZEVAULT_SESSION_SECRET": key,
    }  # fmt: skip
    command = [sys.executable, "-c", PROGRAM, *COMMANDS]
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == [f"starts: {name}" for name in COMMANDS], done.stdout + done.stderr
