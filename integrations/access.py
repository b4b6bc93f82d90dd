"""How the vault of an integration is reached: by a gateway with its own identity, by the Primary with an application's secret."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from accounts import sealed_config
from common.errors import Conflict
from integrations import vaults
from integrations.azure.cloud import AuthMethod, Connection
from integrations.models import Integration
from integrations.providers import AZURE_KEY_VAULT
from protocol.vault_access import VaultAccess

OF_THE_GATEWAY = (AuthMethod.MANAGED_IDENTITY, AuthMethod.WORKLOAD_IDENTITY)
"""The calls are made by the identity the gateway itself runs with, whichever of the two that is."""


def vault_access(integration: Integration) -> VaultAccess:
    """What a gateway needs for background work. It acts as itself unless the integration names an application's secret.

    Raises `Conflict` (PROVIDER_WITHOUT_VAULT) for an integration that is no vault.
    """
    config = _config(integration)
    own_secret = config.get("auth_method") == AuthMethod.CLIENT_SECRET
    return VaultAccess(
        integration=str(integration.id),
        vault_url=str(config["vault_url"]),
        vault_id=str(config.get("vault_id") or ""),
        auth_method=AuthMethod.CLIENT_SECRET.value if own_secret else AuthMethod.MANAGED_IDENTITY.value,
        content_type=str(config.get("content_type") or ""),
        expires_days=int(config.get("expires_days") or 0),
        **({name: str(config.get(name) or "") for name in ("tenant_id", "client_id", "client_secret")} if own_secret else {}),
    )


def checked_access(integration: Integration, gateway_environment: str) -> VaultAccess:
    """The way to the vault, for a gateway of this environment only, and for a project that may use the gateway's identity there
    (I13). Raises `Conflict` (VAULT_OF_OTHER_ENVIRONMENT) and `PermissionRefused` (VAULT_NOT_OPEN)."""
    access = vault_access(integration)
    belongs_to = vaults.environment_of(access.vault_url)
    vaults.refuse_foreign(belongs_to, gateway_environment, vaults.origin_of(access.vault_url))
    if access.auth_method != AuthMethod.CLIENT_SECRET:
        vaults.refuse_unless_open(access.vault_url, integration.project_id)
    return access


def storage_access(integration: Integration, gateway_environment: str) -> VaultAccess:
    """The way to the vault of a project's values, by whichever method the integration names (I13)."""
    access, method = checked_access(integration, gateway_environment), method_of(integration)
    if method in OF_THE_GATEWAY:
        return access
    way = connection_of(integration)
    return structs.replace(
        access, auth_method=way.auth_method.value, tenant_id=way.tenant_id, client_id=way.client_id,
        client_secret=way.client_secret,
    )  # fmt: skip


def connection_of(integration: Integration) -> Connection:
    """The integration's own connection, for calls that this node makes itself. Raises `Conflict` for one that is no vault."""
    config = _config(integration)
    tenant_id, client_id, client_secret = (str(config.get(name) or "") for name in ("tenant_id", "client_id", "client_secret"))
    return Connection(
        str(config["vault_url"]), method_of(integration), tenant_id, client_id, client_secret,
        content_type=str(config.get("content_type") or ""), expires_days=int(config.get("expires_days") or 0),
    )  # fmt: skip


def method_of(integration: Integration) -> AuthMethod:
    """Who the calls of a vault's integration are made as; without a word the gateway's managed identity."""
    return AuthMethod(integration.config.get("auth_method") or AuthMethod.MANAGED_IDENTITY)


def _config(integration: Integration) -> dict[str, Any]:
    if integration.provider != AZURE_KEY_VAULT:
        raise Conflict(
            f"the integration {integration.name!r} is of the provider {integration.provider!r}, which is no vault",
            code="PROVIDER_WITHOUT_VAULT",
        )
    return {**integration.config, **sealed_config.secrets_of(integration, integration.sealed_under)}
