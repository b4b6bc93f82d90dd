"""Where a session or an API token counts: at the Primary, and at gateways of which gateway environments (DESIGN §10).

A gateway gets the credential of everybody who calls it. One that is meant for a single environment is worth nothing elsewhere:
not at gateways of another one, and not at the Primary unless it names that too. Without an audience a credential counts
everywhere; in production it counts at the Primary only, but for those of before there were audiences, which go on for two weeks
(`everywhere_until`). Gateways hear of no other credentials than those that count there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from django.conf import settings
from django.db.models import Q

from accounts.models import ApiToken, Session
from common.errors import ValidationFailed
from common.nearest import shortened
from protocol.nearest import nearest

PRIMARY = "PRIMARY"
"""How an audience names the Primary, beside codes of gateway environments."""

Audience = Sequence[str] | None


def read(wish: Iterable[str] | None, held: Audience = None) -> list[str] | None:
    """The audience a wish names, in one order and one spelling; without a wish that of the credential it is made with, `held`.

    Raises `ValidationFailed` for names there are not, for none, and for what the credential itself is not meant for.
    """
    if wish is None:
        return None if held is None else list(held)
    known = [PRIMARY, *settings.MAZEVAULT.gateway_environments]
    named = {text.strip().upper() for text in wish}
    if not named:
        raise ValidationFailed(f"audience: name at least one of {', '.join(known)}, or leave it out")
    for text in sorted(named - set(known)):
        meant = nearest(text, known)
        guess = f", did you mean {meant}" if meant else ""
        raise ValidationFailed(f"audience: there is no {shortened(text)} here{guess}; known are {', '.join(known)}")
    beyond = sorted(named - set(held)) if held is not None else []
    if beyond:
        raise ValidationFailed(f"audience: the credential you use is not meant for {beyond[0]}, so one made with it cannot be")
    return [one for one in known if one in named]


def at_primary(audience: Audience) -> bool:
    return audience is None or PRIMARY in audience


def at_gateways_of(code: str, now: datetime) -> Q:
    """Credentials that count at gateways of this environment, as a condition of their tables."""
    everywhere = Q(audience__isnull=True)
    if settings.MAZEVAULT.production:
        everywhere &= Q(everywhere_until__gt=now)
    return Q(audience__contains=[code]) | everywhere


def end_at_gateways(row: Session | ApiToken) -> datetime:
    """When a credential that counts at gateways ends there, as far as its audience says: gateways keep to it when cut off."""
    opened_there = isinstance(row, Session) and row.gateway_environment
    if not settings.MAZEVAULT.production or row.audience is not None or opened_there or row.everywhere_until is None:
        return row.expires_at
    return min(row.expires_at, row.everywhere_until)


def sentence(audience: Audience) -> str:
    """Why a credential does not count at the Primary."""
    return f"this token is meant for gateways of {' and '.join(audience or ())} only; use one whose audience names {PRIMARY}"
