"""Credentials without an audience: gateways in production refuse them, and take those of before there were audiences for a while.

Found, given an audience, or ended in time by an operator (`manage.py audiences`), before an update as well as after it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.db.models import Q, QuerySet

from accounts import audiences, changes
from accounts.models import ApiToken, Session
from common.errors import NotFound, ValidationFailed

MOST_SHOWN = 1000


@dataclass(frozen=True)
class Found:
    """A living credential without an audience; `until` is when gateways in production refuse it, None where they do already."""

    kind: str
    id: uuid.UUID
    holder: str
    name: str
    last_used_at: datetime | None
    expires_at: datetime
    until: datetime | None


def living(now: datetime) -> Iterator[Found]:
    """API tokens first: a session ends within a day. At most `MOST_SHOWN` of each kind, those used last first."""
    for kind, rows in (("token", _living(ApiToken, now)), ("session", _living(Session, now))):
        for row in rows.select_related("user", "service").order_by("-last_used_at", "id")[:MOST_SHOWN]:
            until = row.everywhere_until if row.everywhere_until and row.everywhere_until > now else None
            name = row.name if isinstance(row, ApiToken) else ""
            yield Found(kind, row.id, _holder(row), name, row.last_used_at, row.expires_at, until)


def count(now: datetime) -> tuple[int, datetime | None]:
    """How many API tokens without an audience live, and when the last of them ends at gateways in production, if any still counts
    there."""
    rows = _living(ApiToken, now)
    last = rows.filter(everywhere_until__gt=now).order_by("-everywhere_until").values_list("everywhere_until", flat=True).first()
    return rows.count(), last


def give_audience(identifier: uuid.UUID, wish: Iterable[str], now: datetime) -> list[str]:
    """Let a token or session that counts everywhere count in these places only. Raises `NotFound` and `ValidationFailed`."""
    meant = audiences.read(wish)
    if meant is None:
        raise ValidationFailed("audience: name at least one place")
    with transaction.atomic():
        for model in (ApiToken, Session):
            row = _living(model, now).select_for_update(no_key=True).filter(id=identifier).first()
            if row is not None:
                row.audience = meant
                row.save(update_fields=["audience"])
                changes.record(None, "auth.token.audience", "token", row.id, {"audience": meant, "holder": _holder(row)})
                changes.credential_changed(row)
                return meant
    raise NotFound("there is no living token or session without an audience with this id")


def end_grace(now: datetime) -> int:
    """Let no credential without an audience count at gateways in production from now on; how many did."""
    ended = 0
    with transaction.atomic():
        for model in (ApiToken, Session):
            rows: list[ApiToken | Session] = list(
                _living(model, now).filter(everywhere_until__gt=now).select_for_update(no_key=True).order_by("id")
            )
            model._default_manager.filter(pk__in=[row.id for row in rows]).update(everywhere_until=now)
            changes.principals_changed({changes.holder_id(row) for row in rows})
            ended += len(rows)
        changes.record(None, "auth.everywhere.ended", "token", uuid.UUID(int=0), {"credentials": ended})
    return ended


def _living(model: type[ApiToken] | type[Session], now: datetime) -> QuerySet[ApiToken] | QuerySet[Session]:
    opened_here = Q(gateway_environment="") if model is Session else Q()
    return model._default_manager.filter(opened_here, audience__isnull=True, revoked_at=None, expires_at__gt=now)


def _holder(row: ApiToken | Session) -> str:
    if row.user:
        return row.user.email
    return row.service.display_name if row.service else ""
