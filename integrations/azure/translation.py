"""From the vendor's errors to ours. One call, one deadline, one attempt; what Azure said in words goes no further."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from azure.core.exceptions import AzureError, HttpResponseError, ServiceRequestError

from integrations.azure import denials
from integrations.azure.credentials import TokenRefused
from integrations.azure.egress import Deadline, Session
from integrations.azure.errors import (
    AccessDenied,
    AzureTrouble,
    NameTaken,
    NetworkClosed,
    ObjectBusy,
    ObjectConflict,
    ObjectDisabled,
    ObjectMissing,
    OutcomeUnknown,
    PurgeProtected,
    RoleMissing,
    ServiceTrouble,
    Throttled,
    TlsRefused,
    TokenTrouble,
    Unreachable,
    ValueRefused,
)

LIMITS = (
    "see Azure's limits: names of 1 to 127 letters, digits and hyphens, values up to 25 kB, at most 15 tags of 256 characters"
)
RETRY_SECONDS = 5.0
"""For a throttling answer that names no time."""
ROLES = {
    "secrets/getSecret": "Key Vault Secrets User",
    "secrets/readMetadata": "Key Vault Secrets User",
    "secrets/": "Key Vault Secrets Officer",
    "certificates/": "Key Vault Certificates Officer",
    "keys/": "Key Vault Crypto Officer",
}
"""The smallest built-in role that allows an action, by how the action begins."""
MAYBE_DONE = (408, 500, 502, 504)


@contextmanager
def one_call(session: Session, seconds: float, what: str, *, effect: bool = False) -> Iterator[Deadline]:
    """Run one call of a vendor's client. Raises `AzureTrouble` and nothing of the vendor's.

    `what` names the object for people. An `effect` that was sent and not answered raises `OutcomeUnknown`.
    """
    with session.within(seconds) as deadline:
        try:
            yield deadline
        except TokenRefused as refused:
            raise refused.trouble from None
        except HttpResponseError as error:
            raise of_response(error, what, effect=effect) from None
        except AzureTrouble as trouble:
            if effect and deadline.sent:
                raise _unknown(what) from trouble
            raise
        except (AzureError, requests.RequestException, OSError) as error:
            raise _of_silence(error, deadline, session, what, effect=effect) from None
        except (ValueError, KeyError, TypeError, AttributeError):  # an answer that is no answer of Azure's
            if effect and deadline.sent:
                raise _unknown(what) from None
            raise _unreadable() from None


def of_response(error: HttpResponseError, what: str, *, effect: bool = False) -> AzureTrouble:
    """The meaning of an answer with an error status."""
    status, inner, message = error.status_code or 0, _inner_code(error), str(error.message or "")
    if status == 403:
        denied = _denied(inner, message, what)
        denials.count(denied.code)
        return denied
    if status == 401:
        return TokenTrouble("the vault does not accept the token", "check tenant_id, and the clock of this node")
    if status == 404:
        return ObjectMissing(f"{what} is not in the vault", "check its name; it may have been deleted")
    if status == 409:
        return _conflict(inner, what)
    if status == 429:
        return Throttled(
            "the vault is called too often", "wait; if it stays, spread the schedules", retry_after=_retry_after(error)
        )
    if effect and status in MAYBE_DONE:
        return _unknown(what)
    if 400 <= status < 500:
        return ValueRefused(f"the vault does not take {what} as it is", LIMITS)
    return ServiceTrouble(f"Azure answers with status {status}", "try again in a minute", retry_after=_retry_after(error))


def _denied(inner: str, message: str, what: str) -> AccessDenied:
    if inner in ("ForbiddenByConnection", "ForbiddenByFirewall"):
        closed = "public network access is disabled" if inner == "ForbiddenByConnection" else "this node's address is not allowed"
        return NetworkClosed(f"the vault's network does not let this node in: {closed}",
                             "Networking of the vault: add a private endpoint or this node's address")  # fmt: skip
    if inner in ("SecretDisabled", "KeyDisabled", "CertificateDisabled"):
        return ObjectDisabled(f"{what} is disabled in the vault", "enable it there, if it shall be used")
    if inner == "ForbiddenByPolicy" or "purge protection" in message:
        return PurgeProtected(f"{what} cannot be purged: the vault has purge protection", "wait for its retention to end")
    if inner == "ForbiddenByRbac":
        return _role_missing(message)
    return AccessDenied("the vault denies access", "Access control (IAM) of the vault: check the roles of this principal")


def _role_missing(message: str) -> RoleMissing:
    found = re.search(r"Action: 'Microsoft\.KeyVault/vaults/([A-Za-z/]{1,80})'", message)
    action = found[1] if found else ""
    role = next((role for beginning, role in ROLES.items() if action.startswith(beginning)), "Key Vault Secrets User")
    principal = re.search(r"\boid=([0-9a-f-]{36})\b", message)
    whom = f" to the principal {principal[1]}" if principal else ""
    return RoleMissing(
        f"no role assignment allows {action or 'this'} on the vault",
        f'Access control (IAM) of the vault: assign "{role}"{whom}; a new assignment takes up to ten minutes',
        action=action,
    )


def _conflict(inner: str, what: str) -> AzureTrouble:
    if inner == "ObjectIsDeletedButRecoverable":
        return NameTaken(f"{what} was deleted and its name is taken until it is recovered or purged", "recover it first")
    if inner in ("ObjectIsBeingDeleted", "ObjectIsBeingRecovered"):
        return ObjectBusy(f"{what} is just being deleted or recovered", "try again in some seconds", retry_after=RETRY_SECONDS)
    return ObjectConflict(f"something else holds the name of {what}", "rename one; a certificate also takes a secret's name")


def _of_silence(error: Exception, deadline: Deadline, session: Session, what: str, *, effect: bool) -> AzureTrouble:
    """No answer came. Whether something was sent decides what that means."""
    if effect and deadline.sent:
        return _unknown(what)
    if _is_tls(error):
        return tls_refused(session.target.host)
    if deadline.expired:
        return Unreachable(f"{session.target.host} did not answer in time", "try again; if it stays, check the path to the vault")
    if isinstance(error, ServiceRequestError | requests.RequestException):
        return Unreachable(f"no connection to {session.target.host}", "open outbound TCP 443 from this node to the vault")
    return Unreachable(f"{session.target.host} broke the connection off", "try again; if it stays, check what is in between")


def tls_refused(host: str) -> TlsRefused:
    return TlsRefused(f"the certificate of {host} is not trusted here", "set AZURE_CA_BUNDLE to a PEM file with its CA")


def _is_tls(error: BaseException | None) -> bool:
    """Certificate errors come wrapped several times."""
    seen = 0
    while error is not None and seen < 8:
        if isinstance(error, ssl.SSLError | requests.exceptions.SSLError):
            return True
        inner = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__
        error, seen = inner or next((one for one in error.args if isinstance(one, BaseException)), None), seen + 1
    return False


def _inner_code(error: HttpResponseError) -> str:
    inner = getattr(getattr(error, "error", None), "innererror", None)
    return str(inner.get("code", "")) if isinstance(inner, dict) else ""


def _retry_after(error: HttpResponseError) -> float:
    headers = getattr(error.response, "headers", None) or {}
    text = str(headers.get("Retry-After", ""))
    return float(text) if text.isdecimal() else RETRY_SECONDS


def _unknown(what: str) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"a change of {what} was sent and not answered: it may have happened", "read it before doing anything again"
    )


def _unreadable() -> ServiceTrouble:
    return ServiceTrouble("what answers does not speak like Azure", "find out what answers in place of Azure")
