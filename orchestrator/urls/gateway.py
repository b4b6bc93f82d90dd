"""Routes of a gateway."""

from django.urls import path

from gateway_runtime.api import health, metrics, root

urlpatterns = [
    path("", root),
    path("metrics", metrics),
    path("api/v1/health", health),
    path("api/v1/health/", health),
]

handler400 = "common.api.handler400"
handler403 = "common.api.handler403"
handler404 = "common.api.handler404"
handler500 = "common.api.handler500"
