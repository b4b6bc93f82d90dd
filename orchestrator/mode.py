"""Which settings a process runs under. The one place that turns `MAZEVAULT_MODE` into a settings module."""

from collections.abc import Mapping


def settings_module(environ: Mapping[str, str]) -> str:
    """`orchestrator.settings.gateway` in gateway mode, else the Primary's."""
    gateway = environ.get("MAZEVAULT_MODE", "").strip().lower() == "gateway"
    return "orchestrator.settings.gateway" if gateway else "orchestrator.settings.primary"
