"""Routes of the Primary."""

from django.urls import include, path

from orchestrator.health import primary_health, primary_root
from orchestrator.metrics import primary_metrics
from orchestrator.openapi import openapi_document

urlpatterns = [
    path("", primary_root),
    path("metrics", primary_metrics),
    path("api/v1/health", primary_health),
    path("api/v1/health/", primary_health),
    path("api/v1/openapi.json", openapi_document),
    path("api/v1/", include("accounts.urls")),
    path("api/v1/", include("gateways.urls")),
    path("api/v1/", include("failover.urls")),
]

handler400 = "common.api.handler400"
handler403 = "common.api.handler403"
handler404 = "common.api.handler404"
handler500 = "common.api.handler500"
