"""Routes of this app."""

from accounts import tenancy_api
from accounts.api import Login, Logout, Me, MyPermissions, Refresh
from common.api import routes

urlpatterns = [
    *routes("auth/login", Login.as_view(), "login"),
    *routes("auth/logout", Logout.as_view(), "logout"),
    *routes("auth/refresh", Refresh.as_view(), "refresh"),
    *routes("auth/me", Me.as_view(), "me"),
    *routes("auth/me/permissions", MyPermissions.as_view(), "my-permissions"),
    *routes("organizations", tenancy_api.Organizations.as_view(), "organizations"),
    *routes("organizations/<uuid:identifier>", tenancy_api.OrganizationOne.as_view(), "organization"),
    *routes("organizations/<uuid:organization>/environments", tenancy_api.Environments.as_view(), "environments"),
    *routes(
        "organizations/<uuid:organization>/environments/<uuid:identifier>", tenancy_api.EnvironmentOne.as_view(), "environment"
    ),
    *routes("projects", tenancy_api.Projects.as_view(), "projects"),
    *routes("projects/<uuid:identifier>", tenancy_api.ProjectOne.as_view(), "project"),
    *routes("projects/<uuid:identifier>/settings", tenancy_api.ProjectSettings.as_view(), "project-settings"),
]
