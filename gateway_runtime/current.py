"""The supervisor of this process, for the views that report on it. Set once by the command that starts the node."""

from __future__ import annotations

from gateway_runtime.supervisor import Supervisor

supervisor: Supervisor | None = None
