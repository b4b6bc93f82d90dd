"""What Entra and the metadata service mean when they give no token to an integration, as one table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from integrations.azure.errors import ConsentMissing, Owner, TokenTrouble

_SIGN_IN = "sign in again"


@dataclass(frozen=True)
class Row:
    """One cause, one fix, one owner. `passing` troubles end by themselves."""

    cause: str
    fix: str
    owner: Owner = Owner.OPERATOR
    passing: bool = False


CONSENT = 65001
BY_NUMBER: dict[int, Row] = {
    CONSENT: Row("nobody has consented to Key Vault for this application",
                 "Entra ID, App registrations, API permissions: add Azure Key Vault user_impersonation, then grant admin consent",
                 Owner.DIRECTORY),
    7000215: Row("the client secret is wrong", "write the value of the secret into client_secret, not its id"),
    7000222: Row("the client secret has expired", "make a new one under Certificates & secrets and write it into client_secret"),
    7000218: Row("the application needs a secret", "write one into client_secret"),
    700016: Row("the tenant has no application with this client_id", "correct client_id or tenant_id"),
    90002: Row("there is no such tenant", "correct tenant_id"),
    500011: Row("the tenant does not know this resource", "check the cloud this vault belongs to", Owner.DIRECTORY),
    50013: Row("the person's token carries no valid signature", _SIGN_IN, Owner.PERSON),
    500131: Row("the person signed in to another application than this integration names",
                "give the integration the client_id that people sign in with"),
    500133: Row("the person's token has expired", _SIGN_IN, Owner.PERSON),
    50173: Row("the person's sessions were revoked, or the password changed", _SIGN_IN, Owner.PERSON),
    700082: Row("the person's session was idle for too long", _SIGN_IN, Owner.PERSON),
    50057: Row("the person's account is disabled in Entra", "enable the account, if it shall be", Owner.DIRECTORY),
    50076: Row("Entra asks this person for a second factor", f"{_SIGN_IN} and complete it", Owner.PERSON),
    50079: Row("Entra asks this person to register a second factor", f"{_SIGN_IN} and register it", Owner.PERSON),
    53003: Row("a Conditional Access policy blocks Key Vault for this identity",
               "Entra ID, Sign-in logs: the entry names the policy", Owner.DIRECTORY),
    7000114: Row("this token cannot be exchanged on behalf of a person", "sign in as a person, not as an application"),
    700024: Row("the service account token of this pod has expired, or a clock is wrong",
                "check that Kubernetes renews the file in AZURE_FEDERATED_TOKEN_FILE, and the node's clock", passing=True),
    700027: Row("the service account token of this pod is not signed by its cluster",
                "check the file in AZURE_FEDERATED_TOKEN_FILE"),
    700211: Row("no federated credential of the identity names this cluster",
                "Managed identity, Federated credentials: add the issuer of the cluster; a new one takes up to a minute",
                Owner.DIRECTORY, passing=True),
    700212: Row("no federated credential of the identity names this audience", "use the audience api://AzureADTokenExchange"),
    700213: Row("no federated credential of the identity names this service account",
                "Managed identity, Federated credentials: the subject is system:serviceaccount:<namespace>:<name>",
                Owner.DIRECTORY, passing=True),
    90033: Row("Entra has a passing problem", "try again in a minute", Owner.MICROSOFT, passing=True),
    90055: Row("Entra throttles this tenant", "try again in a minute", Owner.MICROSOFT, passing=True),
}  # fmt: skip
NO_IDENTITY = Row(
    "this machine has no managed identity of this client_id",
    "assign the identity to the machine, or correct client_id",
    Owner.DIRECTORY,
)
SEVERAL = Row("this machine has several managed identities", "name one in client_id")


def diagnose(answer: Mapping[str, Any]) -> TokenTrouble:
    """The meaning of an answer that holds no token."""
    numbers = _numbers(answer)
    number = next((one for one in numbers if one in BY_NUMBER), numbers[0] if numbers else None)
    if number == CONSENT or answer.get("suberror") == "consent_required":
        row = BY_NUMBER[CONSENT]
        return ConsentMissing(row.cause, row.fix, number=CONSENT)
    row = BY_NUMBER[number] if number in BY_NUMBER else _without_number(answer, number)
    return TokenTrouble(row.cause, row.fix, owner=row.owner, number=number, passing=row.passing)


def _without_number(answer: Mapping[str, Any], number: int | None) -> Row:
    words = str(answer.get("error_description", ""))[:1000]
    if "Identity not found" in words:
        return NO_IDENTITY
    if "Multiple user assigned identities" in words:
        return SEVERAL
    reason = f"AADSTS{number}" if number else re.sub(r"[^a-z_]", "", str(answer.get("error", "")).lower())[:64] or "no reason"
    where = f"https://login.microsoftonline.com/error?code={number}" if number else "the sign-in logs of Entra ID"
    return Row(f"a token was refused with {reason}", f"look it up at {where}", Owner.DIRECTORY)


def _numbers(answer: Mapping[str, Any]) -> list[int]:
    codes = answer.get("error_codes")
    listed = [code for code in codes if isinstance(code, int)] if isinstance(codes, list) else []
    return [*listed, *map(int, re.findall(r"AADSTS(\d{4,9})", str(answer.get("error_description", ""))[:4000]))]
