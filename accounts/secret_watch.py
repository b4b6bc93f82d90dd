"""When the client secret of the app registration ends: looked up twice a day, told in time (DESIGN §10).

Said by the operator, by the expiry of the secret in the node's vault, or by Graph. When it ends nobody can sign in with Entra.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.conf import settings

from accounts.entra import Entra
from accounts.entra_settings import EntraSettings
from accounts.models import ClientSecretWatch
from accounts.secret_end import WARN_DAYS, ending

log = logging.getLogger("mazevault.accounts.secret_watch")

LOOK_EVERY = timedelta(hours=12)
METRIC = "mazevault_entra_client_secret_days_left"


def look(now: datetime) -> int:
    """Find out when the secret ends, if the last look is old enough. Returns 1 when it looked."""
    own: EntraSettings = settings.MAZEVAULT.entra
    if not own.enabled or ClientSecretWatch.objects.filter(id=1, looked_at__gt=now - LOOK_EVERY).exists():
        return 0
    ends, source, detail = ending(own, Entra(own), now)
    ClientSecretWatch.objects.update_or_create(
        id=1, defaults={"ends_at": ends, "source": source, "detail": detail[:300], "looked_at": now}
    )
    _tell(ends, detail, now)
    return 1


def days_left(now: datetime) -> float | None:
    """Days until it ends, negative afterwards; None while nobody could say."""
    row = ClientSecretWatch.objects.filter(id=1).first()
    return (row.ends_at - now).total_seconds() / 86_400 if row and row.ends_at else None


def _tell(ends: datetime | None, detail: str, now: datetime) -> None:
    if ends is None:
        log.info("when Entra's client secret ends is not known: %s; set ENTRA_CLIENT_SECRET_EXPIRES", detail)
    elif (ends - now).total_seconds() / 86_400 < WARN_DAYS:
        log.warning(
            "Entra's client secret ends at %s: make a new one (App registrations, Certificates & secrets), put it in place and "
            "restart the nodes; after that nobody can sign in with Entra",
            ends.isoformat(),
        )
