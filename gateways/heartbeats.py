"""What a gateway says about itself: stored, judged, labelled (DESIGN §7)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec
from django.conf import settings

from common.clock import moment_of
from common.errors import NotFound, Unavailable, ValidationFailed
from common.grouped import Grouped
from common.statements import fetch_named
from gateways import audit_chains, directives, doubts, health, losses, replicas, sightings
from gateways.acting import UNWATCHED
from gateways.beliefs import Known
from gateways.desks import Desk, RequestDesk, at_once
from gateways.models import Gateway, GatewayStatus
from gateways.sightings import Sighting
from protocol.messages import Heartbeat
from protocol.vocabulary import Assignment, HealthLabel

log = logging.getLogger("mazevault.gateways.heartbeats")

JUDGE_SECONDS = 3.0
"""Shortest time between two looks at a silent gateway, whatever number of processes look."""
TRIES = 5
"""A heartbeat is judged by what was read; when others changed it in between, it is read again so often."""
JUDGED_AT_ONCE = 2000
"""Most gateways judged in one look of the loop; those not judged for longest come first."""

LOOK = Grouped("look", f"""
SELECT asked.place, {sightings.COLUMNS}, {replicas.COLUMNS}, {directives.COLUMNS}, {losses.COLUMNS}, {audit_chains.COLUMNS},
       {doubts.COLUMNS}
  FROM {{asked}} CROSS JOIN {sightings.SOURCES} WHERE g.id = asked.gateway
""", {"gateway": "uuid", "spoken_of": "bigint"}, key="gateway")  # noqa: S608  constants of these modules  # fmt: skip
STORE = Grouped("store", f"""
WITH asked AS MATERIALIZED (SELECT * FROM {{asked}}), held AS MATERIALIZED (
    SELECT asked.* FROM asked JOIN gateways_gatewaystatus s ON s.gateway_id = asked.gateway {{hold}}
), told AS ({losses.TAKE_REPORT}), stored AS (
UPDATE gateways_gatewaystatus s
   SET heartbeat_at = clock_timestamp(), report = held.report::jsonb, clock_skew_seconds = held.skew, score = held.score,
       label = held.label, label_memory = held.memory::jsonb, stable_since = held.stable, good_in_row = held.good,
       consecutive_failures = 0, highest_epoch = GREATEST(s.highest_epoch, held.epoch),
       resync_ordered_at = CASE WHEN held.begun_anew AND s.resync_begun_at IS NOT NULL THEN NULL ELSE s.resync_ordered_at END,
       resync_ended_at = CASE WHEN held.begun_anew AND s.resync_begun_at IS NOT NULL THEN clock_timestamp()
                              ELSE s.resync_ended_at END,
       resync_begun_at = CASE WHEN held.begun_anew THEN NULL ELSE s.resync_begun_at END
  FROM held
 WHERE s.gateway_id = held.gateway
   AND s.heartbeat_at IS NOT DISTINCT FROM held.was_heard AND s.judged_at IS NOT DISTINCT FROM held.was_judged
RETURNING held.place
)
SELECT held.place, stored.place IS NOT NULL AS is_stored FROM held LEFT JOIN stored USING (place)
""", {  # noqa: S608
    "gateway": "uuid", "generation": "uuid", "last_sequence": "bigint", "report": "text", "skew": "float8", "score": "float8",
    "label": "text", "memory": "text", "stable": "timestamptz", "good": "int", "epoch": "bigint", "begun_anew": "bool",
    "was_heard": "timestamptz", "was_judged": "timestamptz",
}, key="gateway", hold="FOR NO KEY UPDATE OF s SKIP LOCKED")  # fmt: skip
_DUE = f"""
SELECT {sightings.COLUMNS} FROM {sightings.SOURCES}
 WHERE {sightings.LIVING} AND s.gateway_id IS NOT NULL
   AND (s.judged_at IS NULL OR s.judged_at < statement_timestamp() - %(pause)s * interval '1 second'
        OR s.judged_at > statement_timestamp())
 ORDER BY s.judged_at NULLS FIRST LIMIT %(limit)s
