"""Terraform as its users run it: the real program on a copy of our folders, without the network and without Azure.

`terraform` is taken from PATH or from the folder that MAZEVAULT_TOOLS names. The azurerm provider is taken from that folder too,
when a `terraform-provider-azurerm_v*` lies there; else one of ours stands in, which knows the schema of the true one and no more.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cli.stack.layout import ROOT

TERRAFORM = ROOT / "deploy" / "terraform"
MODULES = TERRAFORM / "modules"
TESTS = "tftests"
"""Not Terraform's own `tests`: `terraform init` reads that. What ours say is known from 1.11 on, the deployment from 1.5 on."""
TESTS_SINCE = (1, 11)
SECONDS = 240
SCHEMA_VERSION = "5.10.0"  # of azurerm, whose schema deploy/terraform/testing has


def tool(name: str) -> str | None:
    """Where a program is: in the folder that MAZEVAULT_TOOLS names, or on PATH."""
    folder = os.environ.get("MAZEVAULT_TOOLS")
    own = [str(Path(folder)), str(Path(folder) / "bin")] if folder else []
    return shutil.which(name, path=os.pathsep.join([*own, os.environ.get("PATH", "")]))


def terraform_program() -> str:
    found = tool("terraform")
    if found is None:
        pytest.skip("terraform is neither on PATH nor in the folder that MAZEVAULT_TOOLS names")
    return found


class Workspace:
    """A folder with a configuration of its own."""

    def __init__(self, folder: Path, program: str, environ: Mapping[str, str] | None = None) -> None:
        self.folder, self._program = folder, program
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "ARM_"))}
        self._environ = {**kept, "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1", "NO_COLOR": "1", **(environ or {})}

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._program, *arguments], cwd=self.folder, env={**self._environ, **environ}, capture_output=True, text=True,
            timeout=SECONDS, check=False,
        )  # fmt: skip

    def at(self, folder: Path) -> Workspace:
        return Workspace(folder, self._program, self._environ)

    def below(self, folder: str) -> Workspace:
        return self.at(self.folder / folder)

    def version(self) -> tuple[int, ...]:
        return tuple(
            int(part) for part in json.loads(self.run("version", "-json").stdout)["terraform_version"].split("-")[0].split(".")
        )

    def configure(self, configuration: Mapping[str, Any]) -> None:
        (self.folder / "main.tf.json").write_text(json.dumps(configuration))
        self.init()

    def init(self) -> None:
        done = self.run("init", "-input=false", "-backend=false")
        assert done.returncode == 0, done.stderr

    def apply(self) -> dict[str, Any]:
        """The outputs after an apply."""
        done = self.run("apply", "-input=false", "-auto-approve")
        assert done.returncode == 0, done.stderr
        shown = json.loads(self.run("output", "-json").stdout)
        return {name: output["value"] for name, output in shown.items()}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, terraform_program())


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A copy of deploy/terraform that finds a provider for azurerm."""
    program, folder = terraform_program(), tmp_path_factory.mktemp("terraform")
    made = Workspace(folder / "terraform", program, {"TF_CLI_CONFIG_FILE": str(mirror(folder, program))})
    shutil.copytree(TERRAFORM, made.folder, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*", "terraform.tfvars"))
    yield made


def mirror(folder: Path, program: str) -> Path:
    """A folder that Terraform takes the provider from, and the settings that say so."""
    shown = json.loads(
        subprocess.run([program, "version", "-json"], capture_output=True, text=True, check=True, timeout=60).stdout
    )
    version, provider = _provider()
    place = folder / "mirror" / "registry.terraform.io" / "hashicorp" / "azurerm" / version / shown["platform"]
    place.mkdir(parents=True)
    started = place / f"terraform-provider-azurerm_v{version}"
    started.write_text(f'#!/bin/sh\nexec {provider} "$@"\n')
    started.chmod(0o755)
    settings = folder / "terraform.rc"
    settings.write_text(f'provider_installation {{\n  filesystem_mirror {{\n    path = "{folder / "mirror"}"\n  }}\n}}\n')
    return settings


def _provider() -> tuple[str, str]:
    """The version and the command of a provider for azurerm."""
    tools = os.environ.get("MAZEVAULT_TOOLS")
    for found in sorted(Path(tools).glob("**/terraform-provider-azurerm_v*")) if tools else []:
        return found.name.rpartition("_v")[2].partition("_")[0], str(found)
    pytest.importorskip(
        "tf", reason="no provider for azurerm: neither the true one in MAZEVAULT_TOOLS nor the package tf for ours"
    )
    testing = TERRAFORM / "testing"
    return SCHEMA_VERSION, f"{sys.executable} {testing / 'provider.py'} {testing / 'azurerm-schema.json'}"
