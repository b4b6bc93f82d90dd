"""Each refusal of a vault is told by its true cause: no role for an access policy, no purge protection for on-behalf-of."""

from __future__ import annotations

import itertools

import pytest

from integrations.azure.errors import (
    AccessDenied,
    AzureTrouble,
    NameTaken,
    NetworkClosed,
    ObjectBusy,
    ObjectConflict,
    ObjectDisabled,
    OnBehalfOfDemanded,
    Owner,
    PermissionMissing,
    PolicyDenied,
    PurgeProtected,
    RoleMissing,
)
from integrations.azure.refusals import of_401, of_403, of_409

OID = "11111111-2222-3333-4444-555555555555"
CALLER = f"'appid=1;oid={OID};iss=https://sts.windows.net/3/'"
OBO = f"The policy requires the caller {CALLER} to use on-behalf-of (OBO) flow."
LACKS = f"The user, group or application {CALLER} does not have secrets get permission on key vault 'kv;location=westeurope'."
ROLE = (
    f"Caller is not authorized to perform action on resource.\r\nCaller: appid=1;oid={OID}\r\n"
    "Action: 'Microsoft.KeyVault/vaults/secrets/setSecret/action'"
)
PROTECTED = 'Operation "purge" is not allowed because purge protection is enabled for this vault.'
DENIALS: tuple[tuple[str, str, type[AccessDenied], str], ...] = (
    ("ForbiddenByPolicy", OBO, OnBehalfOfDemanded, "authorized application"),
    ("ForbiddenByPolicy", PROTECTED, PurgeProtected, "retention"),
    ("ForbiddenByPolicy", LACKS, PermissionMissing, "no effect on this vault"),
    ("AccessDenied", LACKS, PermissionMissing, OID),
    ("AccessDenied", "Access denied.", PermissionMissing, "Access policies"),
    ("", LACKS, PermissionMissing, OID),
    ("ForbiddenByRbac", ROLE, RoleMissing, "Key Vault Secrets Officer"),
    ("ForbiddenByConnection", "Public network access is disabled", NetworkClosed, "private endpoint"),
    ("ForbiddenByFirewall", "Client address is not authorized", NetworkClosed, "address"),
    ("SecretDisabled", "Operation get is not allowed on a disabled secret.", ObjectDisabled, "enable"),
    ("ForbiddenByGovernancePolicy", "Secret was disallowed by policy: Key Vault secrets should have an expiration date",
     PolicyDenied, "expires_days"),
    ("ForbiddenByGovernancePolicy", "disallowed", PolicyDenied, "exempted"),
    ("ForbiddenByPolicy", "something new", AccessDenied, "roles"),
    ("", "", AccessDenied, "access policies"),
)  # fmt: skip


@pytest.mark.parametrize(("inner", "message", "kind", "fix"), DENIALS, ids=lambda value: str(value)[:30])
def test_a_denial_is_told_by_its_true_cause(inner: str, message: str, kind: type[AccessDenied], fix: str) -> None:
    denied = of_403(inner, message, "the secret a")
    assert type(denied) is kind and fix in denied.fix and denied.cause
    assert "sts.windows.net" not in f"{denied} {denied.details}", "what Azure said goes no further"
    assert kind is PurgeProtected or "purge" not in denied.cause
    assert kind in (RoleMissing, AccessDenied) or "role assignment" not in f"{denied.cause} {denied.fix}"


def test_no_two_causes_share_a_code() -> None:
    kinds = {kind for _, _, kind, _ in DENIALS}
    for one, other in itertools.combinations(kinds, 2):
        assert one.default_code != other.default_code


@pytest.mark.parametrize(
    ("policy", "demanded"),
    [
        ("Key Vault secrets should have an expiration date", "an expiry date"),
        ("Secrets should have content type set", "a content type"),
        ("Secrets should have the specified maximum validity period", "an end that is not too far away"),
        ("Secrets should not be active for longer than the specified number of days", "a younger age"),
        ("our own rule", "an attribute"),
    ],
)
def test_azure_policy_is_told_with_what_it_demands(policy: str, demanded: str) -> None:
    denied = of_403("ForbiddenByGovernancePolicy", f"The operation was disallowed by policy. {policy}", "the secret a")
    assert demanded in denied.cause and denied.owner is Owner.VAULT and "our own rule" not in str(denied)


@pytest.mark.parametrize(
    ("inner", "message", "kind"),
    [
        ("ObjectIsDeletedButRecoverable", "", NameTaken),
        ("ObjectIsBeingDeleted", "Secret is currently being deleted.", ObjectBusy),
        ("ObjectIsBeingRecovered", "", ObjectBusy),
        ("ObjectIsBeingPurged", "", ObjectBusy),
        ("", "Secret is currently being purged.", ObjectBusy),
        ("ObjectIsManaged", "Secret is managed by certificate", ObjectConflict),
        ("", "", ObjectConflict),
    ],
)
def test_a_conflict_says_whether_it_passes(inner: str, message: str, kind: type[AzureTrouble]) -> None:
    told = of_409(inner, message, "the secret a")
    assert type(told) is kind and told.retrying_helps is (kind is ObjectBusy) and bool(told.retry_after) is (kind is ObjectBusy)


@pytest.mark.parametrize(
    ("message", "cause", "fix"),
    [
        ("AKV10032: Invalid issuer. Expected one of https://sts.windows.net/x/", "another tenant", "tenant_id"),
        ("AKV10022: Invalid audience.", "another service", "cloud"),
        ("AKV10063: Token lifetime validation failed.", "expired", "clock"),
        ("no number", "does not accept", "tenant_id"),
    ],
)
def test_a_token_that_is_not_taken_says_which_part_of_it(message: str, cause: str, fix: str) -> None:
    told = of_401(message)
    assert cause in told.cause and fix in told.fix and "sts.windows.net" not in str(told)
