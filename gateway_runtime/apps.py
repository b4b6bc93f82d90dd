from django.apps import AppConfig


class GatewayRuntimeConfig(AppConfig):
    name = "gateway_runtime"
    default_auto_field = "django.db.models.BigAutoField"
