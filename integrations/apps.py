from django.apps import AppConfig


class IntegrationsConfig(AppConfig):
    name = "integrations"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from common.sealing import SealedColumn, register_column
        from integrations import connections, memories

        register_column(SealedColumn("integrations.Integration", "sealed_secrets", connections.place))
        register_column(SealedColumn("integrations.SyncMemory", "sealed_digest_key", memories.place))
