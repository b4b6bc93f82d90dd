"""Routes of this app. `projects/integrations/<id>` and `projects/<id>/integrations` differ by their UUIDs only."""

from common.api import routes
from integrations import api, naming_api

urlpatterns = [
    *routes("projects/<uuid:project>/integrations", api.Integrations.as_view(), "integrations"),
    *routes("projects/integrations/<uuid:identifier>", api.IntegrationOne.as_view(), "integration"),
    *routes("projects/<uuid:project>/sync-rules", api.SyncRules.as_view(), "sync-rules"),
    *routes("projects/sync-rules/<uuid:identifier>", api.SyncRuleOne.as_view(), "sync-rule"),
    *routes("organizations/<uuid:organization>/naming/preview", naming_api.NamingPreview.as_view(), "naming-preview"),
    *routes("organizations/<uuid:organization>/naming/check", naming_api.NamingCheck.as_view(), "naming-check"),
]
