from django.apps import AppConfig


class GatewaysConfig(AppConfig):
    name = "gateways"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from common.sealing import SealedColumn, register_column
        from gateways import identity

        register_column(SealedColumn("gateways.PrimaryKeyPair", "sealed_private_key", identity.place))
