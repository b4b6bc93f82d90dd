from django.apps import AppConfig


class OrchestratorConfig(AppConfig):
    """Holds the commands that start and prepare a node; no models."""

    name = "orchestrator"
