"""Settings of the Primary, its worker and its beat."""

import os

from orchestrator.environment import load
from orchestrator.settings.base import PRIMARY_APPS, common_settings

globals().update(common_settings(load(os.environ, mode="primary"), apps=PRIMARY_APPS, urls="orchestrator.urls.primary"))
AUTH_USER_MODEL = "accounts.User"
PASSWORD_HASHERS = ["accounts.passwords.Argon2"]
