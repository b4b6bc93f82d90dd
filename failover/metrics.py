"""What Prometheus sees of moves: which environments stand still until a person decides, and since when a move is under way."""

from __future__ import annotations

from typing import LiteralString

from common.exposition import escaped, head, number
from common.statements import fetch
from failover.machine import State

HELD = "mazevault_failover_held"
OPERATION_AGE = "mazevault_failover_operation_seconds"
_STANDING: LiteralString = """
SELECT e.code, coalesce(s.state = %(hold)s::text, false),
       coalesce(greatest(0, extract(epoch FROM clock_timestamp() - o.opened_at)), 0)::float8
  FROM gateways_gatewayenvironment e
  LEFT JOIN failover_environmentstate s ON s.environment_id = e.code
  LEFT JOIN failover_operation o ON o.environment_id = e.code AND o.finished_at IS NULL
 ORDER BY 1
"""


def text_of_moves() -> str:
    """Two series for each environment; one statement."""
    rows = [(f'{{environment="{escaped(code)}"}}', held, age) for code, held, age in fetch(_STANDING, {"hold": State.HOLD.value})]
    return "".join([
        head(HELD, "gauge", "1 while an environment is in HOLD: nothing moves until a person decides"),
        *(f"{HELD}{labels} {number(held)}\n" for labels, held, _ in rows),
        head(OPERATION_AGE, "gauge", "Seconds since the open move of an environment was asked for; 0 when none is open"),
        *(f"{OPERATION_AGE}{labels} {number(age)}\n" for labels, _, age in rows),
    ])  # fmt: skip
