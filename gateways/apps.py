from django.apps import AppConfig


class GatewaysConfig(AppConfig):
    name = "gateways"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from common.sealing import SealedColumn, register_column
        from gateways import identity, write_bodies

        register_column(SealedColumn("gateways.PrimaryKeyPair", "sealed_private_key", identity.place))
        register_column(SealedColumn("gateways.ReceivedWrite", "sealed_body", write_bodies.place))