"""  # noqa: S608
"""A time ahead of the database's clock was stored by another clock, or before that one was put back: it holds nobody up."""
_STORE_JUDGED = """
UPDATE gateways_gatewaystatus s
   SET label = v.label, label_memory = v.memory, score = v.score, consecutive_failures = v.missed, good_in_row = v.good,
       stable_since = v.stable, watched_since = v.watched, judged_at = clock_timestamp()
  FROM jsonb_to_recordset(%(rows)s::jsonb) AS v(gateway uuid, label text, memory jsonb, score float8, missed int, good int,
       stable timestamptz, watched timestamptz, was_heard timestamptz, was_judged timestamptz)
 WHERE s.gateway_id = v.gateway
   AND s.heartbeat_at IS NOT DISTINCT FROM v.was_heard AND s.judged_at IS NOT DISTINCT FROM v.was_judged
RETURNING s.gateway_id
"""


@dataclass(frozen=True)
class Judged:
    """One gateway with its score at a moment and the label the hysteresis gives it."""

    seen: Sighting
    health: health.Health
    label: HealthLabel

    @property
    def age_seconds(self) -> float | None:
        return self.seen.age_seconds


@dataclass(frozen=True)
class Heard:
    """A gateway after its heartbeat, and the row with everything that was read for it."""

    seen: Sighting
    row: Mapping[str, Any]


def take_heartbeat(gateway: Gateway, beat: Heartbeat) -> Heard:
    """`heartbeat_taken` where nothing waits for anything else."""
    return at_once(heartbeat_taken(RequestDesk(), gateway, beat))


async def heartbeat_taken(desk: Desk, gateway: Gateway, beat: Heartbeat) -> Heard:
    """Store a heartbeat and what follows from it. What is not believed is refused, and nothing of it is stored.

    Read, judged and stored in one statement each, whatever is stored here; all times are the database's. What follows in rare
    cases (a freeze, an order to read again, the end of a loss) is done after that, and by the next heartbeat if this process
    ends before.
    """
    sent = parse_moment("sent_at", beat.sent_at)
    parse_moment("certificate_expires_at", beat.certificate_expires_at)
    heard = await _stored(desk, gateway, beat, sent)
    if heard.seen.version != beat.version:
        await desk.apart(lambda: Gateway.objects.filter(pk=gateway.pk).update(version=beat.version))
    if _has_consequences(beat, heard) and await desk.apart(lambda: _follow(gateway, beat, heard)):
        return await _look(desk, gateway, beat)
    return heard


async def _stored(desk: Desk, gateway: Gateway, beat: Heartbeat, sent: datetime) -> Heard:
    for _ in range(TRIES):
        heard = await _look(desk, gateway, beat)
        if not heard.seen.heard:
            await desk.apart(lambda: GatewayStatus.objects.get_or_create(gateway=gateway))
            continue
        known = doubts.known_in(heard.seen, heard.row)
        if doubts.is_remarkable(gateway, beat, known) and await _heeded(desk, gateway, beat, known):
            heard = await _look(desk, gateway, beat)
        after = _after(heard, beat, sent)
        row = await desk.run(STORE, _stored_values(heard, beat, after))
        if row is not None and row["is_stored"]:
            return replace(heard, seen=after)
    raise Unavailable("this gateway's state was changed by others at the same time; send it again", retry_after=1)


async def _heeded(desk: Desk, gateway: Gateway, beat: Heartbeat, known: Known) -> bool:
    return await desk.apart(lambda: doubts.heed_heartbeat(gateway, beat, known))


async def _look(desk: Desk, gateway: Gateway, beat: Heartbeat) -> Heard:
    spoken_of = beat.countersigned.position if beat.countersigned else -1
    row = await desk.run(LOOK, {"gateway": gateway.id, "spoken_of": spoken_of})
    if row is None:
        raise NotFound("there is no such gateway any more")
    return Heard(sightings.sighting(row), row)


