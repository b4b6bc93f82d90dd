"""The one tree of what can go wrong with Azure. Each error says cause, fix, owner, and whether trying again helps.

AzureTrouble
  AddressRefused        the address may not be connected to
  Unreachable           no connection; nothing was sent
  TlsRefused            the certificate is not trusted
  TokenTrouble          no token from Entra or the metadata service
    ConsentMissing      an administrator has to agree first
  AccessDenied          a token, but no access: final, never tried again as somebody else
    RoleMissing         no role assignment allows it
      RoleNotInEffect   a role is assigned and has not reached the vault yet
    PermissionMissing   the vault has access policies, and none gives this permission
    OnBehalfOfDemanded  the access policy lets this application in only in the name of a person
    PolicyDenied        Azure Policy demands an attribute of the object that it has not
    NetworkClosed       the vault's firewall or private access
    ObjectDisabled      this one object is switched off
    PurgeProtected      the vault keeps deleted objects
  ObjectMissing         nothing of this name
  NameTaken             the name belongs to a deleted object that can be recovered
    ObjectBusy          it is just being deleted, recovered or purged
  ObjectConflict        something else holds the name
  ValueRefused          the vault does not take this name, value or tag
  Throttled             too many calls; `retry_after` says when
  OutcomeUnknown        a change was sent and no answer came: look before doing it again
  ServiceTrouble        Azure has a problem, or something else answers in its place
"""

from __future__ import annotations

from enum import StrEnum

from common.errors import MazeVaultError
from protocol.tls_faults import TlsFault


class Owner(StrEnum):
    """Who can fix it."""

    OPERATOR = "operator of MazeVault"
    VAULT = "owner of the vault"
    NETWORK = "network team"
    DIRECTORY = "administrator of Entra ID"
    PERSON = "the signed-in person"
    MICROSOFT = "Microsoft"


class AzureTrouble(MazeVaultError):
    """One cause, one fix, one owner. The sentence holds no token, value or answer of Azure's."""

    default_code, default_status = "AZURE_TROUBLE", 502
    owner = Owner.OPERATOR
    retrying_helps = False
    pause_named: float | None = None
    """Seconds until the next try, where Azure named them; `retry_after` is what callers are told in any case."""

    def __init__(
        self, cause: str, fix: str, *, owner: Owner | None = None, code: str | None = None, retry_after: float | None = None
    ) -> None:
        self.cause, self.fix, self.owner = cause, fix, owner or type(self).owner
        super().__init__(cause, code=code, details=f"Fix: {fix}. Owner: {self.owner.value}.", retry_after=retry_after)


class AddressRefused(AzureTrouble):
    default_code, default_status = "ADDRESS_REFUSED", 400


class Unreachable(AzureTrouble):
    default_code, default_status = "AZURE_UNREACHABLE", 503
    owner, retrying_helps = Owner.NETWORK, True


class TlsRefused(AzureTrouble):
    default_code = "AZURE_TLS"


