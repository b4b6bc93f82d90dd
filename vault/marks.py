"""Knowing a value again without holding it: what a rotation replaced does not come back by an ordinary change.

Each version carries a mark of its value, wherever that rests: an HMAC under this Primary's own key, so that nobody can try values
against what is stored. A gateway that set a value in a vault says its hash, sealed, with the write.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import Any, LiteralString

from django.utils.crypto import salted_hmac

from common.api import rfc3339
from common.errors import Conflict
from common.statements import fetch
from vault import values
from vault.models import Secret
from vault.recording import Recorder

REPLACED = "VALUE_ROTATED_AWAY"
_LAST_WITH: LiteralString = """
SELECT greatest(
  (SELECT max(version) FROM vault_secretversion WHERE secret_id = %(secret)s AND value_mark = %(mark)s AND value_mark <> ''),
  (SELECT max(version) FROM vault_secretversion
    WHERE secret_id = %(secret)s AND value_mark = '' AND value_digest = %(digest)s AND value_digest <> ''), 0)
"""
"""The last version with a value. Of before there were marks only values that rest here are known, by their digest."""
_ROTATION: LiteralString = """
SELECT version, created_at FROM vault_secretversion
 WHERE secret_id = %(secret)s AND version > %(version)s AND operation = 'rotate' ORDER BY version LIMIT 1
"""


def hash_of(value: str) -> str:
    """SHA-256 (hex) of a value. It tells the value to who can guess it, so it is kept and sent sealed only."""
    return hashlib.sha256(value.encode()).hexdigest()


def mark_of(secret: uuid.UUID, value_hash: str) -> str:
    """As it is stored; empty where nobody knows the value."""
    return salted_hmac("secret-value-mark", f"{secret}|{value_hash}", algorithm="sha256").hexdigest() if value_hash else ""


def refuse_replaced(secret: Secret, value: str | None, value_hash: str, book: Recorder) -> None:
    """Raise `Conflict` (VALUE_ROTATED_AWAY) for a value whose last time was before a rotation; the one in force is no such value.

    Costs nothing for a secret that was never rotated, else one statement. In the `book` are versions that are not stored yet.
    """
    if not secret.rotated_version or not (value or value_hash):
        return
    mark = mark_of(secret.id, value_hash or hash_of(value or ""))
    digest = values.digest_of(secret, value, book.sealing_in(values.scope_of(secret))) if value is not None else ""
    stored: Any = fetch(_LAST_WITH, {"secret": secret.id, "mark": mark, "digest": digest})[0][0]
    unstored = [row["version"] for row in book.versions if row["secret_id"] == secret.id and row["value_mark"] == mark]
    version = max(int(stored), *unstored, 0)
    if 0 < version < secret.rotated_version:
        raise _replaced(secret, version)


def _replaced(secret: Secret, version: int) -> Conflict:
    found = fetch(_ROTATION, {"secret": secret.id, "version": version})
    rotation, at = found[0] if found else (secret.rotated_version, None)
    when = f" of {rfc3339(at)}" if at else ""
    return Conflict(
        f"value: the rotation{when} (version {rotation}) replaced this value, which was that of version {version}; "
        f"to go back to it on purpose, POST secrets/{secret.id}/rollback with version {version}",
        code=REPLACED, extra={"rotation_version": rotation, "version": version},
    )  # fmt: skip
