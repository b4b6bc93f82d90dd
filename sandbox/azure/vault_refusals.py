"""Refusals of Key Vault, with the codes and words of Azure, so that a client that tells them apart here does so there.

From these pages under learn.microsoft.com/azure/key-vault, and from answers quoted in public reports where a page has none:

* general/rest-error-codes: 401, 403 by access policy (`AccessDenied`, "does not have secrets get permission"), 429.
* general/rbac-guide and role-based answers: `ForbiddenByRbac`, with action, resource and caller.
* general/network-security and general/private-link-service: `ForbiddenByFirewall`, `ForbiddenByConnection`.
* general/security-features, "application-plus-user": an access policy with an authorized application is answered with
  `ForbiddenByPolicy` and the demand for the on-behalf-of flow (github.com/MicrosoftDocs/azure-docs/issues/67772).
* general/azure-policy: a policy with the effect deny is `ForbiddenByGovernancePolicy`, which names the policy.
* general/key-vault-recovery, general/soft-delete-overview: purge protection (`ForbiddenByPolicy`), and 409 while an object is
  being deleted, recovered or purged (`ObjectIsBeingDeleted` and so on; recorded in github.com/Azure/azure-sdk-for-js).
* general/overview-throttling: 429 with `Retry-After`, whose forms are those of RFC 9110 §10.2.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from sandbox.azure.web import LOST, Answer, Refusal, json_answer
from sandbox.azure.world import World

if TYPE_CHECKING:
    from sandbox.azure.vault_api import Call
    from sandbox.azure.vaults import Version

HELP = "For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125287"
PERMISSIONS = {
    "getSecret": "get", "setSecret": "set", "readMetadata": "list", "update": "set", "delete": "delete", "recover": "recover",
    "purge": "purge",
}  # fmt: skip
"""What an access policy calls the actions of roles."""


class VaultRefusal(Refusal):
    """A refusal in Key Vault's shape; `inner` is the code clients look at."""

    def __init__(self, status: int, code: str, message: str, inner: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.inner, self.headers = status, code, message, inner, headers or {}

    def answer(self) -> Answer:
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.inner:
            error["innererror"] = {"code": self.inner}
        return json_answer({"error": error}, self.status, self.headers)


class Unheard(Refusal):
    """The request is not carried out, and no answer comes: to its sender the same as an answer that was lost."""

    def answer(self) -> Answer:
        return Answer(LOST)


def bad_parameter(message: str) -> VaultRefusal:
    return VaultRefusal(400, "BadParameter", message)


def throttled(world: World) -> VaultRefusal:
    message = "Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached"
    seconds = world.faults.retry_after_seconds
    until = datetime.fromtimestamp(world.now(), UTC) + timedelta(seconds=seconds)
    named = format_datetime(until, usegmt=True) if world.faults.retry_after_as_date else str(seconds)
    return VaultRefusal(429, "Throttled", message, headers={"Retry-After": named})


def unavailable() -> VaultRefusal:
    return VaultRefusal(503, "ServiceUnavailable", "The service is temporarily unavailable. Please retry later.")


def being(ending: str, one: str = "secret") -> VaultRefusal:
    """`ending` is deleted, recovered or purged."""
    message = f"{one.capitalize()} is currently being {ending}."
    return VaultRefusal(409, "Conflict", message, f"ObjectIsBeing{ending.capitalize()}")


def by_network(call: Call) -> None:
    faults, vault = call.world.faults, call.vault
    if vault.name in faults.vault_closed or call.told == "network":
        message = "Public network access is disabled and request is not from a trusted service nor via an approved private link."
        raise _forbidden(call, f"{message}\r\nCaller: {call.caller}", "ForbiddenByConnection")
    if vault.name in faults.vault_firewalled:
        message = "Client address is not authorized and caller is not a trusted service."
        raise _forbidden(
            call, f"{message}\r\nClient address: {call.request.peer}\r\nCaller: {call.caller}", "ForbiddenByFirewall"
        )


def by_access(call: Call) -> None:
    """By role, and by an access policy that asks for the application together with a person."""
    oid, vault, faults = str(call.claims.get("oid", "")), call.vault, call.world.faults
    if vault.name in faults.vault_forbidden or call.told == "rbac" or not call.world.access.allows_data(oid, vault, call.action):
        raise _by_role(call)
    if call.told == "obo" or (vault.name in faults.vault_demands_obo and call.world.directory.user(oid) is None):
        raise VaultRefusal(
            403, "Forbidden",
            f"The policy requires the caller '{call.caller}' to use on-behalf-of (OBO) flow. For more information on OBO, please "
            "see https://go.microsoft.com/fwlink/?linkid=2152310",
            "ForbiddenByPolicy",
        )  # fmt: skip


def by_told_fault(call: Call) -> None:
    """What `vault_fails` says of this action, as far as it is refused before it is carried out."""
    if call.told == "access_policy":
        permission = PERMISSIONS[[word for word in call.action.split("/") if word != "action"][-1]]
        raise VaultRefusal(
            403, "Forbidden",
            f"The user, group or application '{call.caller}' does not have secrets {permission} permission on key vault "
            f"'{call.vault.name};location={call.vault.location}'. {HELP}",
            "AccessDenied",
        )  # fmt: skip
    if call.told == "governance":
        raise disallowed("Secrets should have the specified maximum validity period")
    if call.told == "protected":
        raise protected(call)
    if call.told == "throttled":
        raise throttled(call.world)
    if call.told == "unavailable":
        raise unavailable()
    if call.told == "busy":
        raise being("deleted")
    if call.told == "unheard":
        raise Unheard("nothing was done")


def by_azure_policy(call: Call, version: Version) -> None:
    """A new or changed version of a secret against the policies of its vault."""
    faults, name = call.world.faults, call.vault.name
    if name in faults.vault_demands_expiry and version.exp is None:
        raise disallowed("Key Vault secrets should have an expiration date")
    if name in faults.vault_demands_content_type and not version.content_type:
        raise disallowed("Secrets should have content type set")


def disallowed(policy: str) -> VaultRefusal:
    message = f'The operation was disallowed by policy. Policy identifiers: \'[{{"policyDefinition":"{policy}"}}]\'.'
    return VaultRefusal(403, "Forbidden", message, "ForbiddenByGovernancePolicy")


def protected(call: Call) -> VaultRefusal:
    return _forbidden(
        call,
        'Operation "purge" is not allowed because purge protection is enabled for this vault. Key Vault service will '
        "automatically purge it after the retention period has passed.",
        "ForbiddenByPolicy",
    )


def _by_role(call: Call) -> VaultRefusal:
    return _forbidden(
        call,
        "Caller is not authorized to perform action on resource.\r\n"
        "If role assignments, deny assignments or role definitions were changed recently, please observe propagation time.\r\n"
        f"Caller: {call.caller}\r\nAction: 'Microsoft.KeyVault/vaults/{call.action}'\r\n"
        f"Resource: '{call.vault.resource_id.lower()}{call.request.path}'\r\nAssignment: (not found)\r\n"
        "DenyAssignmentId: null\r\nDecisionReason: null ",
        "ForbiddenByRbac",
    )


def _forbidden(call: Call, message: str, inner: str) -> VaultRefusal:
    return VaultRefusal(403, "Forbidden", f"{message}\r\nVault: {call.vault.name};location={call.vault.location}", inner)
