"""What Entra's refusals mean here: for each number one cause, one fix and one owner. Data only, no framework.

Entra's numbers say where it stopped, not what to do. This table does; people read it, the doctor prints it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from protocol.tls_faults import TlsFault, fault_of


class Owner(StrEnum):
    """Who can mend it."""

    DIRECTORY = "Entra administrator"
    OPERATOR = "MazeVault operator"
    PERSON = "the person who signs in"
    MICROSOFT = "nobody here; wait and try again"


@dataclass(frozen=True)
class Diagnosis:
    """`status` is the HTTP status it is answered with; a `passing` one may be gone at the next try."""

    code: str
    cause: str
    fix: str
    owner: Owner
    status: int = 503
    passing: bool = False


_BEGIN_AGAIN = "Begin the sign-in again."
_NEW_ONE = (
    "Entra ID, App registrations, your app, Certificates & secrets: make a new client secret, copy its Value (not its Secret ID)"
)

BY_NUMBER: Mapping[int, Diagnosis] = {
    65001: Diagnosis(
        "ENTRA_CONSENT_MISSING",
        "nobody has agreed that this application may use that API for its users",
        "Entra ID, App registrations, your app, API permissions: add the permission, then press Grant admin consent",
        Owner.DIRECTORY,
        403,
    ),
    90094: Diagnosis(
        "ENTRA_CONSENT_MISSING",
        "a permission of this application needs the consent of an administrator",
        "Entra ID, App registrations, your app, API permissions: press Grant admin consent",
        Owner.DIRECTORY,
        403,
    ),
    7000215: Diagnosis(
        "ENTRA_SECRET_WRONG",
        "the client secret is wrong; often the Secret ID was copied instead of the Value",
        f"{_NEW_ONE} and set ENTRA_CLIENT_SECRET to it",
        Owner.OPERATOR,
    ),
    7000222: Diagnosis(
        "ENTRA_SECRET_EXPIRED",
        "the client secret has expired",
        f"{_NEW_ONE}, set ENTRA_CLIENT_SECRET to it, and note when it ends",
        Owner.OPERATOR,
    ),
    7000218: Diagnosis(
        "ENTRA_SECRET_MISSING",
        "no client secret was sent",
        "set ENTRA_CLIENT_SECRET or ENTRA_CLIENT_SECRET_FILE",
        Owner.OPERATOR,
    ),
    50011: Diagnosis(
        "ENTRA_REDIRECT_URI",
        "the redirect URI of this node is not registered, letter by letter, at the application",
        "Entra ID, App registrations, your app, Authentication: add ENTRA_REDIRECT_URI as a Redirect URI of the platform Web",
        Owner.DIRECTORY,
    ),
    500112: Diagnosis(
        "ENTRA_REDIRECT_URI",
        "the sign-in came back to another redirect URI than it was begun with",
        "give all replicas behind one address the same ENTRA_REDIRECT_URI",
        Owner.OPERATOR,
    ),
    700016: Diagnosis(
        "ENTRA_APPLICATION_UNKNOWN",
        "this tenant has no application with this client id",
        "set ENTRA_CLIENT_ID to the Application (client) ID, and ENTRA_TENANT_ID to the tenant it is registered in",
        Owner.OPERATOR,
    ),
    7000112: Diagnosis(
        "ENTRA_APPLICATION_DISABLED",
        "the application is disabled in this tenant",
        "Entra ID, Enterprise applications, your app, Properties: Enabled for users to sign in",
        Owner.DIRECTORY,
    ),
    90002: Diagnosis(
        "ENTRA_TENANT_UNKNOWN",
        "there is no tenant with this id in this cloud",
        "set ENTRA_TENANT_ID to Entra ID, Overview, Tenant ID, and ENTRA_AUTHORITY_HOST to the login host of your cloud",
        Owner.OPERATOR,
    ),
    90009: Diagnosis(
        "ENTRA_SCOPE_OWN_URI",
        "the application asks for a token for itself by its URI; Entra wants its client id there",
        "take api://… out of ENTRA_SCOPES; <client id>/.default is asked for anyway",
        Owner.OPERATOR,
    ),
    500011: Diagnosis(
        "ENTRA_RESOURCE_UNKNOWN",
        "the tenant does not know the API that a token was asked for",
        "check the resource in ENTRA_SCOPES, and that its service is used in this tenant",
        Owner.OPERATOR,
    ),
    650053: Diagnosis(
        "ENTRA_SCOPE_UNKNOWN",
        "the API has no permission of the name that was asked for",
        "check ENTRA_SCOPES against the permissions of the API",
        Owner.OPERATOR,
    ),
    70011: Diagnosis(
        "ENTRA_SCOPE_UNKNOWN",
        "a scope is written in a form Entra does not take",
        "write scopes in ENTRA_SCOPES as <resource>/<permission> or <resource>/.default",
        Owner.OPERATOR,
    ),
    28000: Diagnosis(
        "ENTRA_SCOPE_MIXED",
        "scopes of several APIs were asked for at once",
        "name scopes of one API only in ENTRA_SCOPES; other APIs are reached on behalf of the user",
        Owner.OPERATOR,
    ),
    50105: Diagnosis(
        "ENTRA_NOT_ASSIGNED",
        "this person is not assigned to the application, and the application asks for assignment",
        "Entra ID, Enterprise applications, your app, Users and groups: assign the person or a group to an App Role",
        Owner.DIRECTORY,
        403,
    ),
    50057: Diagnosis(
        "ENTRA_USER_DISABLED",
        "the account is disabled in Entra",
        "Entra ID, Users: enable the account, if it shall be",
        Owner.DIRECTORY,
        403,
    ),
    50020: Diagnosis(
        "ENTRA_USER_OF_ANOTHER_TENANT",
        "the account belongs to another tenant and is no guest here",
        "sign in with an account of this tenant, or have it invited as a guest",
        Owner.PERSON,
        403,
    ),
    53003: Diagnosis(
        "ENTRA_CONDITIONAL_ACCESS",
        "a Conditional Access policy blocks this sign-in",
        "Entra ID, Sign-in logs: the entry names the policy; meet it, or change it",
        Owner.DIRECTORY,
        403,
    ),
    50076: Diagnosis(
        "ENTRA_MORE_PROOF_NEEDED", "Entra asks for a second factor", "sign in again and complete it", Owner.PERSON, 401
    ),
    50079: Diagnosis(
        "ENTRA_MORE_PROOF_NEEDED",
        "Entra asks to register a second factor",
        "sign in again and register it",
        Owner.PERSON,
        401,
    ),
    65004: Diagnosis("ENTRA_CANCELLED", "the sign-in was cancelled", _BEGIN_AGAIN, Owner.PERSON, 401),
    50058: Diagnosis("ENTRA_NOT_SIGNED_IN", "nobody is signed in at Entra", _BEGIN_AGAIN, Owner.PERSON, 401),
    54005: Diagnosis("ENTRA_CODE_USED", "the code of this sign-in was used already", _BEGIN_AGAIN, Owner.PERSON, 401),
    70000: Diagnosis("ENTRA_CODE_INVALID", "the code of this sign-in is not one of Entra's", _BEGIN_AGAIN, Owner.PERSON, 401),
    70008: Diagnosis("ENTRA_CODE_EXPIRED", "the sign-in took too long, or its session ended", _BEGIN_AGAIN, Owner.PERSON, 401),
    501481: Diagnosis("ENTRA_PKCE", "the code was made for another browser session", _BEGIN_AGAIN, Owner.PERSON, 401),
    50013: Diagnosis(
        "ENTRA_ASSERTION", "the user's token does not carry a valid signature any more", "sign in again", Owner.PERSON, 401
    ),
    500131: Diagnosis(
        "ENTRA_ASSERTION_AUDIENCE",
        "the user's token is for another application",
        "take other APIs out of ENTRA_SCOPES, then sign in again",
        Owner.OPERATOR,
    ),
    500133: Diagnosis("ENTRA_ASSERTION_EXPIRED", "the user's token has expired", "sign in again", Owner.PERSON, 401),
    50173: Diagnosis(
        "ENTRA_GRANT_REVOKED", "the user's sessions were revoked in Entra, or the password changed", "sign in again",
        Owner.PERSON, 401,
    ),
    700082: Diagnosis("ENTRA_GRANT_EXPIRED", "the session at Entra was idle for too long", "sign in again", Owner.PERSON, 401),
    700024: Diagnosis(
        "ENTRA_FEDERATED_TOKEN_EXPIRED",
        "the service account token of this pod has expired, or its clock is wrong",
        "check that Kubernetes renews the file in AZURE_FEDERATED_TOKEN_FILE, and the node's clock",
        Owner.OPERATOR,
        passing=True,
    ),
    700211: Diagnosis(
        "ENTRA_FEDERATION", "no federated credential names this cluster's issuer",
        "Managed identity, Federated credentials: add the issuer of the cluster; a new one takes up to a minute", Owner.DIRECTORY,
        passing=True,
    ),
    700212: Diagnosis(
        "ENTRA_FEDERATION", "no federated credential names this audience",
        "use the audience api://AzureADTokenExchange", Owner.OPERATOR,
    ),
    700213: Diagnosis(
        "ENTRA_FEDERATION", "no federated credential names this service account",
        "Managed identity, Federated credentials: the subject is system:serviceaccount:<namespace>:<name>", Owner.DIRECTORY,
        passing=True,
    ),
    90033: Diagnosis("ENTRA_UNAVAILABLE", "Entra has a passing problem", "try again in a minute", Owner.MICROSOFT, passing=True),
    90055: Diagnosis("ENTRA_THROTTLED", "Entra throttles this tenant", "try again in a minute", Owner.MICROSOFT, passing=True),
}  # fmt: skip

THROTTLED, BROKEN = BY_NUMBER[90055], BY_NUMBER[90033]
UNREACHABLE = Diagnosis(
    "ENTRA_UNREACHABLE",
    "Entra's login host cannot be reached from this node",
    "open outbound TCP 443 to the host in ENTRA_AUTHORITY_HOST, or set HTTPS_PROXY",
    Owner.OPERATOR,
    passing=True,
)
TLS = Diagnosis(
    "ENTRA_TLS",
    "the certificate of Entra's login host is not trusted here",
    "set AZURE_CA_BUNDLE to a PEM file with the CA of the inspecting proxy or of the sandbox",
    Owner.OPERATOR,
)
_TLS = {
    TlsFault.EXPIRED: ("the certificate of Entra's login host has ended by this node's clock", "set the clock of this node"),
    TlsFault.NOT_YET: (
        "the certificate of Entra's login host does not count yet, by the clock of this node", "set the clock of this node"
    ),
    TlsFault.OTHER_NAME: (
        "what answers for Entra's login host shows a certificate of another name", "check DNS and proxy on the way there"
    ),
    TlsFault.NO_TLS: (
        "what answers for Entra's login host speaks no TLS", "check ENTRA_AUTHORITY_HOST, and DNS and proxy on the way there"
    ),
    TlsFault.PROTOCOL: (
        "the TLS handshake with Entra's login host failed", "check what stands between this node and Entra"
    ),
}  # fmt: skip


def tls_of(error: BaseException) -> Diagnosis:
    """`TLS` with the true cause, where the error tells another one than a foreign root."""
    found = _TLS.get(fault_of(error) or TlsFault.FOREIGN_ROOT)
    return Diagnosis(TLS.code, *found, TLS.owner) if found else TLS


UNREADABLE = Diagnosis(
    "ENTRA_UNREADABLE",
    "what answers at ENTRA_AUTHORITY_HOST does not speak like Entra",
    "check ENTRA_AUTHORITY_HOST, and what a proxy in between answers",
    Owner.OPERATOR,
)
GROUPS_AS_ROLES = Diagnosis(
    "ENTRA_EMIT_AS_ROLES",
    "the roles claim holds ids of groups: emit_as_roles is switched on, which hides all App Roles",
    "Entra ID, App registrations, your app, Token configuration, groups: take the tick off Emit groups as role claims",
    Owner.DIRECTORY,
    403,
)
GRAPH_REFUSED = Diagnosis(
    "ENTRA_GROUPS_UNREADABLE",
    "the person is in too many groups for a token, and Graph does not list them to this application",
    "grant admin consent for Microsoft Graph GroupMember.Read.All (delegated)",
    Owner.DIRECTORY,
    403,
)


def unknown(number: int | None, error: str) -> Diagnosis:
    """For a refusal this table does not know. The number, if any, is Microsoft's to explain."""
    name = f"AADSTS{number}" if number else re.sub(r"[^a-z_]", "", error.lower())[:64] or "no reason"
    where = f"https://login.microsoftonline.com/error?code={number}" if number else "the sign-in logs of Entra ID"
    return Diagnosis("ENTRA_REFUSED", f"Entra refused with {name}", f"look it up at {where}", Owner.DIRECTORY, 403)


def diagnose(answer: Mapping[str, Any]) -> tuple[Diagnosis, int | None]:
    """The meaning of an error answer of Entra, and its AADSTS number if it has one."""
    number = next(iter(_numbers(answer)), None)
    known = next((BY_NUMBER[one] for one in _numbers(answer) if one in BY_NUMBER), None)
    if known is None and answer.get("suberror") == "consent_required":
        known = BY_NUMBER[65001]
    return known or unknown(number, str(answer.get("error", ""))), number


def _numbers(answer: Mapping[str, Any]) -> Iterable[int]:
    codes = answer.get("error_codes")
    listed = [code for code in codes if isinstance(code, int)] if isinstance(codes, list) else []
    return [*listed, *map(int, re.findall(r"AADSTS(\d{4,9})", str(answer.get("error_description", ""))[:4000]))]
