"""When the client secret of the app registration ends, and who says so. Needs no framework: the doctor asks too."""

from __future__ import annotations

from datetime import datetime

from accounts.entra import Entra, EntraError
from accounts.entra_settings import EntraSettings

WARN_DAYS = 30.0


def ending(own: EntraSettings, entra: Entra, now: datetime) -> tuple[datetime | None, str, str]:
    """(when it ends, who says so, why it is not known)."""
    if own.client_secret_expires is not None:
        return own.client_secret_expires, "setting", ""
    try:
        ends = entra.secret_ends(now)
    except EntraError as error:
        return None, "graph", str(error)
    return ends, "graph", "" if ends else "Graph knows no secret of this application that begins like ours"
