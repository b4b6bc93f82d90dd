"""The sealed values of secrets: the one place that knows where a value rests and for what place it is sealed.

A value is bound to its secret, project, project environment, gateway environment and version, so none of them can be changed in
the database without the value staying shut.
"""

from __future__ import annotations

from common.errors import Conflict
from vault import encryption
from vault.models import Secret, SecretVersion

TABLE = "vault_secretversion"


def seal_value(secret: Secret, version: int, text: str) -> bytes:
    """The value sealed for this version of this secret."""
    return encryption.seal(*place(secret, version), text.encode())


def open_value(secret: Secret, row: SecretVersion) -> str:
    """The value of a version that holds one. Raises `encryption.SealBroken` when it was moved or changed."""
    if row.sealed_value is None:
        raise Conflict(
            f"the value of version {row.version} is not held on this node; ask the Primary for it", code="VALUE_NOT_HELD"
        )
    return encryption.open_sealed(*place(secret, row.version), bytes(row.sealed_value)).decode()


def digest_of(secret: Secret, text: str) -> str:
    """Keyed by the environment and the secret: tells whether two versions of one secret are equal, and nothing else."""
    return encryption.keyed_digest(scope_of(secret), f"{secret.id}|".encode() + text.encode())


def holding(secret: Secret, version: int | None = None) -> SecretVersion | None:
    """The version that holds the value the secret had in `version` (None: has now); changes without a value repeat none."""
    rows = secret.versions.filter(sealed_value__isnull=False, version__lte=secret.version if version is None else version)
    return rows.order_by("-version").first()


def resting(secret: Secret, version: int | None = None) -> SecretVersion | None:
    """The version that holds that value here or names the place in the vault where it rests."""
    newest = secret.version if version is None else version
    rows = secret.versions.filter(version__lte=newest).exclude(sealed_value=None, external_version="")
    return rows.order_by("-version").first()


def place(secret: Secret, version: int) -> tuple[str, str, str, int]:
    """Scope, table, row and version a value is sealed for."""
    return scope_of(secret), TABLE, f"{secret.id}|{secret.project_id}|{secret.environment_id}", version


def scope_of(secret: Secret) -> str:
    return secret.environment.gateway_environment
