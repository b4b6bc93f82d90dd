"""Routes of a gateway."""

from django.urls import include, path

from accounts.sso_api import EntraLogin
from common.api import routes
from gateway_runtime import sign_in_api, writes_api
from gateway_runtime.api import health, live, metrics, ready, root
from gateway_runtime.secrets_node import GatewayNode
from gateway_runtime.storage_ways import GatewayWays
from integrations.keeping import VaultKeeper
from vault.urls import secret_routes

urlpatterns = [
    path("api/v1/", include(secret_routes(GatewayNode(VaultKeeper(GatewayWays()))))),  # asked for most, so looked at first
    path("", root),
    path("metrics", metrics),
    path("api/v1/health", health),
    path("api/v1/health/", health),
    *routes("api/v1/health/live", live, "health-live"),
    *routes("api/v1/health/ready", ready, "health-ready"),
    *routes("api/v1/writes", writes_api.Writes.as_view(), "queued-writes"),
    *routes("api/v1/writes/<str:identifier>", writes_api.WriteOne.as_view(), "queued-write"),
    *routes("api/v1/auth/login", writes_api.PasswordSignIn.as_view(), "login"),
    *routes("api/v1/auth/token", writes_api.PasswordSignIn.as_view(), "token"),
    *routes("api/v1/auth/sso/entra/login", EntraLogin.as_view(), "entra-login"),
    *routes("api/v1/auth/sso/entra/callback", sign_in_api.EntraCallback.as_view(), "entra-callback"),
    *routes("api/v1/auth/session", sign_in_api.BrowserSession.as_view(), "browser-session"),
    *routes("api/v1/auth/logout", sign_in_api.Logout.as_view(), "logout"),
    *routes("api/v1/auth/me", writes_api.Me.as_view(), "me"),
    *routes("api/v1/auth/me/permissions", writes_api.MyPermissions.as_view(), "my-permissions"),
]

handler400 = "common.api.handler400"
handler403 = "common.api.handler403"
handler404 = "common.api.handler404"
handler500 = "common.api.handler500"
