"""Is this gateway alive now? A numbered question in its directive, and the answer that only a living one gives (DESIGN §8).

A heartbeat of a minute ago says nothing about a process that froze since. The number travels in the directive, for which every
gateway waits, so a living one answers within milliseconds; a frozen or killed one does not, however fresh its last heartbeat is.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec
from django.conf import settings
from django.db import connection
from django.db.models import Case, F, When
from django.db.models.functions import Now

from gateways import routes
from gateways.models import Gateway, SignOfLife
from protocol import messages

PATIENCE = 2.0
"""Seconds a person's request waits for answers. A living gateway needs milliseconds; whoever needs longer is waited for by the
driver."""
LOOK_SECONDS = 0.05
AGE_SHARE = 0.5
"""An answer is of now up to this share of the time in which a living gateway answers."""
AGAIN_SHARE = 0.25
"""While it matters the question is put again after this share of that time."""


def ask(gateway: Gateway) -> int:
    """Put the question unless one is open already, and wake the gateway's waiting call. Returns the number to be answered."""
    SignOfLife.objects.get_or_create(gateway=gateway)
    fresh = SignOfLife.objects.filter(gateway=gateway, answered__gte=F("asked"))
    if fresh.update(asked=F("asked") + 1, asked_at=Now()):
        routes.wake(gateway.environment_id)
    return asked_of(gateway.id)


def asked_of(gateway: uuid.UUID) -> int:
    """Number of the last question; 0 when there was none."""
    return SignOfLife.objects.filter(gateway_id=gateway).values_list("asked", flat=True).first() or 0


def take(gateway: Gateway, body: messages.SignOfLife) -> bool:
    """Keep an answer. False for a number that was never asked, or was answered before.

    It proves a life after its question. One that took longer than a living gateway needs has waited somewhere, and its sender may
    have ended since: it counts as being of the moment of its question, which is old by then, so the question is put again.
    """
    bound = timedelta(seconds=settings.MAZEVAULT.timing.sign_of_life)
    proven = Case(When(asked_at__lt=Now() - bound, then=F("asked_at")), default=Now())
    open_now = SignOfLife.objects.filter(gateway=gateway, asked__gte=body.number, answered__lt=body.number)
    return bool(open_now.update(answered=body.number, answered_at=proven, report=msgspec.to_builtins(body)))


def wait_for(questions: Iterable[tuple[uuid.UUID, int]], seconds: float = PATIENCE) -> None:
    """Return when all these (gateway, number) are answered or the time is over. Not for use inside a transaction."""
    open_ones, deadline = list(questions), time.monotonic() + seconds
    while True:
        open_ones = [(gateway, number) for gateway, number in open_ones if not has_answered(gateway, number)]
        if not open_ones or time.monotonic() >= deadline:
            return
        _pause(LOOK_SECONDS)


def has_answered(gateway: uuid.UUID, number: int) -> bool:
    return SignOfLife.objects.filter(gateway_id=gateway, answered__gte=number).exists()


def is_of_now(row: SignOfLife, since_number: int, moment: datetime, bound: timedelta) -> bool:
    """Whether the last answer is one to this question or a later one, and young enough to speak of this moment."""
    return row.answered >= since_number and row.answered_at is not None and moment - row.answered_at <= bound * AGE_SHARE


def is_silent(row: SignOfLife, asked_for: datetime, moment: datetime, bound: timedelta) -> bool:
    """Whether a question has been open for longer than a living gateway needs, counted from `asked_for` at the earliest."""
    return row.asked > row.answered and row.asked_at is not None and moment - max(row.asked_at, asked_for) > bound


def is_due_again(row: SignOfLife, moment: datetime, bound: timedelta) -> bool:
    return row.answered >= row.asked and (row.answered_at is None or moment - row.answered_at > bound * AGAIN_SHARE)


def _pause(seconds: float) -> None:
    """A waiting request holds no database connection."""
    connection.close()
    time.sleep(seconds)
