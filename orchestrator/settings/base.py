"""What every node shares. Reads nothing but `orchestrator.environment`."""

from __future__ import annotations

from typing import Any

from common.logs import JSON
from common.sessions import with_limits
from orchestrator.environment import Settings, celery_broker
from protocol.envelope import MAX_WIRE_BYTES

PRIMARY_APPS = ["orchestrator", "common", "accounts", "vault", "integrations", "gateways", "failover"]
GATEWAY_APPS = ["orchestrator", "common", "accounts", "vault", "integrations", "gateway_runtime"]


def common_settings(node: Settings, *, apps: list[str], urls: str) -> dict[str, Any]:
    """Django settings for one node with these apps and these routes."""
    return {
        "MAZEVAULT": node,
        "DEBUG": False,
        "SECRET_KEY": node.session_secret,
        "ALLOWED_HOSTS": ["*"],  # a bearer token or a client certificate decides, never the Host header; no URL is built from it
        "INSTALLED_APPS": ["django.contrib.contenttypes", "django.contrib.auth", "rest_framework", "drf_spectacular", *apps],
        "ROOT_URLCONF": urls,
        "WSGI_APPLICATION": "orchestrator.wsgi.application",
        "MIDDLEWARE": ["common.middleware.ErrorShape"],
        "DATABASES": {"default": _database(node)},
        "SILENCED_SYSTEM_CHECKS": ["auth.E003"],  # an address is unique among living accounts, by a constraint of its own
        "AUTH_USER_MODEL": "accounts.User",
        "PASSWORD_HASHERS": ["accounts.passwords.Argon2"],
        "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
        "CACHES": {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": node.redis_url}},
        "USE_TZ": True,
        "TIME_ZONE": "UTC",
        "USE_I18N": False,
        "APPEND_SLASH": False,
        "TEMPLATES": [],
        "DATA_UPLOAD_MAX_MEMORY_SIZE": MAX_WIRE_BYTES,  # the parser sets a lower limit for bodies of the API
        "LOGGING": _logging(node),
        "REST_FRAMEWORK": _rest_framework(),
        "SPECTACULAR_SETTINGS": {
            "TITLE": "MazeVault API",
            "DESCRIPTION": "Control plane for secrets and certificates. Errors are {error, code, details}.\n\n"
            "To try it here: POST /api/v1/auth/login with your address and password answers a `token` (after signing in with "
            "Entra this browser has a session already); put it into Authorize. Programs use POST /api/v1/auth/token with the id "
            "and secret of a service identity, or an API token of POST /api/v1/users/tokens.",
            "VERSION": node.version,
            "OAS_VERSION": "3.1.0",
            "SERVE_INCLUDE_SCHEMA": False,
            "SCHEMA_PATH_PREFIX": "/api/v1",
            "PREPROCESSING_HOOKS": ["orchestrator.openapi.one_form_of_each_path"],
            "POSTPROCESSING_HOOKS": ["drf_spectacular.hooks.postprocess_schema_enums", "orchestrator.openapi.with_errors"],
            "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
            "ENUM_NAME_OVERRIDES": {
                "Storage": "accounts.models.Storage.choices",
                "RunState": "integrations.models.RunState.choices",
                "RotationState": "integrations.models.RotationState.choices",
                "SyncStepState": "integrations.models.StepState.choices",
            },
        },
        "CELERY_BROKER_URL": celery_broker(node.redis_url),
    }


def _database(node: Settings) -> dict[str, Any]:
    database = dict(node.database)
    options = dict(database.pop("OPTIONS"))  # type: ignore[call-overload]
    options["pool"] = {"threads": node.threads}
    options.setdefault("application_name", f"mazevault-{node.mode}")
    return {**database, "ENGINE": "common.postgresql", "OPTIONS": with_limits(options), "CONN_HEALTH_CHECKS": True}


def _logging(node: Settings) -> dict[str, Any]:
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": _line(node)},
        "handlers": {"stream": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stream"], "level": "WARNING"},
        # the pool tells of each try of each connection; `common.outages` tells of the outage
        "loggers": {
            "psycopg.pool": {"level": "ERROR"},
            "mazevault": {"handlers": ["stream"], "level": node.log_level, "propagate": False},
        },
    }


def _line(node: Settings) -> dict[str, Any]:
    if node.log_format != JSON:
        return {"()": "common.logs.OneLine"}
    told = node.gateway
    return {
        "()": "common.logs.JsonLine", "gateway": told.name if told else "", "environment": told.environment if told else "",
    }  # fmt: skip


def _rest_framework() -> dict[str, Any]:
    return {
        "DEFAULT_AUTHENTICATION_CLASSES": ["accounts.authentication.BearerAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["common.permissions.DenyUnlessDeclared"],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "DEFAULT_PARSER_CLASSES": ["common.parsing.StrictJSONParser"],
        "EXCEPTION_HANDLER": "accounts.operations.exception_handler",
        "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
        "UNAUTHENTICATED_USER": None,
        "URL_FORMAT_OVERRIDE": None,  # `format` of a query is the operation's own word or unknown, never the name of a renderer
        "DATETIME_FORMAT": "%Y-%m-%dT%H:%M:%S.%fZ",
    }
