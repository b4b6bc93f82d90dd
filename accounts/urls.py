"""Routes of this app under /api/v1, and `root_urlpatterns` for the one path that OAuth clients expect at the root."""

from accounts import api, audit_api, credentials_api, rbac_api, sso_api, tenancy_api
from common.api import routes

ORGANIZATION = "organizations/<uuid:organization>"
USER = "rbac/users/<uuid:identifier>"
SERVICE = "service-identities/<uuid:identifier>"

urlpatterns = [
    *routes("auth/login", api.Login.as_view(), "login"),
    *routes("auth/logout", api.Logout.as_view(), "logout"),
    *routes("auth/refresh", api.Refresh.as_view(), "refresh"),
    *routes("auth/password", api.Password.as_view(), "password"),
    *routes("auth/session", api.BrowserSession.as_view(), "browser-session"),
    *routes("auth/sessions", api.Sessions.as_view(), "sessions"),
    *routes("auth/sessions/<uuid:identifier>", api.SessionOne.as_view(), "session"),
    *routes("auth/token", credentials_api.ServiceToken.as_view(), "service-token"),
    *routes("auth/sso/entra/login", sso_api.EntraLogin.as_view(), "entra-login"),
    *routes("auth/sso/entra/callback", sso_api.EntraCallback.as_view(), "entra-callback"),
    *routes("auth/sso/entra/check", sso_api.EntraCheck.as_view(), "entra-check"),
    *routes("auth/me", api.Me.as_view(), "me"),
    *routes("auth/me/permissions", api.MyPermissions.as_view(), "my-permissions"),
    *routes("users/tokens", credentials_api.Tokens.as_view(), "api-tokens"),
    *routes("users/tokens/<uuid:identifier>", credentials_api.TokenOne.as_view(), "api-token"),
    *routes("service-identities", credentials_api.Services.as_view(), "service-identities"),
    *routes(SERVICE, credentials_api.ServiceOne.as_view(), "service-identity"),
    *routes(f"{SERVICE}/secret", credentials_api.ServiceSecret.as_view(), "service-identity-secret"),
    *routes(f"{SERVICE}/roles", rbac_api.ServiceRoles.as_view(), "service-identity-roles"),
    *routes(f"{SERVICE}/roles/<uuid:assignment>", rbac_api.ServiceRoleOne.as_view(), "service-identity-role"),
    *routes("organizations", tenancy_api.Organizations.as_view(), "organizations"),
    *routes("organizations/<uuid:identifier>", tenancy_api.OrganizationOne.as_view(), "organization"),
    *routes(f"{ORGANIZATION}/environments", tenancy_api.Environments.as_view(), "environments"),
    *routes(f"{ORGANIZATION}/environments/<uuid:identifier>", tenancy_api.EnvironmentOne.as_view(), "environment"),
    *routes(f"{ORGANIZATION}/config-templates", tenancy_api.Templates.as_view(), "config-templates"),
    *routes(f"{ORGANIZATION}/config-templates/<uuid:identifier>", tenancy_api.TemplateOne.as_view(), "config-template"),
    *routes("projects", tenancy_api.Projects.as_view(), "projects"),
    *routes("projects/<uuid:identifier>", tenancy_api.ProjectOne.as_view(), "project"),
    *routes("projects/<uuid:identifier>/settings", tenancy_api.ProjectSettings.as_view(), "project-settings"),
    *routes("projects/<uuid:identifier>/audit-logs", audit_api.ProjectAuditLogs.as_view(), "project-audit-logs"),
    *routes("audit-logs", audit_api.AuditLogs.as_view(), "audit-logs"),
    *routes("audit-logs/search", audit_api.AuditSearch.as_view(), "audit-search"),
    *routes("rbac/users", rbac_api.Users.as_view(), "users"),
    *routes(USER, rbac_api.UserOne.as_view(), "user"),
    *routes(f"{USER}/disable", rbac_api.UserDisable.as_view(), "user-disable"),
    *routes(f"{USER}/enable", rbac_api.UserEnable.as_view(), "user-enable"),
    *routes(f"{USER}/entra", sso_api.GiveToEntra.as_view(), "user-entra"),
    *routes(f"{USER}/reset", rbac_api.UserReset.as_view(), "user-reset"),
    *routes(f"{USER}/effective-permissions", rbac_api.EffectivePermissions.as_view(), "effective-permissions"),
    *routes(f"{USER}/roles", rbac_api.UserRoles.as_view(), "user-roles"),
    *routes(f"{USER}/roles/<uuid:assignment>", rbac_api.UserRoleOne.as_view(), "user-role"),
    *routes("rbac/roles", rbac_api.Roles.as_view(), "roles"),
    *routes("rbac/roles/<uuid:identifier>", rbac_api.RoleOne.as_view(), "role"),
    *routes("rbac/mappings", rbac_api.Mappings.as_view(), "mappings"),
    *routes("rbac/mappings/<uuid:identifier>", rbac_api.MappingOne.as_view(), "mapping"),
    *routes("identity-providers", rbac_api.Providers.as_view(), "identity-providers"),
    *routes("identity-providers/<uuid:identifier>", rbac_api.ProviderOne.as_view(), "identity-provider"),
]
root_urlpatterns = routes("oauth/token", credentials_api.OAuthToken.as_view(), "oauth-token")
