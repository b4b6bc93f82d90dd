"""Requests that were answered before: one memory at the Primary, whichever node a request came to (DESIGN §9, docs/adr/0044).

A request is known by who made it, their `Idempotency-Key` and the gateway environment it is about: none knows what was asked in
another one (I13). That it is the same is known by a digest of everything that was asked for, under this Primary's own key: of a
gateway's write the fingerprint of the request came sealed with it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import LiteralString

import msgspec
from django.utils.crypto import salted_hmac

from common.errors import Conflict
from common.locks import lock_number
from common.statements import fetch, run
from vault.ports import SecretChange

REMEMBERED = timedelta(hours=24)
"""How long a repeated request is recognised, from its answer on."""
MISMATCH = "IDEMPOTENCY_MISMATCH"
_FORM = "2:"
"""Begins a digest in the form of ADR 44. What has no such beginning an older release wrote: for 24 hours it is compared in the
forms there were, and where those cannot be made any more (of what a gateway asks) operation and secret must fit."""

Asked = tuple[str, str]
"""Actor and idempotency key."""

_LOCK: LiteralString = "SELECT pg_advisory_xact_lock(n) FROM unnest(%(numbers)s::bigint[]) AS n"
_FIND: LiteralString = """
SELECT DISTINCT ON (r.actor, r.key)
       r.actor, r.key, a.digest, a.secret_id, a.version, e.gateway_environment, v.operation
  FROM json_to_recordset(%(asked)s::json) AS r(actor text, key text)
  JOIN vault_answeredrequest a ON a.actor = r.actor AND a.key IN (r.key, %(environment)s || E'\\n' || r.key) AND a.at >= %(since)s
  JOIN vault_secret s ON s.id = a.secret_id JOIN accounts_environment e ON e.id = s.environment_id
  LEFT JOIN vault_secretversion v ON v.secret_id = a.secret_id AND v.version = a.version
 ORDER BY r.actor, r.key, e.gateway_environment = %(environment)s DESC
"""
_KEEP: LiteralString = """
INSERT INTO vault_answeredrequest (actor, key, digest, secret_id, version, at)
SELECT r.actor, CASE WHEN o.key IS NULL THEN r.key ELSE r.environment || E'\\n' || r.key END, r.digest, r.secret, r.version,
       %(now)s
  FROM json_to_recordset(%(rows)s::json) AS r(actor text, key text, digest text, secret uuid, version integer, environment text)
  LEFT JOIN (vault_answeredrequest o
             JOIN vault_secret s ON s.id = o.secret_id JOIN accounts_environment e ON e.id = s.environment_id)
    ON o.actor = r.actor AND o.key = r.key AND o.at >= %(since)s AND e.gateway_environment <> r.environment
ON CONFLICT (actor, key) DO UPDATE
   SET digest = excluded.digest, secret_id = excluded.secret_id, version = excluded.version, at = excluded.at
 WHERE vault_answeredrequest.at < %(since)s
"""
"""What is still remembered stays as it is: it belongs to another request. Where that one is of another environment, this one is
kept under a key that names its own, as no key of a caller can: those have no line breaks. Older processes go on beside it."""


@dataclass(frozen=True)
class First:
    """What a request was answered when it was first made. `digest` is empty where nobody can say any more what it asked for."""

    digest: str
    secret: uuid.UUID
    version: int
    environment: str
    operation: str

    def refuse_other(
        self, fingerprint: str, operation: str, secret: uuid.UUID | None, change: SecretChange | None = None
    ) -> None:  # fmt: skip
        """Raise `Conflict` (IDEMPOTENCY_MISMATCH) for a request that is not this one.

        Where one of both cannot say what it asked for (its maker died while a vault was asked), operation and secret must fit;
        `secret` None is a creation. `change` is the request as it was made, where it is at hand.
        """
        if not self._is(fingerprint, operation, secret, change):
            raise mismatch()

    def _is(self, fingerprint: str, operation: str, secret: uuid.UUID | None, change: SecretChange | None) -> bool:
        if fingerprint and self.digest.startswith(_FORM):
            return self.digest == digest_of(fingerprint)
        if fingerprint and self.digest and change is not None:
            return self.digest in (_keyed(change.formerly_asked_for()), _keyed(fingerprint))
        return operation == self.operation and secret in (None, self.secret)


def mismatch() -> Conflict:
    return Conflict("Idempotency-Key: this key was used for another request; use a new one", code=MISMATCH)


def digest_of(fingerprint: str) -> str:
    """`SecretChange.fingerprint` under the key of this Primary, as it is stored."""
    return _FORM + _keyed(fingerprint)[: 64 - len(_FORM)] if fingerprint else ""


def _keyed(text: str) -> str:
    return salted_hmac("answered-request", text, algorithm="sha256").hexdigest()


def hold(asked: Iterable[Asked]) -> None:
    """Twins wait for each other, so that the second one finds the answer of the first; until the transaction ends.

    Taken in one order, and before the secrets are.
    """
    numbers = sorted({lock_number(f"idempotency:{actor}:{key}") for actor, key in asked})
    if numbers:
        fetch(_LOCK, {"numbers": numbers})


def firsts(asked: Iterable[Asked], environment: str, now: datetime) -> dict[Asked, First]:
    """What is remembered of these requests in a gateway environment, in one statement; after `hold`.

    Where that is nothing, what a key was used for in another environment is given: whose answer it is, the caller decides.
    """
    wanted = [{"actor": actor, "key": key} for actor, key in set(asked)]
    if not wanted:
        return {}
    since = now - REMEMBERED
    rows = fetch(_FIND, {"asked": msgspec.json.encode(wanted).decode(), "environment": environment, "since": since})
    return {(row[0], row[1]): First(row[2], row[3], row[4], row[5], row[6] or "") for row in rows}


def remember(answers: Mapping[Asked, First], now: datetime) -> None:
    """Keep these answers, in the transaction that made the changes, after they were stored."""
    rows = [
        {"actor": actor, "key": key, "digest": first.digest, "secret": str(first.secret), "version": first.version,
         "environment": first.environment}
        for (actor, key), first in answers.items()
    ]  # fmt: skip
    if rows:
        run(_KEEP, {"rows": msgspec.json.encode(rows).decode(), "now": now, "since": now - REMEMBERED})
