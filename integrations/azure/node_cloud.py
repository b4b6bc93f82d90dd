"""The Azure of this node, from its environment variables: one group for the public cloud, sovereign clouds and the sandbox."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from common.environ import Findings, shown
from integrations.azure.cloud import TENANT, Cloud, Network

_DEFAULT = Cloud()


@dataclass(frozen=True)
class AzureNode:
    """What a node brings to Azure: the cloud, its own identity, and the vaults a gateway may touch (I13)."""

    cloud: Cloud = field(default_factory=Cloud)
    vaults: tuple[str, ...] = ()
    own_vault: str = ""
    """Where its operational secrets are (`MAZEVAULT_KEY_VAULT_URL`)."""
    client_id: str = ""
    tenant_id: str = ""
    federated_token_file: Path | None = None


def azure_node(environ: Mapping[str, str]) -> AzureNode:
    """Raises `EnvironmentMistake` with a sentence for each variable that is wrong."""
    found, token_file = Findings(), environ.get("AZURE_FEDERATED_TOKEN_FILE", "").strip()
    tenant_id = environ.get("AZURE_TENANT_ID", "").strip()
    client_id = found.of(_client_id, environ, needed=bool(token_file))
    found.of(_check_id, "AZURE_TENANT_ID", tenant_id, "id of its tenant", needed=bool(token_file))
    cloud = found.of(cloud_from, environ)
    found.refuse()
    return AzureNode(
        cloud=cloud,
        vaults=_listed(environ.get("MAZEVAULT_PROJECT_VAULTS", "")),
        own_vault=environ.get("MAZEVAULT_KEY_VAULT_URL", "").strip(),
        client_id=client_id,
        tenant_id=tenant_id,
        federated_token_file=Path(token_file) if token_file else None,
    )


def _client_id(environ: Mapping[str, str], *, needed: bool) -> str:
    """Of the node's identity. The name that says what it is comes first; with a projected token Kubernetes' own name does, since
    it sets that beside the token."""
    names = ["AZURE_MANAGED_IDENTITY_CLIENT_ID", "AZURE_CLIENT_ID"]
    given = {
        "AZURE_MANAGED_IDENTITY_CLIENT_ID": environ.get("AZURE_MANAGED_IDENTITY_CLIENT_ID", "").strip(),
        "AZURE_CLIENT_ID": environ.get("AZURE_CLIENT_ID", "").strip(),
    }
    for name in names:
        _check_id(name, given[name], "client id of the managed identity", needed=False)
    chosen = next((given[name] for name in (reversed(names) if needed else names) if given[name]), "")
    _check_id("AZURE_CLIENT_ID", chosen, "client id of the managed identity", needed=needed)
    return chosen


def cloud_from(environ: Mapping[str, str]) -> Cloud:
    """The cloud this node talks to. Raises `ValueError` with one sentence that names the variable."""
    bundle = environ.get("AZURE_CA_BUNDLE", "").strip()
    try:
        return Cloud(
            authority_host=_https("ENTRA_AUTHORITY_HOST", environ.get("ENTRA_AUTHORITY_HOST", ""), _DEFAULT.authority_host),
            instance_discovery=_flag("ENTRA_INSTANCE_DISCOVERY", environ.get("ENTRA_INSTANCE_DISCOVERY", "")),
            arm_endpoint=_https("AZURE_ARM_ENDPOINT", environ.get("AZURE_ARM_ENDPOINT", ""), _DEFAULT.arm_endpoint),
            private_networks=_networks(environ.get("AZURE_PRIVATE_NETWORKS", "")),
            sandbox_domain=environ.get("MAZEVAULT_SANDBOX_VAULT_DOMAIN", "").strip().lower(),
            ca_bundle=Path(bundle) if bundle else None,
        )
    except ValueError as error:
        names = {"private_networks": "AZURE_PRIVATE_NETWORKS", "sandbox_domain": "MAZEVAULT_SANDBOX_VAULT_DOMAIN"}
        name, _, sentence = str(error).partition(": ")
        raise ValueError(f"{names.get(name, name)}: {sentence}") from None


def _check_id(name: str, text: str, what: str, *, needed: bool) -> None:
    if (text or needed) and not TENANT.fullmatch(text):
        raise ValueError(f"{name} is {shown(text)}; set it to the {what}, a UUID")


def _https(name: str, text: str, default: str) -> str:
    """An origin: scheme, host and port only, since paths of Azure's are put behind it."""
    given = text.strip().rstrip("/") or default
    try:
        parts = urlsplit(given)
        _ = parts.port
    except ValueError:
        parts = None
    if (
        parts is None
        or parts.scheme != "https"
        or not parts.hostname
        or parts.username
        or parts.path
        or parts.query
        or parts.fragment
    ):
        raise ValueError(f"{name} is {shown(given)}; it must be a URL that begins with https:// and has no path")
    return given


def _flag(name: str, text: str) -> bool:
    said = text.strip().lower() or "true"
    if said not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError(f"{name} is {shown(text)}; set it to true or false")
    return said in ("true", "1", "yes")


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(_network(part) for part in _listed(text))


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        why = "it has host bits set" if "host bits" in str(error) else "it is no network"
        raise ValueError(
            f"AZURE_PRIVATE_NETWORKS: {shown(text)}: {why}; list networks such as 10.20.0.0/16, separated by commas"
        ) from None


def _listed(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
