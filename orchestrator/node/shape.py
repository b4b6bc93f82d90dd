"""Which processes a node has, and what its front is told. No secret is among it, and nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from common.logs import TEXT
from orchestrator.node.limits import REQUESTS_PER_ADDRESS, UNFINISHED_PER_ADDRESS
from orchestrator.variables import Findings, cleaned, flag, listen_address, log_format, log_level, mode_of, thread_count, whole
from orchestrator.version import VERSION


@dataclass(frozen=True)
class NodeShape:
    """What the parent and the front of a node need to know. No secret is among it."""

    mode: str
    version: str
    listen_host: str
    listen_port: int
    tls_enabled: bool
    threads: int
    processes: int
    """Django processes for people; a gateway has one process for everything."""
    unfinished_per_address: int
    requests_per_address: int
    log_level: str
    log_format: str
    failpoint: str


def node_shape(environ: Mapping[str, str]) -> NodeShape:
    """Read the little that says which processes a node has. Raises `EnvironmentMistake` with all that is wrong of it.

    Without TLS a proxy stands in front and everybody has its address, so nothing is limited by address unless it is said.
    """
    environ, found = cleaned(environ), Findings()
    host, port = found.of(listen_address, environ) or ("", 0)
    secure = found.of(flag, environ, "MAZEVAULT_TLS_ENABLED", default=True)
    shape = NodeShape(
        mode=found.of(mode_of, environ),
        version=environ.get("MAZEVAULT_VERSION") or VERSION,
        listen_host=host,
        listen_port=port,
        tls_enabled=secure,
        threads=found.of(thread_count, environ),
        processes=found.of(whole, environ, "MAZEVAULT_PROCESSES", default=1, low=1, high=64),
        unfinished_per_address=found.of(
            whole,
            environ,
            "MAZEVAULT_UNFINISHED_PER_ADDRESS",
            default=UNFINISHED_PER_ADDRESS if secure else 0,
            low=0,
            high=100_000,
        ),
        requests_per_address=found.of(
            whole, environ, "MAZEVAULT_REQUESTS_PER_ADDRESS", default=REQUESTS_PER_ADDRESS if secure else 0, low=0, high=100_000
        ),
        log_level=found.of(log_level, environ),
        log_format=found.of(log_format, environ),
        failpoint=environ.get("MAZEVAULT_FAILPOINT", ""),
    )
    found.refuse()
    return shape


class FrontPlan(msgspec.Struct, frozen=True):
    """What the parent tells the front."""

    mode: str
    version: str
    host: str
    port: int
    secure: bool
    threads: int
    directory: str
    """Where the sockets of the workers are."""
    processes: list[tuple[str, str]]
    """(name, role) of each worker."""
    log_level: str
    unfinished_per_address: int
    requests_per_address: int
    log_format: str = TEXT
