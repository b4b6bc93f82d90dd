"""Terraform as its users run it: the real program on a copy of our modules, without any provider and without the network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cli.stack.layout import ROOT

MODULES = ROOT / "deploy" / "terraform" / "modules"
SECONDS = 120


class Workspace:
    """A folder with a configuration of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
        self._environ = {**kept, "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1", "NO_COLOR": "1"}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["terraform", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=self._environ, capture_output=True, text=True, timeout=SECONDS, check=False
        )

    def configure(self, configuration: Mapping[str, Any]) -> None:
        (self.folder / "main.tf.json").write_text(json.dumps(configuration))
        done = self.run("init", "-input=false")
        assert done.returncode == 0, done.stderr

    def apply(self) -> dict[str, Any]:
        """The outputs after an apply."""
        done = self.run("apply", "-input=false", "-auto-approve")
        assert done.returncode == 0, done.stderr
        shown = json.loads(self.run("output", "-json").stdout)
        return {name: output["value"] for name, output in shown.items()}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not on this machine")
    return Workspace(tmp_path)
