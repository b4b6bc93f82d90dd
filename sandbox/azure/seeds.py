"""Who may do what at the start: each environment's identity with its own vaults, and some of the cast."""

from __future__ import annotations

from sandbox.azure.directory import SUBSCRIPTION, Directory
from sandbox.azure.roles import Access
from sandbox.azure.vaults import Vaults, resource_group

OFFICERS = ("Key Vault Secrets Officer", "Key Vault Certificates Officer")
SEEDS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("mi-mazevault-npr", "kv-mazevault-npr", OFFICERS),
    ("mi-mazevault-npr", "kv-mazevault-we-npr", OFFICERS),
    ("mi-mazevault-npr", "kv-mazevault-gw-npr", ("Key Vault Secrets User", "Key Vault Crypto Service Encryption User")),
    ("mi-mazevault-pro", "kv-mazevault-pro", OFFICERS),
    ("mi-mazevault-pro", "kv-mazevault-we-pro", OFFICERS),
    ("mi-mazevault-pro", "kv-mazevault-gw-pro", ("Key Vault Secrets User", "Key Vault Crypto Service Encryption User")),
    ("ada.admin@bank.example", "kv-mazevault-npr", ("Key Vault Administrator",)),
    ("ada.admin@bank.example", "kv-mazevault-gw-npr", ("Key Vault Administrator",)),
    ("ada.admin@bank.example", "kv-mazevault-gw-pro", ("Key Vault Administrator",)),
    ("ada.admin@bank.example", "kv-mazevault-pro", ("Key Vault Secrets Officer",)),
    ("GRP_MZV_PAYMENTS", "kv-mazevault-npr", ("Key Vault Secrets User",)),
    ("olga.overage@bank.example", "kv-mazevault-pro", ("Key Vault Reader",)),
)
"""Principal, vault, roles. Paul reads NPR through his group, Olga sees names in PRO but no values, Stella has nothing."""
READERS = (("mi-mazevault-npr", "npr"), ("mi-mazevault-pro", "pro"))


def seeded_access(directory: Directory, vaults: Vaults) -> Access:
    """The role assignments at the start; each identity also reads its own resource groups, so that access can be shown."""
    access = Access(directory)
    for principal, name, roles in SEEDS:
        vault = vaults.named(name)
        for role in roles if vault else ():
            access.grant(principal, role, vault.resource_id)  # type: ignore[union-attr]
    for principal, code in READERS:
        for region in ("gwc", "we"):
            access.grant(principal, "Reader", f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{resource_group(code, region)}")
    access.grant("ada.admin@bank.example", "Owner", f"/subscriptions/{SUBSCRIPTION}")
    return access
