"""What a vault means by 401, 403 and 409: the true cause, and who can do something about it. Pure.

Azure tells refusals apart by an inner code and by words; one inner code stands for several causes, so the words are read as well.
What of them is told on (a permission, an action, the kind of attribute) is taken from a list of known ones.
Sources: "Azure Key Vault REST API error codes" (general/rest-error-codes), "Integrate Azure Key Vault with Azure Policy"
(general/azure-policy), "Azure Key Vault security overview" on compound identities (general/security-features), "Azure Key Vault
recovery management" (general/key-vault-recovery), all under learn.microsoft.com/azure/key-vault.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from integrations.azure.errors import (
    AccessDenied,
    AzureTrouble,
    NameTaken,
    NetworkClosed,
    ObjectBusy,
    ObjectConflict,
    ObjectDisabled,
    OnBehalfOfDemanded,
    PermissionMissing,
    PolicyDenied,
    PurgeProtected,
    RoleMissing,
    TokenTrouble,
)

BUSY_SECONDS = 5.0
"""Azure finishes deletions, recoveries and purges some seconds after it agreed to them, and does not say how many."""
ROLES = {
    "secrets/getSecret": "Key Vault Secrets User",
    "secrets/readMetadata": "Key Vault Secrets User",
    "secrets/": "Key Vault Secrets Officer",
    "certificates/": "Key Vault Certificates Officer",
    "keys/": "Key Vault Crypto Officer",
}
"""The smallest built-in role that allows an action, by how the action begins."""
_NETWORK = {
    "ForbiddenByConnection": "public network access is disabled",
    "ForbiddenByFirewall": "this node's address is not allowed",
}
_DISABLED = ("SecretDisabled", "KeyDisabled", "CertificateDisabled")
_BUSY = ("ObjectIsBeingDeleted", "ObjectIsBeingRecovered", "ObjectIsBeingPurged")
_PERMISSION = re.compile(r"does not have (secrets|keys|certificates) ([a-z]{3,20}) permission", re.IGNORECASE)
_ACTION = re.compile(r"Action: 'Microsoft\.KeyVault/vaults/([A-Za-z/]{1,80})'")
_PRINCIPAL = re.compile(r"\boid=([0-9a-f-]{36})\b")
_ATTRIBUTES: Mapping[str, str] = {
    "content type": "a content type",
    "validity period": "an end that is not too far away",
    "active for longer": "a younger age",
    "expiration date": "an expiry date",
}
"""Words in the names of Azure's built-in policies for secrets, and what each of them demands."""
_TOKEN: Mapping[str, tuple[str, str]] = {
    "AKV10022": ("it is meant for another service", "the vault lies in another cloud than the one this node is set up for"),
    "AKV10032": ("it is of another tenant than the vault's", "set tenant_id to the directory the vault belongs to"),
    "AKV10063": ("it has expired, or is not valid yet", "check the clock of this node"),
}
"""Key Vault's numbers for tokens, in words."""


def of_401(message: str) -> TokenTrouble:
    """A token that the vault does not take. Its own number says which part of it is wrong."""
    number = re.search(r"\bAKV\d{5}\b", message)
    cause, fix = _TOKEN.get(number[0] if number else "", ("", "check tenant_id, and the clock of this node"))
    said = f" ({number[0]})" if number else ""
    return TokenTrouble(f"the vault does not accept the token{': ' if cause else ''}{cause}{said}", fix)


def of_403(inner: str, message: str, what: str) -> AccessDenied:
    """Network, disabled, governance, purge protection, on-behalf-of, access policy, role: in this order, the surest first."""
    if inner in _NETWORK:
        return NetworkClosed(f"the vault's network does not let this node in: {_NETWORK[inner]}",
                             "Networking of the vault: add a private endpoint or this node's address")  # fmt: skip
    if inner in _DISABLED:
        return ObjectDisabled(f"{what} is disabled in the vault", "enable it there, if it shall be used")
    if inner == "ForbiddenByGovernancePolicy":
        return _by_azure_policy(message, what)
    if "purge protection" in message:
        return PurgeProtected(f"{what} cannot be purged: the vault has purge protection", "wait for its retention to end")
    if "on-behalf-of" in message:
        return OnBehalfOfDemanded(
            "an access policy of the vault names this application together with a person, so it is let in only on behalf of one",
            "Access policies of the vault: add the principal without an authorized application, or use auth_method on_behalf_of",
        )
    if inner == "ForbiddenByRbac":
        return _role_missing(message)
    if inner == "AccessDenied" or _PERMISSION.search(message):
        return _permission_missing(message)
    return AccessDenied(
        "the vault denies access and does not say why",
        "find out whether the vault goes by roles (Access control, IAM) or by access policies, and check those of this principal",
    )


def of_409(inner: str, message: str, what: str) -> AzureTrouble:
    """A name that is taken, or taken for the moment."""
    if inner == "ObjectIsDeletedButRecoverable":
        return NameTaken(f"{what} was deleted and its name is taken until it is recovered or purged", "recover it first")
    if inner in _BUSY or re.search(r"currently being (deleted|recovered|purged)", message):
        return ObjectBusy(
            f"{what} is just being deleted, recovered or purged in the vault", "try again in some seconds",
            retry_after=BUSY_SECONDS,
        )  # fmt: skip
    if "certificate" in message.lower():
        return ObjectConflict(
            f"{what} belongs to a certificate of the same name", "choose another key; a certificate also takes a secret's name"
        )
    return ObjectConflict(f"something else holds the name of {what}", "rename one; a certificate also takes a secret's name")


def _by_azure_policy(message: str, what: str) -> PolicyDenied:
    words = message.lower()
    demanded = next((thing for word, thing in _ATTRIBUTES.items() if word in words), "")
    return PolicyDenied(
        f"Azure Policy does not allow {what} as it is: it demands {demanded or 'an attribute that the new version has not'}",
        "set content_type or expires_days in the integration's config, or have the vault exempted from the policy",
    )


def _permission_missing(message: str) -> PermissionMissing:
    found = _PERMISSION.search(message)
    permission = f"{found[1]} {found[2]}".lower() if found else ""
    return PermissionMissing(
        f"no access policy of the vault gives the permission {permission}" if permission else
        "no access policy of the vault allows this",
        f"Access policies of the vault: give the permission{_whom(message)}; roles in IAM have no effect on this vault",
        permission=permission,
    )  # fmt: skip


def _role_missing(message: str) -> RoleMissing:
    found = _ACTION.search(message)
    action = found[1] if found else ""
    role = next((role for beginning, role in ROLES.items() if action.startswith(beginning)), "Key Vault Secrets User")
    return RoleMissing(
        f"no role assignment allows {action or 'this'} on the vault",
        f'Access control (IAM) of the vault: assign "{role}"{_whom(message)}; a new assignment takes up to ten minutes',
        action=action,
    )


def _whom(message: str) -> str:
    principal = _PRINCIPAL.search(message)
    return f" to the principal {principal[1]}" if principal else ""
