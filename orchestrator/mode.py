"""Which settings a process runs under. The one place that turns `MAZEVAULT_MODE` into a settings module."""

from collections.abc import Mapping

from orchestrator.variables import cleaned, mode_of


def settings_module(environ: Mapping[str, str]) -> str:
    """`orchestrator.settings.gateway` in gateway mode, else the Primary's. Raises `EnvironmentMistake` for another word."""
    return f"orchestrator.settings.{mode_of(cleaned(environ))}"
