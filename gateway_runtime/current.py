"""The supervisor of this process, for the views that report on it. Set once by the command that starts the node."""

from __future__ import annotations

from common.errors import Unavailable
from gateway_runtime.supervisor import Supervisor

supervisor: Supervisor | None = None


def registered() -> Supervisor:
    """The supervisor of a gateway that is somebody. Raises `Unavailable` before."""
    if supervisor is None or supervisor.identity is None:
        raise Unavailable("this gateway is not registered yet", code="NOT_ACTIVE", retry_after=5)
    return supervisor
