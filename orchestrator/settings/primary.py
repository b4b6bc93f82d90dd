"""Settings of the Primary, its worker and its beat."""

import os

from orchestrator.environment import load
from orchestrator.settings.base import PRIMARY_APPS, common_settings

globals().update(common_settings(load(os.environ, mode="primary"), apps=PRIMARY_APPS, urls="orchestrator.urls.primary"))