class TokenTrouble(AzureTrouble):
    """`number` is Entra's own, when it gave one."""

    default_code = "AZURE_TOKEN"

    def __init__(
        self, cause: str, fix: str, *, owner: Owner | None = None, number: int | None = None, passing: bool = False,
        retry_after: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(f"{cause} (AADSTS{number})" if number else cause, fix, owner=owner, retry_after=retry_after)
        self.number, self.retrying_helps = number, passing


class ConsentMissing(TokenTrouble):
    default_code, default_status = "AZURE_CONSENT_MISSING", 403
    owner = Owner.DIRECTORY


class AccessDenied(AzureTrouble):
    default_code, default_status = "KEY_VAULT_ACCESS_DENIED", 403
    owner = Owner.VAULT


class RoleMissing(AccessDenied):
    """`action` is what the vault did not allow, as role definitions name it; empty when it was not told."""

    default_code = "KEY_VAULT_ROLE_MISSING"

    def __init__(self, cause: str, fix: str, *, action: str = "") -> None:
        super().__init__(cause, fix)
        self.action = action


class RoleNotInEffect(RoleMissing):
    default_code = "KEY_VAULT_ROLE_NOT_IN_EFFECT"
    retrying_helps = True


class PermissionMissing(AccessDenied):
    """`permission` is what no access policy of the vault gives, in its words (`secrets get`); empty when it was not told."""

    default_code = "KEY_VAULT_PERMISSION_MISSING"

    def __init__(self, cause: str, fix: str, *, permission: str = "") -> None:
        super().__init__(cause, fix)
        self.permission = permission


class OnBehalfOfDemanded(AccessDenied):
    default_code = "KEY_VAULT_ON_BEHALF_OF_DEMANDED"


class PolicyDenied(AccessDenied):
    """A rule of the organization about what lies in vaults, not a right of the caller. The object itself is to blame."""

    default_code = "KEY_VAULT_POLICY_DENIED"


class NetworkClosed(AccessDenied):
    default_code = "KEY_VAULT_NETWORK_CLOSED"
    owner = Owner.NETWORK


class ObjectDisabled(AccessDenied):
    default_code = "KEY_VAULT_OBJECT_DISABLED"


class PurgeProtected(AccessDenied):
    default_code = "KEY_VAULT_PURGE_PROTECTED"


class ObjectMissing(AzureTrouble):
    default_code, default_status = "KEY_VAULT_NOT_FOUND", 404


class NameTaken(AzureTrouble):
    default_code, default_status = "KEY_VAULT_NAME_DELETED", 409


class ObjectBusy(NameTaken):
    """Not there yet: Azure is still deleting, recovering or purging it."""

    default_code, default_status = "KEY_VAULT_OBJECT_BUSY", 503
    owner, retrying_helps = Owner.MICROSOFT, True


class ObjectConflict(AzureTrouble):
    default_code, default_status = "KEY_VAULT_CONFLICT", 409


class ValueRefused(AzureTrouble):
    default_code, default_status = "KEY_VAULT_VALUE_REFUSED", 400


class Throttled(AzureTrouble):
    default_code, default_status = "KEY_VAULT_THROTTLED", 503
    owner, retrying_helps = Owner.MICROSOFT, True


class OutcomeUnknown(AzureTrouble):
    default_code, default_status = "KEY_VAULT_OUTCOME_UNKNOWN", 503
    in_doubt = True
    owner = Owner.NETWORK


class ServiceTrouble(AzureTrouble):
    default_code, default_status = "AZURE_UNAVAILABLE", 503
    owner, retrying_helps = Owner.MICROSOFT, True


_TLS = {
    TlsFault.FOREIGN_ROOT: ("the certificate of {host} is not trusted here", "set AZURE_CA_BUNDLE to a PEM file with its CA"),
    TlsFault.EXPIRED: ("the certificate of {host} has ended, by the clock of this node",
                       "set the clock of this node; if it is right, renew the certificate of what stands before Azure"),
    TlsFault.NOT_YET: ("the certificate of {host} does not count yet, by the clock of this node", "set the clock of this node"),
    TlsFault.OTHER_NAME: ("what answers for {host} shows a certificate of another name",
                          "check DNS, private endpoint and proxy between this node and Azure"),
    TlsFault.NO_TLS: ("what answers for {host} speaks no TLS", "check DNS and proxy between this node and Azure"),
}  # fmt: skip
_BETWEEN = "check what stands between this node and Azure, and that it speaks TLS 1.2 or 1.3"


def tls_told(host: str, fault: TlsFault | None) -> tuple[str, str]:
    """Cause and fix of a handshake that failed."""
    cause, fix = _TLS.get(fault or TlsFault.PROTOCOL, ("the TLS handshake with {host} failed", _BETWEEN))
    return cause.format(host=host), fix
