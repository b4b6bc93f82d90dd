"""What the Primary wants of a gateway now, and the waiting call that tells it within milliseconds (DESIGN §7)."""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec
import psycopg
from django.conf import settings
from django.db import connection

from common.direct import open_connection
from common.process_locks import Condition, ProcessLock
from gateways import sightings
from gateways.instances import MAY_STILL_ACT, Seat, seat_of
from gateways.models import Gateway, Route
from gateways.routes import DIRECTIVE_CHANNEL
from gateways.sightings import RouteFacts, Sighting
from protocol.messages import Directive, DrainOrder, FenceOrder
from protocol.vocabulary import Assignment, Role

log = logging.getLogger("mazevault.gateways.directives")

RENEWAL_SHARE = 2 / 3
"""A certificate is renewed before this share of its life has passed (DESIGN §6)."""
RECHECK_SECONDS = 5.0
"""A waiting call looks again this often even without a wake-up, so that a lost NOTIFY costs seconds, not the call."""
COLUMNS = """
    EXISTS (SELECT 1 FROM gateways_task WHERE environment_id = g.environment_id AND state = 'pending'
               AND not_before <= statement_timestamp()) AS tasks_wait,
    (SELECT generation FROM gateways_primarynode WHERE id = 1) AS primary_generation,
    (SELECT asked FROM gateways_signoflife WHERE gateway_id = g.id) AS sign_asked
"""
"""What a directive needs beside `sightings.COLUMNS`. The generation tells a gateway whose cursor it holds; `sign_asked`
is the last question whether it is alive."""
_ORDERED = f"SELECT {sightings.COLUMNS}, {COLUMNS} FROM {sightings.SOURCES} WHERE g.id = %(gateway)s"  # noqa: S608


def directive_for(gateway: Gateway, seat: Seat) -> Directive:
    """The order of the moment, in one statement. `revision` changes exactly when something a gateway must react to changes."""
    rows = sightings.read(_ORDERED, {"gateway": gateway.id})
    return directive_of(sightings.sighting(rows[0]), rows[0], seat)


def directive_of(seen: Sighting, row: Mapping[str, Any], seat: Seat) -> Directive:
    """The order that follows from a row of `sightings.COLUMNS` and `COLUMNS`. Pure.

    `number` grows with each change of what it follows from: both rows were read at one moment, and each counts its changes.
    """
    route = seen.route
    assigned = assignment_of(seen, route)
    if not seat.current:
        return _to_wait(seen, row, seat)
    active = assigned is Assignment.ACTIVE and not seat.put_back
    plain = Directive(
        revision="",
        assigned_role=assigned if active else _taking_nothing_new(assigned),
        epoch=route.epoch if route else 0,
        poll_tasks=active,
        next_heartbeat_seconds=settings.MAZEVAULT.timing.heartbeat_interval,
        fence=_fence_order(seen, route),
        drain=_drain_order(seen, route),
        renew_certificate=renewal_is_due(seen),
        tasks_waiting=active and row["tasks_wait"],
        primary_generation=str(row["primary_generation"] or ""),
        sign=row["sign_asked"] or 0,
        resync_replica=seen.resync_ordered_at is not None and seen.resync_begun_at is None,
    )
    return msgspec.structs.replace(plain, revision=_revision(plain), number=_number(seen))


def _to_wait(seen: Sighting, row: Mapping[str, Any], seat: Seat) -> Directive:
    """For an instance that is not the current one: no order and no work. Where its gateway is active it may give out what it has,
    since after a crash this is the same machine (ADR 28)."""
    plain = Directive(
        revision="",
        assigned_role=_taking_nothing_new(assignment_of(seen, seen.route)),
        epoch=seen.route.epoch if seen.route else 0,
        poll_tasks=False,
        next_heartbeat_seconds=min(seat.retry, settings.MAZEVAULT.timing.heartbeat_interval),
        primary_generation=str(row["primary_generation"] or ""),
        waits=MAY_STILL_ACT,
    )
    return msgspec.structs.replace(
        plain, revision=_revision(plain), number=_number(seen), retry_after_seconds=seat.retry
    )  # fmt: skip


def _number(seen: Sighting) -> int:
    return seen.orders + (seen.route.orders if seen.route else 0)


def _taking_nothing_new(assigned: Assignment) -> Assignment:
    return Assignment.DRAINING if assigned is Assignment.ACTIVE else assigned


def _revision(plain: Directive) -> str:
    return hashlib.sha256(msgspec.json.encode(plain)).hexdigest()[:32]


def assignment_of(gateway: Gateway | Sighting, route: Route | RouteFacts | None) -> Assignment:
    """Active, draining, fenced or standby.

    Draining is what reads and takes nothing new: also where a person must decide first, of the gateway (held) or of the whole
    environment (danger). There no lease is given, so its effects end with the lease it has.
    """
    if route is None or route.active_gateway_id is None:
        return Assignment.STANDBY
    if route.active_gateway_id == gateway.id:
        if not route.lease_open:
            told_to_fence = route.fence_operation is not None and not route.fence_cancelled
            return Assignment.DRAINING if route.danger and not told_to_fence else Assignment.FENCED
        draining = route.drain_operation or gateway.drained_at or gateway.held_at or route.danger
        return Assignment.DRAINING if draining else Assignment.ACTIVE
    return Assignment.FENCED if gateway.role == Role.PRIMARY else Assignment.STANDBY


