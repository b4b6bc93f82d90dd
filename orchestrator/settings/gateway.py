"""Settings of a gateway: its own database, its own routes, none of the Primary's fleet."""

import os

from orchestrator.environment import load_node
from orchestrator.settings.base import GATEWAY_APPS, common_settings

globals().update(common_settings(load_node(os.environ, mode="gateway"), apps=GATEWAY_APPS, urls="orchestrator.urls.gateway"))
REST_FRAMEWORK = {
    **globals()["REST_FRAMEWORK"],
    "DEFAULT_AUTHENTICATION_CLASSES": ["gateway_runtime.principals.GatewayAuthentication"],
}
