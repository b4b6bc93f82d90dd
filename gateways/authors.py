"""What is believed of a gateway's word on who made a write: it counts only for people and services it was told of, who had a
session or a token that was meant for its environment and lived when the write was accepted.

Which of them it was, and what they wanted, stays its word (docs/security.md). Whether they may do it is asked now, not here.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, LiteralString

from django.conf import settings
from django.utils.dateparse import parse_datetime

from accounts.access import PrincipalKind
from accounts.entra_bounds import longest
from accounts.models import ApiToken, Session
from common.statements import fetch

SKEW = timedelta(seconds=30)
"""How far off a gateway's clock may be before its time of acceptance is not believed."""
FORM = re.compile(rf"(?:{'|'.join(PrincipalKind)}):[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}")
"""The one spelling of an author. With another one an audit by id would miss what they are said to have done."""

_END: LiteralString = """
       least(c.expires_at, coalesce(c.revoked_at, 'infinity'), CASE WHEN u.sso_provider <> '' THEN
             coalesce(u.entra_confirmed_at + %s * interval '1 second', 'epoch') ELSE 'infinity' END)
"""
_MEANT: LiteralString = "(c.audience @> jsonb_build_array(%(code)s::text) OR c.audience IS NULL AND %(everywhere)s)"
_HOLDER: LiteralString = "(c.user_id = ANY(%(ids)s) OR c.service_id = ANY(%(ids)s))"
_WHO: LiteralString = "SELECT CASE WHEN c.user_id IS NULL THEN 'service:' ELSE 'user:' END, coalesce(c.user_id, c.service_id),"
_LIVED: LiteralString = (
    "SELECT held.kind || held.holder, max(held.ended) FROM ("  # noqa: S608  of constant parts
    + _WHO
    + _END.replace("%s", "%(session_age)s")
    + " FROM accounts_session c LEFT JOIN accounts_user u ON u.id = c.user_id WHERE "
    + _HOLDER
    + " AND (c.gateway_environment = %(code)s OR c.gateway_environment = '' AND "
    + _MEANT
    + ") UNION ALL "
    + _WHO
    + _END.replace("%s", "%(token_age)s")
    + " FROM accounts_apitoken c LEFT JOIN accounts_user u ON u.id = c.user_id WHERE "
    + _HOLDER
    + " AND "
    + _MEANT
    + ") AS held(kind, holder, ended) JOIN gateways_toldprincipal t ON t.principal = held.holder AND t.environment_id = %(code)s"
    " GROUP BY 1"
)


def lived_until(code: str, actors: Iterable[str]) -> dict[str, datetime]:
    """Of those of these authors whom gateways of an environment were told of: when the last credential they had there ended, or
    will end. One statement, however many they are."""
    ids = [uuid.UUID(actor.partition(":")[2]) for actor in set(actors) if FORM.fullmatch(actor)]
    if not ids:
        return {}
    told: dict[str, Any] = {
        "code": code, "ids": ids, "everywhere": not settings.MAZEVAULT.production,
        "session_age": longest(Session).total_seconds(), "token_age": longest(ApiToken).total_seconds(),
    }  # fmt: skip
    return dict(fetch(_LIVED, told))


def is_believed(ended: datetime | None, accepted: datetime | None, received: datetime) -> bool:
    """Whether somebody whose last credential ended then may have made a write that was accepted and received at these times. A
    time of acceptance that is missing, or lies in the future, is that of its arrival."""
    moment = accepted if accepted is not None and accepted <= received + SKEW else received
    return ended is not None and ended > moment - SKEW


def moment_of(text: str) -> datetime | None:
    """A time as the gateway wrote it, or None."""
    try:
        moment = parse_datetime(text)
    except ValueError:
        return None
    return moment if moment and moment.tzinfo else None
