"""Where a stack keeps its files and which ports it listens on."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import write_private

ROOT = Path(__file__).resolve().parents[2]
PRIMARY_PORT, FIRST_GATEWAY_PORT, SANDBOX_PORT = 8443, 9443, 9447
MOST_PRIMARIES = 3
ADMIN_EMAIL = "admin@mazevault.com"


class StackError(Exception):
    """The stack cannot do this; the sentence says why and what to do."""


@dataclass(frozen=True)
class GatewaySpec:
    """One gateway of the seed. `role` is primary or dr-standby."""

    name: str
    environment: str
    role: str
    port: int

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"


@dataclass(frozen=True)
class PrimarySpec:
    """One node of the Primary. All share database, keys and Valkey; each has a port and a server certificate of its own."""

    name: str
    port: int

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"


@dataclass(frozen=True)
class Layout:
    """All paths and ports of one stack, from its data folder and port base."""

    var: Path
    port_base: int | None = None
    time_profile: str = "standard"
    nodes: int = 1
    """How many nodes the Primary has."""

    @property
    def primaries(self) -> tuple[PrimarySpec, ...]:
        """The first one has the name and the port it has alone."""
        second = self.port_base + 6 if self.port_base else PRIMARY_PORT + 1
        others = (PrimarySpec(f"primary-{number + 2}", second + number) for number in range(self.nodes - 1))
        return (PrimarySpec("primary", self.primary_port), *others)

    @property
    def primary_port(self) -> int:
        return self.port_base if self.port_base else PRIMARY_PORT

    @property
    def primary_url(self) -> str:
        return f"https://localhost:{self.primary_port}"

    @property
    def sandbox_port(self) -> int:
        return self.port_base + 5 if self.port_base else SANDBOX_PORT

    @property
    def sandbox_url(self) -> str:
        return f"https://localhost:{self.sandbox_port}"

    @property
    def gateways(self) -> tuple[GatewaySpec, ...]:
        first = self.port_base + 1 if self.port_base else FIRST_GATEWAY_PORT
        fleet = (
            ("gw-npr-primary", "NPR", "primary"),
            ("gw-npr-dr", "NPR", "dr-standby"),
            ("gw-pro-primary", "PRO", "primary"),
            ("gw-pro-dr", "PRO", "dr-standby"),
        )
        return tuple(GatewaySpec(name, code, role, first + index) for index, (name, code, role) in enumerate(fleet))

    @property
    def run_file(self) -> Path:
        return self.var / "run.json"

    @property
    def ca_file(self) -> Path:
        return self.var / "primary" / "ca.crt"

    @property
    def password_file(self) -> Path:
        return self.var / "primary" / "admin-password"

    @property
    def logs(self) -> Path:
        return self.var / "logs"

    def node(self, name: str) -> Path:
        """The private folder of one node."""
        return self.var / name

    def secret(self, node: str, name: str, length: int = 32) -> Path:
        """A file with `length` random bytes in base64, made on first use and readable by its owner only."""
        import base64

        path = self.node(node) / name
        if not path.exists():
            write_private(path, base64.b64encode(secrets.token_bytes(length)).decode())
        return path


def layout_from(environ: Mapping[str, str]) -> Layout:
    """Read MAZEVAULT_VAR, _PORT_BASE, _TIME_PROFILE and _PRIMARIES. Raises `StackError` that names the variable."""
    text = environ.get("MAZEVAULT_PORT_BASE", "")
    if text and (not text.isdecimal() or not 1024 <= int(text) <= 65000):
        raise StackError(f"MAZEVAULT_PORT_BASE is {text!r}; set it to a number from 1024 to 65000")
    return Layout(
        var=Path(environ.get("MAZEVAULT_VAR") or ROOT / "var").absolute(),
        port_base=int(text) if text else None,
        time_profile=environ.get("MAZEVAULT_TIME_PROFILE") or "standard",
        nodes=_nodes(environ.get("MAZEVAULT_PRIMARIES") or "1"),
    )


def _nodes(text: str) -> int:
    if text not in [str(number) for number in range(1, MOST_PRIMARIES + 1)]:
        raise StackError(f"MAZEVAULT_PRIMARIES is {text!r}; set it to a number from 1 to {MOST_PRIMARIES}")
    return int(text)


def read_run_file(layout: Layout) -> dict[str, Any] | None:
    """What the running stack wrote about itself, or None."""
    try:
        found: dict[str, Any] = json.loads(layout.run_file.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment without anything that would configure a node by accident."""
    ours = ("MAZEVAULT_", "GATEWAY_", "PRIMARY_", "ENTRA_", "DJANGO_", "CELERY_", "METRICS_TOKEN", "RUN_MIGRATIONS")
    kept = {name: value for name, value in environ.items() if not name.startswith(ours)}
    kept.pop("DATABASE_URL", None)
    kept.pop("REDIS_URL", None)
    return {**kept, "PYTHONUNBUFFERED": "1", "PATH": environ.get("PATH", os.defpath)}