def polls_tasks(gateway: Gateway | Sighting, route: Route | RouteFacts | None) -> bool:
    """Only the active gateway that is not draining takes work. The Primary enforces this at the claim as well."""
    return assignment_of(gateway, route) is Assignment.ACTIVE


def _fence_order(gateway: Sighting, route: RouteFacts | None) -> FenceOrder | None:
    if route is None or route.fence_operation is None or route.active_gateway_id != gateway.id:
        return None
    return FenceOrder(
        operation=str(route.fence_operation), epoch=route.epoch, number=route.fence_number, cancelled=route.fence_cancelled
    )


def _drain_order(gateway: Sighting, route: RouteFacts | None) -> DrainOrder | None:
    if route is None or route.drain_operation is None or route.active_gateway_id != gateway.id:
        return None
    return DrainOrder(operation=str(route.drain_operation), epoch=route.epoch)


def renewal_is_due(seen: Sighting) -> bool:
    """Before two thirds of the certificate's life, or at once where its issuer is given up."""
    if seen.certificate_from is None or seen.certificate_until is None:
        return False
    life = seen.certificate_until - seen.certificate_from
    due = seen.certificate_from + timedelta(seconds=life.total_seconds() * RENEWAL_SHARE)
    return seen.renewal_ordered_at is not None or seen.moment >= due


LISTEN_SECONDS = 0.5
"""So often the listener looks whether its process is ending: a connection that outlives what uses it keeps its database busy."""


class WaitingRoom:
    """Where directive calls wait in this process: one LISTEN connection, a door for each environment, a cap on seats.

    A NOTIFY names an environment and wakes the calls of that one only; each then costs one statement.
    """

    def __init__(self) -> None:
        self._lock = ProcessLock("seats of the waiting room")
        self._doors: dict[str, Condition] = {}
        self._turns: dict[str, int] = {}
        self._waiting = 0
        self._closed = False
        self._listener: threading.Thread | None = None

    def wait_for_change(self, gateway: Gateway, instance: str, after: str, seconds: float) -> Directive:
        """Return the directive once its revision differs from `after`, or when the time is over.

        Beyond the cap the answer comes at once with a retry time of 5 to 15 s, so that heartbeats never starve.
        """
        self._ensure_listener()
        turn = self._turn_of(gateway.environment_id)
        directive = directive_for(gateway, seat_of(gateway, instance))
        if directive.revision != after or seconds <= 0:
            return directive
        if not self._take_seat():
            return msgspec.structs.replace(directive, retry_after_seconds=random.uniform(5, 15))  # noqa: S311  jitter
        try:
            return self._sit(gateway, instance, after, seconds, turn)
        finally:
            self._leave_seat()

    def _sit(self, gateway: Gateway, instance: str, after: str, seconds: float, turn: int) -> Directive:
        deadline, code = time.monotonic() + seconds, gateway.environment_id
        while True:
            connection.close()  # a waiting thread holds no database connection
            left = deadline - time.monotonic()
            door = self._door(code)
            with door:
                if self._turns.get(code, 0) == turn and left > 0 and not self._closed:
                    door.wait(min(left, RECHECK_SECONDS))
                turn = self._turns.get(code, 0)
            directive = directive_for(gateway, seat_of(gateway, instance))
            if directive.revision != after or time.monotonic() >= deadline or self._closed:
                return directive

    def close(self) -> None:
        """The process is ending: everybody gets an answer now, and nobody listens any more a moment later."""
        self._closed = True
        self.wake()

    def join(self, seconds: float) -> bool:
        """After `close`: wait for the end of the listening. False when it takes longer."""
        if self._listener is not None:
            self._listener.join(seconds)
        return self._listener is None or not self._listener.is_alive()

    def wake(self, code: str = "") -> None:
        """Let everybody of an environment look again; without one, everybody."""
        for one in [code] if code else list(self._doors):
            door = self._door(one)
            with door:
                self._turns[one] = self._turns.get(one, 0) + 1
                door.notify_all()

    def _door(self, code: str) -> Condition:
        with self._lock:
            return self._doors.setdefault(code, Condition("waiting room"))

    def _turn_of(self, code: str) -> int:
        with self._door(code):
            return self._turns.get(code, 0)

    def _take_seat(self) -> bool:
        with self._lock:
            if self._waiting >= settings.MAZEVAULT.threads // 2:
                return False
            self._waiting += 1
            return True

    def _leave_seat(self) -> None:
        with self._lock:
            self._waiting -= 1

    def _ensure_listener(self) -> None:
        with self._lock:
            if self._listener is None or not self._listener.is_alive():
                self._listener = threading.Thread(target=self._listen, name="directive-listener", daemon=True)
                self._listener.start()

    def _listen(self) -> None:
        """Turn NOTIFY into wake-ups. Ends when the connection is lost; the next caller starts it again."""
        try:
            with open_connection() as listening:
                listening.execute(f"LISTEN {DIRECTIVE_CHANNEL}")
                self.wake()
                while not self._closed:
                    for notice in listening.notifies(timeout=LISTEN_SECONDS):
                        self.wake(notice.payload)
        except psycopg.Error as error:
            if self._closed:
                return
            log.warning("directive listener lost its connection (%s); calls look again every %s s", error, RECHECK_SECONDS)
            time.sleep(1)


room = WaitingRoom()