def _after(heard: Heard, beat: Heartbeat, sent: datetime) -> Sighting:
    """The gateway as it is once this heartbeat counts. Pure."""
    seen, feed = heard.seen, replicas.FeedFacts.of(heard.row)
    told = replace(
        seen, heartbeat_at=seen.moment, report=msgspec.to_builtins(beat), clock_skew_seconds=(sent - seen.moment).total_seconds(),
        consecutive_failures=0, highest_epoch=max(seen.highest_epoch, min(beat.epoch, seen.route.epoch if seen.route else 0)),
    )  # fmt: skip
    if replicas.has_begun_anew(seen, feed, beat):
        told = replace(told, resync_ordered_at=None, resync_begun_at=None, resync_ended_at=seen.moment)
    return _relabelled(told)


def _stored_values(heard: Heard, beat: Heartbeat, after: Sighting) -> dict[str, Any]:
    """Stored only where nobody else stored or judged in between: then what was decided may be wrong."""
    before = heard.seen
    return {
        "gateway": after.id, "generation": after.generation, "last_sequence": beat.write_queue_last_sequence,
        "report": msgspec.json.encode(after.report).decode(), "skew": after.clock_skew_seconds, "score": after.score,
        "label": after.label, "memory": msgspec.json.encode(after.label_memory).decode(), "stable": after.stable_since,
        "good": after.good_in_row,
        "epoch": after.highest_epoch, "begun_anew": replicas.has_begun_anew(before, replicas.FeedFacts.of(heard.row), beat),
        "was_heard": before.heartbeat_at, "was_judged": before.judged_at,
    }  # fmt: skip


def _has_consequences(beat: Heartbeat, heard: Heard) -> bool:
    """Whether there is anything for `_follow` to do. Pure."""
    return replicas.needs_resync(heard.seen, replicas.FeedFacts.of(heard.row), beat) or losses.may_be_complete(heard.row, beat)


def _follow(gateway: Gateway, beat: Heartbeat, heard: Heard) -> bool:
    """What rarely follows from a heartbeat. True when the facts it was judged by may have changed by it."""
    feed, before = replicas.FeedFacts.of(heard.row), heard.seen
    differs = replicas.needs_resync(before, feed, beat)
    if differs:
        replicas.order_resync(gateway, before.moment, "its digest differs from the Primary's")
    if losses.may_be_complete(heard.row, beat):
        losses.close_finished(gateway.environment_id)
    return differs


def judge(seen: Sighting) -> Judged:
    """Score and label of a gateway at the moment it was looked at. Pure; a gateway that was never heard scores 0."""
    facts = judge_facts(seen)
    result = health.score(facts, settings.MAZEVAULT.timing)
    age = facts.age_seconds
    silent = seen.stopped or age is None or age >= settings.MAZEVAULT.timing.heartbeat_zero_age
    label = HealthLabel.SILENT if silent else HealthLabel(seen.label)
    return Judged(seen, result, label)


def judge_facts(seen: Sighting) -> health.HealthFacts:
    """Turn rows into the facts the pure score needs."""
    report = seen.report
    active = report.get("reported_role") == Assignment.ACTIVE
    return health.HealthFacts(
        age_seconds=seen.age_seconds,
        database=_ok(report, "database"),
        gateway_key_vault=_ok(report, "gateway_key_vault"),
        project_key_vaults=tuple(probe["ok"] for probe in report.get("project_key_vaults", []) if probe["ok"] is not None),
        cache=_ok(report, "cache"),
        write_queue_depth=report.get("write_queue_depth", 0),
        tasks_succeeded=seen.tasks_good,
        tasks_failed=seen.tasks_bad,
        latency_p95_ms=report.get("primary_latency_p95_ms"),
        clock_skew_seconds=seen.clock_skew_seconds,
        certificate_days_left=seen.certificate_days_left,
        breaker=report.get("breaker", "closed"),
        acts_on_wrong_epoch=active and not _is_route_of(seen, report.get("epoch", 0)),
        version_supported=_same_major(report.get("version", seen.version)),
        stopped=seen.stopped,
    )


