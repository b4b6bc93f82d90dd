"""Refusals an auditor looks for: one warning for each actor, kind and minute, so that nobody fills the trail with them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.db import DatabaseError, transaction

from accounts import rates
from common import audit
from common.addresses import network_of
from common.errors import TooManyRequests, Unavailable

log = logging.getLogger("mazevault.accounts.refusals")


def note(
    action: str,
    actor: str,
    entity: str,
    entity_id: str,
    *,
    address: str,
    now: datetime,
    details: Mapping[str, Any] | None = None,
    kind: str = "",
) -> None:
    """Write it, unless the same was written in this minute. It is refused anyway, so a trail that is away changes nothing.

    `kind` tells apart, of one action, what an auditor wants to see each of; it is one of few.
    """
    key = f"{action}|{actor}|{network_of(address) if actor == rates.ANONYMOUS else ''}|{kind}"
    try:
        with transaction.atomic():
            if rates.is_first(key, now):
                audit.record(
                    actor=actor, action=action, entity=entity, entity_id=entity_id, address=address,
                    severity=audit.Severity.WARNING, details=details or {},
                )  # fmt: skip
    except (DatabaseError, Unavailable) as error:
        log.error("the refusal %s of %s is not in the audit: %s", action, actor, type(error).__name__)


@contextmanager
def noting_limits(actor: str, *, address: str, now: datetime) -> Iterator[None]:
    """Note when a limit refuses what is done inside."""
    try:
        yield
    except TooManyRequests as refused:
        note("auth.limited", actor, "account", actor, address=address, now=now, details={"code": refused.code})
        raise
