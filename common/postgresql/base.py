"""The backend that `DATABASES["default"]["ENGINE"]` names."""

from __future__ import annotations

import select
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, ClassVar

import psycopg
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.postgresql import base
from django.db.backends.postgresql.psycopg_any import BaseTzLoader
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap
from psycopg_pool import ConnectionPool, PoolTimeout

from common import lanes, outages

RECONNECT_SECONDS = 4.0
"""A pool tries so long to connect anew, with pauses of 1 and 2 s, and then again as soon as somebody wants a connection. With the
library's own 300 s the pauses grow to a minute, and work stood still for as long after the database was back."""


class UtcLoader(BaseTzLoader):
    """A `timestamptz` of a session in UTC. Rows have many times, and reading one piece by piece cost more than all else."""

    timezone = UTC

    def load(self, data: Buffer) -> datetime:
        text = bytes(data).decode()
        if text.endswith("+00") and text.startswith("20"):
            return datetime.fromisoformat(text)
        loaded: datetime = super().load(data)
        return loaded


class DatabaseWrapper(base.DatabaseWrapper):
    """`OPTIONS["pool"]` holds `threads`, those that serve people in this process; the lanes say the rest."""

    _lane_pools: ClassVar[dict[str, ConnectionPool]] = {}

    @property
    def pool(self) -> ConnectionPool | None:
        wanted = self.settings_dict["OPTIONS"].get("pool")
        if self.alias == NO_DB_ALIAS or not wanted:
            return None
        name = f"{self.alias} {lanes.lane()}"
        if name not in self._lane_pools:
            self._lane_pools.setdefault(name, self._new_pool(wanted))  # of two that were made the unopened one is dropped
        return self._lane_pools[name]

    def close_pool(self) -> None:
        """Close the pools of all lanes."""
        for name in [one for one in self._lane_pools if one.split(" ")[0] == self.alias]:
            self._lane_pools.pop(name).close()

    def _new_pool(self, wanted: Mapping[str, Any]) -> ConnectionPool:
        check = look_at if self.settings_dict["CONN_HEALTH_CHECKS"] else None
        return ConnectionPool(
            kwargs={**self.get_connection_params(), "autocommit": True}, open=False, configure=self._configure_connection,  # type: ignore[attr-defined]
            check=check, min_size=1, max_size=lanes.connections_of(lanes.lane(), wanted["threads"]),
            timeout=lanes.WAIT_SECONDS, name=str(lanes.lane()), reconnect_timeout=RECONNECT_SECONDS,
        )  # fmt: skip

    def get_connection_params(self) -> dict[str, Any]:
        found: dict[str, Any] = super().get_connection_params()
        found["context"] = _with_utc(found["context"])
        return found

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        pool = self.pool
        before = _failures_of(pool)
        try:
            made = super().get_new_connection(conn_params)
        except PoolTimeout as error:
            if pool is not None and _failures_of(pool) == before:  # nobody was refused a connection: they are all in use
                crowded = outages.PoolCrowded(pool.name, pool.max_size, lanes.WAIT_SECONDS)
                outages.crowded.warn("%s; who asks now is told to try again", crowded)
                raise crowded from error
            outages.database.failed(error)
            raise
        except psycopg.OperationalError as error:
            outages.database.failed(error)
            raise
        outages.database.answered()
        return made


@lru_cache(maxsize=4)
def _with_utc(template: AdaptersMap) -> AdaptersMap:
    adapters = AdaptersMap(template)
    adapters.register_loader("timestamptz", UtcLoader)
    return adapters


def _failures_of(pool: ConnectionPool | None) -> int:
    """How often a connection for this pool could not be made."""
    return pool.get_stats().get("connections_errors", 0) if pool is not None else 0


def look_at(connection: psycopg.Connection) -> None:
    """Raise `psycopg.OperationalError` for a connection that ended in the pool.

    A session that the server ended, or whose server is gone, says so on its socket: only where something came is asked, since a
    question for each request would cost as much as what the request asks. A host that vanished without a word is noticed by the
    keep-alive probes of the connection (`common.sessions`), and until then by whoever asks it something.
    """
    if connection.pgconn.status != psycopg.pq.ConnStatus.OK:
        raise psycopg.OperationalError("the connection has ended")
    socket = select.poll()
    socket.register(connection.fileno(), select.POLLIN)
    if socket.poll(0):
        ConnectionPool.check_connection(connection)