def count_missed() -> int:
    """Count heartbeats that are overdue and let labels fall with them. Returns how many gateways changed label.

    Two statements, however many gateways there are; times are the database's. Several processes may do it side by side: whoever
    comes within a few seconds of another finds nothing to judge, and of two at the same instant one stores nothing.
    """
    values = {"pause": JUDGE_SECONDS, "limit": JUDGED_AT_ONCE}
    looked_at = [sightings.sighting(row) for row in fetch_named(_DUE, values)]
    judged = [(seen, *_missed(seen)) for seen in looked_at]
    changed = 0
    for seen, after, silent in _store_judged(judged):
        if after.label != seen.label:
            changed += 1
            log.warning("gateway %s is now %s (was %s), silent for %.0f s", seen.name, after.label, seen.label, silent)
    return changed


def _missed(seen: Sighting) -> tuple[Sighting, float]:
    """The gateway after this look, and for how many seconds it has been silent while somebody listened. Pure."""
    unwatched = seen.judged_at is None or seen.moment - seen.judged_at > UNWATCHED
    watched = replace(seen, watched_since=seen.moment) if unwatched else seen
    silent = _silent_seconds(watched)
    after = _relabelled(watched) if silent > settings.MAZEVAULT.timing.heartbeat_full_age or seen.stopped else watched
    missed = max(0, int(silent // settings.MAZEVAULT.timing.heartbeat_interval) - 1)
    return replace(after, consecutive_failures=missed), silent


def _store_judged(judged: list[tuple[Sighting, Sighting, float]]) -> list[tuple[Sighting, Sighting, float]]:
    """Store what was judged, but for gateways that were heard or judged meanwhile. Returns those that were stored."""
    if not judged:
        return []
    rows = [
        {
            "gateway": str(after.id), "label": after.label, "memory": after.label_memory, "score": after.score,
            "missed": after.consecutive_failures, "good": after.good_in_row, "stable": _text(after.stable_since),
            "watched": _text(after.watched_since), "was_heard": _text(seen.heartbeat_at), "was_judged": _text(seen.judged_at),
        }
        for seen, after, _ in judged
    ]  # fmt: skip
    stored = {row["gateway_id"] for row in fetch_named(_STORE_JUDGED, {"rows": json.dumps(rows)})}
    return [one for one in judged if one[0].id in stored]


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def parse_moment(field: str, text: str) -> datetime:
    """An RFC 3339 time with zone, in UTC, or `ValidationFailed` naming the field."""
    moment = moment_of(text)
    if moment is None:
        raise ValidationFailed(f"{field} must be a time such as 2026-03-19T12:00:00Z")
    return moment


def _silent_seconds(seen: Sighting) -> float:
    """How long the gateway has been silent while somebody listened."""
    heard = [at for at in (seen.heartbeat_at, seen.watched_since) if at]
    return (seen.moment - max(heard)).total_seconds() if seen.heartbeat_at and heard else 0.0


def _relabelled(seen: Sighting) -> Sighting:
    """Score, label and their memory after one more judgement. Pure."""
    timing, facts = settings.MAZEVAULT.timing, judge_facts(seen)
    result = health.score(facts, timing)
    memory = health.LabelMemory.from_json(seen.label, seen.label_memory)
    following = health.next_label(memory, result.score, None if seen.stopped else facts.age_seconds, seen.moment, timing)
    good = result.score >= health.RECOVERED_SCORE
    return replace(
        seen, label=following.label.value, label_memory=following.to_json(), score=result.score,
        good_in_row=seen.good_in_row + 1 if good else 0, stable_since=(seen.stable_since or seen.moment) if good else None,
    )  # fmt: skip


def _is_route_of(seen: Sighting, epoch: int) -> bool:
    return seen.route is not None and (seen.route.active_gateway_id, seen.route.epoch) == (seen.id, epoch)


def _ok(report: Mapping[str, Any], part: str) -> bool | None:
    probe = report.get(part)
    return probe["ok"] if probe else None


def _same_major(version: str) -> bool:
    return version.split(".", 1)[0] == settings.MAZEVAULT.version.split(".", 1)[0]
