"""The fleet's heartbeats in the log of the Primary: one line a minute for all gateways together."""

from __future__ import annotations

import logging
from typing import LiteralString

from django.conf import settings

from common.statements import fetch
from gateways import sightings

log = logging.getLogger("mazevault.gateways.heartbeats")

SECONDS = 60.0
MOST_NAMED = 10
"""Silent gateways that are named; of more the first in the order of their names, and how many more there are."""
_SEEN: LiteralString = (
    """
SELECT g.name, s.heartbeat_at > clock_timestamp() - %(young)s::float8 * interval '1 second'
  FROM gateways_gateway g LEFT JOIN gateways_gatewaystatus s ON s.gateway_id = g.id
 WHERE """
    + sightings.LIVING
    + " ORDER BY g.name"
)


def tell() -> None:
    """One statement. A gateway is heard whose last heartbeat is younger than two intervals."""
    interval = settings.MAZEVAULT.timing.heartbeat_interval
    rows = fetch(_SEEN, {"young": 2 * interval})
    silent = [name for name, is_young in rows if not is_young]
    log.info(
        "heartbeats: %s of %s gateways heard within %g s%s", len(rows) - len(silent), len(rows), 2 * interval, _named(silent)
    )


def _named(silent: list[str]) -> str:
    if not silent:
        return ""
    more = f" and {len(silent) - MOST_NAMED} more" if len(silent) > MOST_NAMED else ""
    return f"; not heard: {', '.join(silent[:MOST_NAMED])}{more}"
