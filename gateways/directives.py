"""What the Primary wants of a gateway now, and the waiting call that tells it within milliseconds (DESIGN §7)."""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
from datetime import timedelta

import msgspec
import psycopg
from django.conf import settings
from django.db import connection

from common.clock import now as clock_now
from common.direct import open_connection
from common.process_locks import Condition
from gateways.models import Gateway, GatewayCertificate, GatewayStatus, PrimaryNode, Route, Task
from gateways.routes import DIRECTIVE_CHANNEL
from protocol.messages import Directive, DrainOrder, FenceOrder
from protocol.vocabulary import Assignment, Role, TaskState

log = logging.getLogger("mazevault.gateways.directives")

RENEWAL_SHARE = 2 / 3
"""A certificate is renewed before this share of its life has passed (DESIGN §6)."""
RECHECK_SECONDS = 5.0
"""A waiting call looks again this often even without a wake-up, so that a lost NOTIFY costs seconds, not the call."""


def directive_for(gateway: Gateway) -> Directive:
    """The order of the moment. `revision` changes exactly when something a gateway must react to changes."""
    route = Route.objects.filter(environment_id=gateway.environment_id).first()
    plain = Directive(
        revision="",
        assigned_role=assignment_of(gateway, route),
        epoch=route.epoch if route else 0,
        poll_tasks=polls_tasks(gateway, route),
        next_heartbeat_seconds=settings.MAZEVAULT.timing.heartbeat_interval,
        fence=_fence_order(gateway, route),
        drain=_drain_order(gateway, route),
        renew_certificate=_renewal_is_due(gateway),
        tasks_waiting=polls_tasks(gateway, route) and _tasks_wait(gateway),
        primary_generation=_generation(),
        resync_replica=_resync_is_due(gateway),
    )
    revision = hashlib.sha256(msgspec.json.encode(plain)).hexdigest()[:32]
    return msgspec.structs.replace(plain, revision=revision)


def assignment_of(gateway: Gateway, route: Route | None) -> Assignment:
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


def polls_tasks(gateway: Gateway, route: Route | None) -> bool:
    """Only the active gateway that is not draining takes work. The Primary enforces this at the claim as well."""
    return assignment_of(gateway, route) is Assignment.ACTIVE


def _fence_order(gateway: Gateway, route: Route | None) -> FenceOrder | None:
    if route is None or route.fence_operation is None or route.active_gateway_id != gateway.id:
        return None
    return FenceOrder(
        operation=str(route.fence_operation), epoch=route.epoch, number=route.fence_number, cancelled=route.fence_cancelled
    )


def _drain_order(gateway: Gateway, route: Route | None) -> DrainOrder | None:
    if route is None or route.drain_operation is None or route.active_gateway_id != gateway.id:
        return None
    return DrainOrder(operation=str(route.drain_operation), epoch=route.epoch)


def _renewal_is_due(gateway: Gateway) -> bool:
    newest = GatewayCertificate.objects.filter(gateway=gateway, revoked_at__isnull=True).order_by("-not_after").first()
    if newest is None:
        return False
    life = newest.not_after - newest.not_before
    return clock_now() >= newest.not_before + timedelta(seconds=life.total_seconds() * RENEWAL_SHARE)


def _tasks_wait(gateway: Gateway) -> bool:
    return Task.objects.filter(
        environment_id=gateway.environment_id, state=TaskState.PENDING, not_before__lte=clock_now()
    ).exists()


def _generation() -> str:
    """Identity of this life of the Primary's database, so that a gateway knows which one its cursor belongs to."""
    found = PrimaryNode.objects.filter(id=1).values_list("generation", flat=True).first()
    return str(found or "")


def _resync_is_due(gateway: Gateway) -> bool:
    """Ordered and not begun: once it has asked for the first page again the order is in its hands."""
    return GatewayStatus.objects.filter(gateway=gateway, resync_ordered_at__isnull=False, resync_begun_at=None).exists()


class WaitingRoom:
    """Where directive calls wait in this process: a condition woken by one LISTEN connection, with a cap on seats."""

    def __init__(self) -> None:
        self._condition = Condition("waiting room")
        self._turn = 0
        self._waiting = 0
        self._closed = False
        self._listener: threading.Thread | None = None

    def wait_for_change(self, gateway: Gateway, after: str, seconds: float) -> Directive:
        """Return the directive once its revision differs from `after`, or when the time is over.

        Beyond the cap the answer comes at once with a retry time of 5 to 15 s, so that heartbeats never starve.
        """
        self._ensure_listener()
        turn = self._turn
        directive = directive_for(gateway)
        if directive.revision != after or seconds <= 0:
            return directive
        if not self._take_seat():
            return msgspec.structs.replace(directive, retry_after_seconds=random.uniform(5, 15))  # noqa: S311  jitter
        try:
            return self._sit(gateway, after, seconds, turn)
        finally:
            self._leave_seat()

    def _sit(self, gateway: Gateway, after: str, seconds: float, turn: int) -> Directive:
        deadline = time.monotonic() + seconds
        while True:
            connection.close()  # a waiting thread holds no database connection
            left = deadline - time.monotonic()
            with self._condition:
                if self._turn == turn and left > 0:
                    self._condition.wait(min(left, RECHECK_SECONDS))
                turn = self._turn
            gateway.refresh_from_db(fields=["held_at", "drained_at"])
            directive = directive_for(gateway)
            if directive.revision != after or time.monotonic() >= deadline or self._closed:
                return directive

    def close(self) -> None:
        """The process is ending: everybody gets an answer now."""
        self._closed = True
        self.wake()

    def wake(self) -> None:
        """Let everybody look again."""
        with self._condition:
            self._turn += 1
            self._condition.notify_all()

    def _take_seat(self) -> bool:
        with self._condition:
            if self._waiting >= settings.MAZEVAULT.threads // 2:
                return False
            self._waiting += 1
            return True

    def _leave_seat(self) -> None:
        with self._condition:
            self._waiting -= 1

    def _ensure_listener(self) -> None:
        with self._condition:
            if self._listener is None or not self._listener.is_alive():
                self._listener = threading.Thread(target=self._listen, name="directive-listener", daemon=True)
                self._listener.start()

    def _listen(self) -> None:
        """Turn NOTIFY into wake-ups. Ends when the connection is lost; the next caller starts it again."""
        try:
            with open_connection() as listening:
                listening.execute(f"LISTEN {DIRECTIVE_CHANNEL}")
                self.wake()
                for _ in listening.notifies():
                    self.wake()
        except psycopg.Error as error:
            log.warning("directive listener lost its connection (%s); calls look again every %s s", error, RECHECK_SECONDS)
            time.sleep(1)


room = WaitingRoom()
