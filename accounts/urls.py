"""Routes of this app."""

from accounts.api import Login, Logout, Me, MyPermissions, Refresh
from accounts.sso_api import EntraCallback, EntraCheck, EntraLogin
from common.api import routes

urlpatterns = [
    *routes("auth/login", Login.as_view(), "login"),
    *routes("auth/logout", Logout.as_view(), "logout"),
    *routes("auth/refresh", Refresh.as_view(), "refresh"),
    *routes("auth/sso/entra/login", EntraLogin.as_view(), "entra-login"),
    *routes("auth/sso/entra/callback", EntraCallback.as_view(), "entra-callback"),
    *routes("auth/sso/entra/check", EntraCheck.as_view(), "entra-check"),
    *routes("auth/me", Me.as_view(), "me"),
    *routes("auth/me/permissions", MyPermissions.as_view(), "my-permissions"),
]
