"""Settings of the test suite: the apps of both modes on one real PostgreSQL, with fixed keys of no value."""

import base64
import os

from orchestrator.environment import Settings, load
from orchestrator.settings.base import GATEWAY_APPS, PRIMARY_APPS, common_settings

_TEST_ENVIRONMENT = {
    "DATABASE_URL": os.environ.get("DATABASE_URL", "postgresql://mazevault@/mazevault"),
    "REDIS_URL": os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"),
    "MAZEVAULT_MASTER_KEY": base64.b64encode(bytes(range(32))).decode(),
    "MAZEVAULT_SESSION_SECRET": "only-for-tests-" * 4,
    "MAZEVAULT_TIME_PROFILE": "standard",
    "MAZEVAULT_TIME_VAULT_RETRY": "0.01",
}
MAZEVAULT: Settings = load(_TEST_ENVIRONMENT, mode="primary")
globals().update(
    common_settings(
        MAZEVAULT,
        apps=list(dict.fromkeys([*PRIMARY_APPS, *GATEWAY_APPS])),
        urls="orchestrator.urls.primary",
    )
)
DATABASES = globals()["DATABASES"]
DATABASES["default"]["TEST"] = {"NAME": os.environ.get("MAZEVAULT_TEST_DB", "test_mazevault")}
