"""Routes of a gateway under /gw, beside those of the Primary it talks to."""

from django.urls import include, path

urlpatterns = [path("gw/", include("orchestrator.urls.gateway")), path("", include("orchestrator.urls.primary"))]

handler400 = "common.api.handler400"
handler403 = "common.api.handler403"
handler404 = "common.api.handler404"
handler500 = "common.api.handler500"
