from django.apps import AppConfig


class GatewayRuntimeConfig(AppConfig):
    name = "gateway_runtime"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from common.sealing import SealedColumn, register_column
        from gateway_runtime import personal, queued_bodies

        register_column(SealedColumn("gateway_runtime.PendingWrite", "sealed_body", queued_bodies.place))
        register_column(SealedColumn("gateway_runtime.PersonalTokens", "sealed_tokens", personal.place))
