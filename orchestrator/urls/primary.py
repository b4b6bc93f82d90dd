"""Routes of the Primary."""

from django.urls import include, path

from accounts.urls import root_urlpatterns
from common.api import routes
from gateways.storage_ways import PrimaryWays
from integrations.keeping import VaultKeeper
from orchestrator.health import Live, PrimaryHealth, Ready, primary_root
from orchestrator.landing import landing_page
from orchestrator.metrics import primary_metrics
from orchestrator.openapi import openapi_document
from orchestrator.reference import reference_asset, reference_page
from vault.node import PrimaryNode
from vault.urls import secret_routes

urlpatterns = [
    path("api/v1/", include(secret_routes(PrimaryNode(VaultKeeper(PrimaryWays()))))),  # asked for most, so looked at first
    path("", primary_root, name="root"),
    *routes("ui", landing_page, "ui"),
    *routes("metrics", primary_metrics, "metrics"),
    *routes("api/v1/health", PrimaryHealth.as_view(), "health"),
    *routes("api/v1/health/live", Live.as_view(), "health-live"),
    *routes("api/v1/health/ready", Ready.as_view(), "health-ready"),
    *routes("api/v1/openapi.json", openapi_document, "openapi"),
    *root_urlpatterns,
    *routes("api/v1/docs", reference_page, "docs"),
    *routes("api/v1/docs/<str:name>", reference_asset, "docs-asset"),
    path("api/v1/", include("accounts.urls")),
    path("api/v1/", include("integrations.urls")),
    path("api/v1/", include("gateways.urls")),
    path("api/v1/", include("failover.urls")),
]

handler400 = "common.api.handler400"
handler403 = "common.api.handler403"
handler404 = "common.api.handler404"
handler500 = "common.api.handler500"
