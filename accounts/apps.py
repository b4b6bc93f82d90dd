from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "accounts"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from accounts import resting
        from common.sealing import register_column

        for column in resting.COLUMNS:
            register_column(column)
