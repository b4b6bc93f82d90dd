"""What an Azure is to us: where tokens come from, which addresses vaults have, whom TLS trusts. Values, checked when made."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from common.errors import ValidationFailed

VAULT_SUFFIXES = ("vault.azure.net", "vault.azure.cn", "vault.usgovcloudapi.net")
"""The public cloud and the sovereign ones."""
TENANT = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class AuthMethod(StrEnum):
    """Who the calls of an integration are made as."""

    MANAGED_IDENTITY = "managed_identity"
    WORKLOAD_IDENTITY = "workload_identity"
    CLIENT_SECRET = "client_secret"  # noqa: S105 - the name of a method
    ON_BEHALF_OF = "on_behalf_of"


@dataclass(frozen=True)
class Cloud:
    """One group of settings for Azure, sovereign clouds and the local stand-in.

    `private_networks` are where private endpoints of vaults may lie; without them only public addresses are connected to.
    `sandbox_domain` is the domain of local vaults with its port (`vault.localhost:9447`), or empty.
    """

    authority_host: str = "https://login.microsoftonline.com"
    instance_discovery: bool = True
    arm_endpoint: str = "https://management.azure.com"
    vault_suffixes: tuple[str, ...] = VAULT_SUFFIXES
    private_networks: tuple[Network, ...] = ()
    sandbox_domain: str = ""
    ca_bundle: Path | None = None

    def __post_init__(self) -> None:
        for network in self.private_networks:
            if not network.is_private or network.is_loopback or network.is_link_local:
                raise ValueError(f"private_networks: {network} is not a private network; name those of your private endpoints")
        if self.sandbox_domain and not re.fullmatch(r"([a-z0-9-]+\.)*localhost:\d{2,5}", self.sandbox_domain):
            raise ValueError("sandbox_domain: must end in localhost and name a port, as in vault.localhost:9447")

    @property
    def vault_resources(self) -> frozenset[str]:
        """What vaults may ask tokens for."""
        domains = (*self.vault_suffixes, *([self.sandbox_domain] if self.sandbox_domain else []))
        return frozenset(f"https://{domain}" for domain in domains)

    @property
    def arm_is_local(self) -> bool:
        """Whether Resource Manager is the stand-in's; without a stand-in nothing on this machine is connected to."""
        host = urlsplit(self.arm_endpoint).hostname or ""
        return bool(self.sandbox_domain) and (host == "localhost" or host.endswith(".localhost"))

    @property
    def arm_resource(self) -> str:
        """What Resource Manager asks tokens for. A local one stands for the public cloud's."""
        return "https://management.azure.com" if self.arm_is_local else self.arm_endpoint


@dataclass(frozen=True)
class Connection:
    """How one integration reaches one vault. `federated_token_file` is read anew for each token.

    What is set there gets `content_type` where nobody gave it another one, and ends `expires_days` later (0: no end of ours).
    """

    vault_url: str
    auth_method: AuthMethod
    tenant_id: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    federated_token_file: Path | None = None
    content_type: str = ""
    expires_days: int = 0

    def __post_init__(self) -> None:
        for name, needed in _NEEDED[self.auth_method].items():
            if not getattr(self, name):
                raise ValidationFailed(f"{name}: {needed}")
        if self.tenant_id and not TENANT.fullmatch(self.tenant_id):
            raise ValidationFailed("tenant_id: must be the id of an Entra tenant, a UUID")
        if self.client_id and not TENANT.fullmatch(self.client_id):
            raise ValidationFailed("client_id: must be the client id of an app registration or managed identity, a UUID")


_APPLICATION = {
    "tenant_id": "must name the Entra tenant of the app registration",
    "client_id": "must name the app registration",
    "client_secret": "must be set; make one under Certificates & secrets of the app registration",
}
_NEEDED: dict[AuthMethod, dict[str, str]] = {
    AuthMethod.MANAGED_IDENTITY: {},
    AuthMethod.WORKLOAD_IDENTITY: {
        "tenant_id": "must name the Entra tenant of the managed identity",
        "client_id": "must name the managed identity",
        "federated_token_file": "is not known; the pod has no AZURE_FEDERATED_TOKEN_FILE",
    },
    AuthMethod.CLIENT_SECRET: _APPLICATION,
    AuthMethod.ON_BEHALF_OF: _APPLICATION,
}
