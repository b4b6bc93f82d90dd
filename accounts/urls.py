"""Routes of this app."""

from accounts.api import Login, Logout, Me, MyPermissions, Refresh
from common.api import routes

urlpatterns = [
    *routes("auth/login", Login.as_view(), "login"),
    *routes("auth/logout", Logout.as_view(), "logout"),
    *routes("auth/refresh", Refresh.as_view(), "refresh"),
    *routes("auth/me", Me.as_view(), "me"),
    *routes("auth/me/permissions", MyPermissions.as_view(), "my-permissions"),
]
