"""Settings of the Primary, its worker and its beat."""

import os

from orchestrator.environment import load_node
from orchestrator.settings.base import PRIMARY_APPS, common_settings

globals().update(common_settings(load_node(os.environ, mode="primary"), apps=PRIMARY_APPS, urls="orchestrator.urls.primary"))
