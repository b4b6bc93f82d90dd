"""The sealed values of secrets: the one place that knows where a value rests and for what place it is sealed.

A value is bound to its secret, project, project environment, gateway environment and version, so none of them can be changed in
the database without the value staying shut.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Mapping

from django.db.models import F, QuerySet

from common.errors import Conflict
from common.sealing import CHANGED_ROW, SealBroken, Unreadable
from vault import encryption
from vault.encryption import Sealing
from vault.found import Found
from vault.models import KeptValue, Secret, SecretVersion

log = logging.getLogger("mazevault.vault")

TABLE = "vault_secretversion"


def seal_value(secret: Secret, version: int, text: str, sealing: Sealing | None = None) -> bytes:
    """The value sealed for this version of this secret. `sealing` is of its scope, where several values are sealed."""
    scope, table, row, number = place(secret, version)
    return (sealing or Sealing.begin(scope)).seal(table, row, number, text.encode())


def open_value(secret: Secret, row: SecretVersion) -> str:
    """The value of a version that holds one. Raises `Unreadable` (SEAL_BROKEN), with its name, when it was moved or changed."""
    if row.sealed_value is None:
        raise Conflict(
            f"the value of version {row.version} is not held on this node; ask the Primary for it", code="VALUE_NOT_HELD"
        )
    return open_bytes(secret, row.version, bytes(row.sealed_value))


def open_kept(secret: Secret, kept: KeptValue) -> str:
    """The value that stayed here while its version rests in a vault already."""
    return open_bytes(secret, kept.version.version, bytes(kept.sealed_value))


def open_bytes(secret: Secret | Found, version: int, sealed: bytes) -> str:
    """As `open_value`, of what was read in another way."""
    try:
        return encryption.open_sealed(*place(secret, version), sealed).decode()
    except SealBroken as broken:
        log.error("secret %s (%s), version %s: %s", secret.id, secret.key, version, broken)
        raise Unreadable(
            f"the value of the secret {secret.key!r} (version {version}) does not open: {CHANGED_ROW}. Set its value anew, or "
            f"bring back the rows of secret {secret.id} from a backup"
        ) from None


def digest_of(secret: Secret, text: str, sealing: Sealing | None = None) -> str:
    """Keyed by the environment and the secret: tells whether two versions of one secret are equal, and nothing else."""
    bound = f"{secret.id}|".encode() + text.encode()
    return sealing.digest(bound) if sealing else encryption.keyed_digest(scope_of(secret), bound)


def holding(secret: Secret, version: int | None = None) -> SecretVersion | None:
    """The version that holds the value the secret had in `version` (None: has now); None when that value rests elsewhere, even
    where an older one was left here."""
    row = resting(secret, version)
    return row if row is not None and row.sealed_value is not None else None


def resting(secret: Secret, version: int | None = None) -> SecretVersion | None:
    """The version that holds that value here or names the place in the vault where it rests."""
    newest = secret.version if version is None else version
    return valued(secret.versions.filter(version__lte=newest)).order_by("-version").first()


def resting_now(secret: uuid.UUID) -> SecretVersion | None:
    """`resting` of a secret as it is at this instant, with the secret itself: read in one statement, so that both belong together
    however fast it is changed. None when it has no value, here or in a vault."""
    rows = SecretVersion.objects.filter(secret=secret, version__lte=F("secret__version"))
    return valued(rows).select_related("secret__project", "secret__environment").order_by("-version").first()


def newest_of(secrets: Iterable[Secret]) -> Mapping[uuid.UUID, SecretVersion]:
    """`resting` for many secrets at once, by the secret's id."""
    rows = valued(SecretVersion.objects.filter(secret__in=[one.id for one in secrets]))
    return {row.secret_id: row for row in rows.order_by("secret", "-version").distinct("secret")}


def valued(rows: QuerySet[SecretVersion]) -> QuerySet[SecretVersion]:
    """Those of the versions that have a value, here or in a vault; the others repeat the one before them."""
    return rows.exclude(sealed_value=None, external_version="")


def place(secret: Secret | Found, version: int) -> tuple[str, str, str, int]:
    """Scope, table, row and version a value is sealed for."""
    return scope_of(secret), TABLE, f"{secret.id}|{secret.project_id}|{secret.environment_id}", version


def scope_of(secret: Secret | Found) -> str:
    return secret.environment.gateway_environment
