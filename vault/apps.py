from django.apps import AppConfig


class VaultConfig(AppConfig):
    name = "vault"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from common import sealing
        from vault import encryption, resting

        sealing.register(encryption)
        for column in resting.COLUMNS:
            sealing.register_column(column)
