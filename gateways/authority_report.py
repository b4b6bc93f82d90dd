"""The generations of authorities and of the channel's signing key as people, metrics and the doctor see them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.clock import now as clock_now
from gateways import identity
from gateways.models import PrimaryKeyPair
from vault import generations, succession
from vault.generations import CHANNEL, LIVING, ROOT, Standing
from vault.models import CertificateAuthority

DAYS_LEFT = "mazevault_ca_days_left"
OVERDUE = "mazevault_ca_change_overdue"
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Row:
    """One living generation. `not_after` is when it ends, or when the trust in it ends if that is before."""

    authority: str
    generation: int
    standing: Standing
    key: str
    announced_at: datetime
    not_after: datetime
    days_left: float
    signs_from: datetime | None
    """Of a next generation: when it takes over."""
    followed_from: datetime | None
    """Of the one that signs: when its successor is announced, if that has not been yet."""
    key_is_here: bool
    warning: str
    """What a person must do, as a sentence; empty when nothing."""


def overview(now: datetime) -> list[Row]:
    """Every generation that is trusted now: the root's first, the channel's last, the oldest first."""
    rows = CertificateAuthority.objects.filter(standing__in=LIVING).defer("certificate")
    authorities_now = sorted(rows, key=lambda row: (row.scope != ROOT, row.scope, row.generation))
    found = [_of_authority(row) for row in authorities_now] + [_of_key(row) for row in identity.signing_generations()]
    by_scope = {scope: list(map(succession.fact, own)) for scope, own in groupby(authorities_now, attrgetter("scope"))}
    hindrances = {scope: succession.hindrance(scope, living, now) for scope, living in by_scope.items()}
    followed = {one.authority for one in found if one.standing is Standing.NEXT}
    return [_judged(one, one.authority in followed, hindrances.get(one.authority, ""), now) for one in found]


@dataclass(frozen=True)
class _Found:
    authority: str
    generation: int
    standing: Standing
    key: str
    announced_at: datetime
    end: datetime
    life: timedelta
    key_is_here: bool


def _of_authority(row: CertificateAuthority) -> _Found:
    end = min(row.not_after, row.trusted_until or row.not_after)
    return _Found(row.scope, row.generation, Standing(row.standing), row.key_id, row.announced_at, end,
                  row.not_after - row.announced_at, row.sealed_key is not None)  # fmt: skip


def _of_key(row: PrimaryKeyPair) -> _Found:
    return _Found(CHANNEL, row.generation, Standing(row.standing), row.kid, row.announced_at, row.not_after,
                  row.not_after - row.announced_at, row.sealed_private_key is not None)  # fmt: skip


def _judged(found: _Found, is_followed: bool, hindrance: str, now: datetime) -> Row:
    rules, signs = generations.rules_of(found.authority), found.standing is Standing.CURRENT
    return Row(
        authority=found.authority,
        generation=found.generation,
        standing=found.standing,
        key=found.key,
        announced_at=found.announced_at,
        not_after=found.end,
        days_left=round((found.end - now) / DAY, 1),
        signs_from=found.announced_at + rules.announcement if found.standing is Standing.NEXT else None,
        followed_from=found.end - rules.reserve if signs and not is_followed else None,
        key_is_here=found.key_is_here,
        warning=_warning(found.authority, found.end - now, found.life, hindrance) if signs else "",
    )


def _warning(authority: str, left: timedelta, life: timedelta, hindrance: str) -> str:
    if hindrance:
        return hindrance
    if left < generations.warn_below(life):
        return f"{authority} ends in {left / DAY:.0f} days and has no successor that signs; see the log for why"
    return ""


class AuthorityCollector(Collector):
    """Days left by authority and standing, and whether a change is overdue; read from the database at each scrape."""

    def collect(self) -> Iterator[Metric]:
        left = GaugeMetricFamily(DAYS_LEFT, "Days until a generation of an authority ends", labels=["authority", "generation"])
        overdue = GaugeMetricFamily(
            OVERDUE, "1 if the next generation of an authority is due and a person must act", labels=["authority"]
        )
        rows = overview(clock_now())
        for authority in dict.fromkeys(row.authority for row in rows):
            own = [row for row in rows if row.authority == authority]
            for standing in LIVING:
                days = [row.days_left for row in own if row.standing is standing]
                if days:
                    left.add_metric([authority, standing.value], min(days))
            overdue.add_metric([authority], 1 if any(row.warning for row in own) else 0)
        yield left
        yield overdue
