"""Routes of this app. `projects/integrations/<id>` and `projects/<id>/integrations` differ by their UUIDs only."""

from common.api import routes
from integrations import api

urlpatterns = [
    *routes("projects/<uuid:project>/integrations", api.Integrations.as_view(), "integrations"),
    *routes("projects/integrations/<uuid:identifier>", api.IntegrationOne.as_view(), "integration"),
    *routes("projects/<uuid:project>/sync-rules", api.SyncRules.as_view(), "sync-rules"),
    *routes("projects/sync-rules/<uuid:identifier>", api.SyncRuleOne.as_view(), "sync-rule"),
]
