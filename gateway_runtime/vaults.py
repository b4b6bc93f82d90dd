"""The vaults this gateway may touch, opened with its own identity (I13).

Which they are is said where the gateway is deployed. What a task or a rule names is only a wish: another vault is refused here,
whoever asks, and once more by the vault itself, which does not know this identity.
"""

from __future__ import annotations

from dataclasses import replace

from django.conf import settings

from common.errors import PermissionRefused
from integrations.azure.cloud import AuthMethod, Connection
from integrations.azure.credentials import Credential, Credentials
from integrations.azure.egress import Guard, read_vault_url
from integrations.azure.node_cloud import AzureNode
from integrations.azure.node_secrets import own_connection
from protocol.vault_access import VaultAccess


def connection_of(access: VaultAccess) -> Connection:
    """How this gateway reaches the vault: by its own identity, unless the integration has an application's secret.

    Raises `PermissionRefused` for a vault that is not one of this gateway's, `AddressRefused` for what is no vault at all.
    """
    node: AzureNode = settings.MAZEVAULT.azure
    wanted = read_vault_url(access.vault_url, node.cloud).origin
    if wanted not in {read_vault_url(url, node.cloud).origin for url in node.vaults}:
        raise PermissionRefused(
            f"{wanted} is none of this gateway's vaults; they are named in MAZEVAULT_PROJECT_VAULTS", code="VAULT_NOT_ALLOWED"
        )
    way = own_connection(wanted, node)
    if access.auth_method == AuthMethod.CLIENT_SECRET:
        way = Connection(wanted, AuthMethod.CLIENT_SECRET, access.tenant_id, access.client_id, access.client_secret)
    return replace(way, content_type=access.content_type, expires_days=access.expires_days)


def credential_of(connection: Connection) -> Credential:
    return Credentials(connection, settings.MAZEVAULT.azure.cloud).own()


def guard() -> Guard:
    return Guard(settings.MAZEVAULT.azure.cloud)
