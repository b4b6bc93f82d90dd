"""What is believed of a gateway's word on who made a write, and when: it counts only for people and services it was told of, who
had a session or a token that was meant for its environment and lived when the write was accepted.

Which of them it was, and what they wanted, stays its word (docs/security.md). Whether they may do it is asked now, not here.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

from django.conf import settings

from accounts.access import PrincipalKind
from accounts.entra_bounds import longest
from accounts.models import ApiToken, Session
from common.statements import fetch
from protocol.envelope import WINDOW_SECONDS

SKEW = timedelta(seconds=30)
"""How far off a gateway's clock may be where something ended: a session, a token, a confirmation; and how far ahead."""
SLOW = timedelta(seconds=WINDOW_SECONDS)
"""How far a gateway's clock may be behind where something began: a credential, a grant, an epoch, a life. As far as the channel
takes its messages, or what it acknowledged by a clock that it works with would be nobody's."""
FORM = re.compile(rf"(?:{'|'.join(PrincipalKind)}):[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}")
"""The one spelling of an author. With another one an audit by id would miss what they are said to have done."""
MOST_LOOKED_AT = 1000
"""Credentials of one author that are looked at for one write, of each kind those that were ended since and those that were not.
Of a service 200 sessions live at a moment, of anybody 200 tokens. What ended before is not read; what began since is passed
over."""


@dataclass(frozen=True)
class Claim:
    """That somebody made a write: `accepted` is the gateway's word, None where it has no form of a time."""

    write: uuid.UUID
    actor: str
    accepted: datetime | None
    received: datetime
    epoch: int
    gateway: uuid.UUID
    generation: uuid.UUID


_COUNTS: LiteralString = """
       (u.sso_provider IS NULL OR u.sso_provider = '' OR u.entra_confirmed_at + %(age)s::interval > m.moment - %(skew)s::interval)
"""
_MEANT: LiteralString = """
   (c.audience @> jsonb_build_array(%(code)s::text) OR c.audience IS NULL AND (%(everywhere)s OR c.everywhere_until > m.moment))
"""
_LIVED_THEN: LiteralString = """
SELECT 1 FROM ((SELECT * FROM %(table)s s WHERE s.%(holder)s = m.holder AND s.revoked_at IS NULL
                   AND s.expires_at > m.moment - %(skew)s::interval AND s.created_at <= m.moment + %(slow)s::interval
                 ORDER BY s.expires_at LIMIT %(most)s)
               UNION ALL
               (SELECT * FROM %(table)s s WHERE s.%(holder)s = m.holder AND s.revoked_at > m.moment - %(skew)s::interval
                   AND s.expires_at > m.moment - %(skew)s::interval AND s.created_at <= m.moment + %(slow)s::interval
                 ORDER BY s.revoked_at LIMIT %(most)s)) AS c
  LEFT JOIN accounts_user u ON u.id = c.user_id WHERE """
"""Every condition that is one of time stands inside: what did not live then hides nothing that did, however many there are."""
_SESSIONS: LiteralString = "".join((
    _LIVED_THEN.replace("%(table)s", "accounts_session"), _COUNTS.replace("%(age)s", "%(session_age)s"), """
   AND (c.gateway_environment = %(code)s OR c.gateway_environment = '' AND """, _MEANT, ")",
))  # fmt: skip
_TOKENS: LiteralString = "".join((
    _LIVED_THEN.replace("%(table)s", "accounts_apitoken"), _COUNTS.replace("%(age)s", "%(token_age)s"), " AND ", _MEANT, """
   AND (u.sso_provider IS NULL OR u.sso_provider = '' OR u.entra_confirmed_at <= m.moment + %(slow)s::interval OR EXISTS (
        SELECT 1 FROM accounts_session i WHERE i.user_id = m.holder AND i.created_at <= m.moment + %(slow)s::interval
           AND i.created_at > m.moment - %(skew)s::interval - %(token_age)s::interval))
""",
))  # fmt: skip
"""A token of an account of Entra counts for a while after a sign-in: one that came later does not say that it counted before."""
_LIVED: LiteralString = "".join(("(EXISTS (", _SESSIONS, ") OR EXISTS (", _TOKENS, "))"))
_BELIEVED: LiteralString = "".join((
    """
WITH claim AS (
         SELECT r.*, greatest(e.granted_at, l.began_at) AS began
           FROM json_to_recordset(%(claims)s::json) AS r(write uuid, kind text, holder uuid, accepted timestamptz,
                received timestamptz, epoch bigint, gateway uuid, generation uuid)
           LEFT JOIN gateways_epochgrant e ON e.environment_id = %(code)s AND e.epoch = r.epoch
           LEFT JOIN gateways_gatewaylife l ON l.gateway_id = r.gateway AND l.generation = r.generation),
     m AS (
         SELECT write, kind, holder, CASE WHEN accepted > received + %(skew)s::interval OR accepted < began - %(slow)s::interval
                THEN received ELSE coalesce(accepted, received) END AS moment FROM claim)
SELECT m.write, m.moment FROM m
 WHERE EXISTS (SELECT 1 FROM gateways_toldprincipal t WHERE t.environment_id = %(code)s AND t.principal = m.holder)
   AND CASE m.kind WHEN 'user' THEN """, _LIVED.replace("%(holder)s", "user_id"),
    " ELSE ", _LIVED.replace("%(holder)s", "service_id"), " END",
))  # fmt: skip


def believed(code: str, claims: Iterable[Claim]) -> dict[uuid.UUID, datetime]:
    """Those of these writes in an environment whose author is believed, and when they were made. One statement, however many.

    A time of acceptance that is missing, lies in the future, or before the gateway had this epoch or lived this life, is that of
    its arrival. What an author's credentials are looked up by is bounded (`MOST_LOOKED_AT`).
    """
    asked = [_fact(one) for one in claims if FORM.fullmatch(one.actor)]
    if not asked:
        return {}
    told: dict[str, Any] = {
        "code": code, "claims": json.dumps(asked), "everywhere": not settings.MAZEVAULT.production, "skew": SKEW,
        "slow": SLOW,
        "session_age": longest(Session), "token_age": longest(ApiToken), "most": MOST_LOOKED_AT,
    }  # fmt: skip
    return dict(fetch(_BELIEVED, told))


def _fact(one: Claim) -> dict[str, Any]:
    kind, _, holder = one.actor.partition(":")
    return {
        "write": str(one.write), "kind": kind, "holder": holder, "received": one.received.isoformat(), "epoch": one.epoch,
        "accepted": one.accepted.isoformat() if one.accepted else None, "gateway": str(one.gateway),
        "generation": str(one.generation),
    }  # fmt: skip
