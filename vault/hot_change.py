"""Giving a secret a new value on the shortest way, at the node that applies changes itself: no framework around the one change.

As with `vault.hot`, only what is plain and allowed is done here. Whatever is unusual (an idempotency key, another field than the
value, a value in a vault) or to be refused leaves nothing behind and goes the whole way in `vault.api` (docs/adr/0036).
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, LiteralString

from django.db import transaction
from django.http import HttpRequest, HttpResponse

from accounts.access import Principal
from accounts.models import Storage
from accounts.roles import SECRETS_WRITE
from common.api import client_address
from common.clock import now
from common.errors import MazeVaultError
from common.parsing import LARGEST_BODY, is_longer, parse_object
from common.statements import fetch
from protocol.vocabulary import WriteOperation
from protocol.writes import WriteBody
from vault import held, hot, secrets, selectors
from vault.models import Secret
from vault.ports import Origin, SecretChange, SecretNode

_UNUSUAL = ("HTTP_IDEMPOTENCY_KEY", "HTTP_IF_MATCH", "HTTP_CONTENT_ENCODING")
_FIELDS = frozenset({"value", "base_version"})
_THERE: LiteralString = """
SELECT 1 FROM vault_secret s JOIN accounts_project p ON p.id = s.project_id JOIN accounts_environment e ON e.id = s.environment_id
 WHERE s.id = %(id)s::uuid AND NOT EXISTS (SELECT 1 FROM vault_vaultclaim c WHERE c.secret = s.id)"""
_MAY_BE_TOUCHED: LiteralString = _THERE + hot.ALLOWED
"""What is foreign is neither locked nor looked at (I13). What is being changed in a vault waits, on the whole way."""


def new_value(node: SecretNode, request: HttpRequest, identifier: str) -> HttpResponse | None:
    """The answer of `PUT secrets/{id}`, with the change committed; None where the whole way must be gone, and nothing was done.

    Raises the errors of the database: nobody knows then whether the change was kept, so it is not tried again.
    """
    token, wanted = hot.plain_bearer(request), selectors.as_uuid(identifier)
    if not token or wanted is None or not node.applies_changes or not _is_plain(request):
        return None
    moment = now()
    try:
        value, base = _wish(request)
        caller = node.hot_caller(token, request, moment, SECRETS_WRITE)
        if caller is None or not fetch(_MAY_BE_TOUCHED, {"id": wanted, **hot.places_of(caller, SECRETS_WRITE)}):
            return None
        with transaction.atomic():
            secret = held.hold(wanted)
            if secret is None or secret.status not in selectors.SHOWN or secret.project.storage != Storage.MAZEVAULT:
                return None
            _change(secret, value, base, caller, client_address(request), moment)
    except MazeVaultError:
        return None
    return hot.rendered(selectors.secret_row(secret, None, None, value), secret.version)


def _is_plain(request: HttpRequest) -> bool:
    said = request.META
    fits = not is_longer(str(said.get("CONTENT_LENGTH") or "0"), LARGEST_BODY)
    unusual = said.get("QUERY_STRING") or any(name in said for name in _UNUSUAL)
    return fits and not unusual and said.get("CONTENT_TYPE") == "application/json"


def _wish(request: HttpRequest) -> tuple[str, int | None]:
    """The value and the version it was made on. Raises `MazeVaultError` for a body that says anything else."""
    body: dict[str, Any] = parse_object(request.body)
    value, base = body.get("value"), body.get("base_version")
    if body.keys() - _FIELDS or not isinstance(value, str) or not (base is None or type(base) is int):
        raise MazeVaultError("not a plain change")
    return value, base


def _change(secret: Secret, value: str, base: int | None, caller: Principal, address: str, moment: datetime) -> None:
    body = WriteBody(value=value, ttl_hours=0, metadata={})
    where: tuple[uuid.UUID, uuid.UUID, str] = secret.project_id, secret.environment_id, secret.key
    change = SecretChange(WriteOperation.UPDATE, secret.id, *where, base, body)
    secrets.apply_change(change, Origin(caller.actor, address), caller, moment, held=secret)
