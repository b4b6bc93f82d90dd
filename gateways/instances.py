"""Each verified message is noted under the instance that sent it: whether that one counts, waits, or proves two lives.

The usual message, the next one of the current instance, costs one statement. Everything else is judged by `gateways.presence`
under the lock of the gateway's presence row, which is never held together with another lock but by the renewal of a lease.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.conf import settings
from django.db import connection, transaction
from django.db.models import DateTimeField, Exists, F, Func, OuterRef, Q, Subquery

from common import audit, retention
from common.clock import database_now
from common.errors import Conflict, PermissionRefused
from common.grouped import Grouped, Row
from common.retained import PRIMARY
from common.statements import fetch
from gateways import losses, presence, quarantine, routes
from gateways.desks import Desk, RequestDesk, at_once
from gateways.models import (
    Gateway,
    GatewayInstance,
    GatewayPresence,
    MessageReceipt,
    Route,
    WriteStream,
)
from gateways.presence import LAG_RISE, Instance, Known, Pair, Ruling, Spans, Standing, Way, Word
from gateways.quarantine import Reason
from protocol.envelope import Header

log = logging.getLogger("mazevault.gateways.instances")

KEPT = 5
"""Instances of a gateway that are remembered; the longest silent one goes first."""
SHOWN = timedelta(minutes=10)
"""For so long people are shown an instance that waits, after it was last heard."""
PUT_BACK_SHOWN = timedelta(days=1)
LONGEST_RETRY = 15.0
"""Seconds after which an instance that waits asks again at the latest."""
WAITS_NOW = timedelta(seconds=2 * LONGEST_RETRY)
"""An instance that was told to wait and was last heard longer ago than this is gone."""
MAY_STILL_ACT = "another instance of this gateway may still act"

HEAR = Grouped("hear", """
WITH asked AS MATERIALIZED (SELECT * FROM {asked}), known AS MATERIALIZED (
    SELECT asked.*, g.banned_at IS NOT NULL OR g.decommissioned_at IS NOT NULL AS is_out, g.held_code,
           g.generation AS generation_now, c.revoked_at IS NOT NULL AS is_revoked
      FROM asked JOIN gateways_gateway g ON g.id = asked.gateway
      JOIN gateways_gatewaypresence p ON p.gateway_id = asked.gateway
      LEFT JOIN gateways_gatewaycertificate c ON c.fingerprint = asked.fingerprint {hold}
), taken AS (
    INSERT INTO gateways_messagereceipt (message_id, gateway_id, generation, sequence, instance)
    SELECT message, gateway, generation, sequence, instance FROM known ON CONFLICT DO NOTHING RETURNING message_id
), mine AS (
    UPDATE gateways_gatewaypresence p
       SET sequence = GREATEST(p.sequence, known.sequence),
           until = GREATEST(p.until, clock_timestamp() + known.quiet * interval '1 second')
      FROM known JOIN taken ON taken.message_id = known.message
     WHERE p.gateway_id = known.gateway AND p.generation = known.generation AND p.instance = known.instance AND NOT p.ended
       AND p.floor < known.sequence
    RETURNING known.place, p.put_back, p.write_sequence, p.told_in
), heard AS (
    UPDATE gateways_gatewayinstance i
       SET address = known.address,
           lag_seconds = CASE WHEN way.took <= i.lag_seconds THEN way.took
                              WHEN i.lag_grown_at > way.moment
                                   OR i.lag_grown_at <= way.moment - known.quiet * interval '1 second'
                              THEN i.lag_seconds + known.rise * (way.took - i.lag_seconds) ELSE i.lag_seconds END,
           lag_grown_at = CASE WHEN way.took > i.lag_seconds AND (i.lag_grown_at > way.moment
                                    OR i.lag_grown_at <= way.moment - known.quiet * interval '1 second')
                               THEN way.moment ELSE i.lag_grown_at END,
           heard_at = CASE WHEN way.took - i.lag_seconds <= known.late THEN way.moment ELSE i.heard_at END
      FROM known JOIN mine USING (place) CROSS JOIN LATERAL (
               SELECT clock_timestamp() AS moment, extract(epoch FROM clock_timestamp()) - known.issued AS took
           ) way
     WHERE i.gateway_id = known.gateway AND i.instance = known.instance
    RETURNING 1
)
SELECT known.place, taken.message_id IS NOT NULL AS taken, mine.put_back, mine.write_sequence, mine.told_in,
       known.is_out, known.is_revoked, known.held_code, known.generation_now
  FROM known LEFT JOIN taken ON taken.message_id = known.message LEFT JOIN mine USING (place)
""", {
    "message": "uuid", "gateway": "uuid", "generation": "uuid", "sequence": "bigint", "instance": "uuid", "address": "text",
    "issued": "bigint", "quiet": "float8", "late": "float8", "rise": "float8", "fingerprint": "text",
}, key="gateway", hold="FOR KEY SHARE OF g SKIP LOCKED FOR NO KEY UPDATE OF p SKIP LOCKED")  # fmt: skip
"""Takes a message once and notes it under its instance. It answers too how the gateway and its certificate stand at this moment,
whatever was remembered of them."""
_DROP_RECEIPTS = """
WITH dropped AS (
    DELETE FROM gateways_messagereceipt WHERE message_id IN (
        SELECT message_id FROM gateways_messagereceipt WHERE received_at < statement_timestamp() - %s * interval '1 day'
         ORDER BY received_at LIMIT %s FOR UPDATE SKIP LOCKED)
    RETURNING gateway_id, generation, sequence
), top AS (
    SELECT gateway_id, generation, max(sequence) AS sequence FROM dropped GROUP BY gateway_id, generation
), raised AS (
    UPDATE gateways_gatewaypresence known SET floor = GREATEST(known.floor, top.sequence)
      FROM top WHERE known.gateway_id = top.gateway_id AND known.generation = top.generation
)
SELECT count(*) FROM dropped
"""


@dataclass(frozen=True)
class Seat:
    """Where the instance that speaks stands. `wait`: seconds until another one may become current, for one that is not."""

    current: bool
    wait: float = 0.0
    put_back: bool = False
    write_sequence: int = 0
    told_in: int = 0

    @property
    def retry(self) -> float:
        return min(max(self.wait, 0.5), LONGEST_RETRY)


def hear(gateway: Gateway, header: Header, address: str) -> Seat:
    """`take` and `seat_of` where nothing waits for anything else; of a message whose certificate nobody asks for."""
    desk = RequestDesk()
    row = at_once(take(desk, gateway, "", header, address))
    return at_once(seat_of(desk, gateway, header, address, row)) if row is not None else Seat(False)


async def take(desk: Desk, gateway: Gateway, fingerprint: str, header: Header, address: str) -> Row | None:
    """Take a verified message once. Returns what `HEAR` answers; None when there is no such gateway any more."""
    spans = Spans.of(settings.MAZEVAULT.timing)
    item = {
        "message": uuid.UUID(header.message_id), "gateway": gateway.id, "generation": gateway.generation,
        "sequence": header.sequence, "instance": uuid.UUID(header.instance), "address": address[:64],
        "issued": header.issued_at, "quiet": spans.quiet.total_seconds(), "late": spans.late.total_seconds(),
        "rise": LAG_RISE, "fingerprint": fingerprint,
    }  # fmt: skip
    row = await desk.run(HEAR, item)
    if row is None:
        await desk.apart(lambda: _be_present(gateway))
        row = await desk.run(HEAR, item)
    return row


def is_as_remembered(row: Row, gateway: Gateway) -> bool:
    """Whether the gateway and its certificate were, when the message was taken, what was remembered of them."""
    standing = (row["is_out"], row["is_revoked"], row["held_code"], row["generation_now"])
    return standing == (False, False, gateway.held_code, gateway.generation)


async def seat_of(desk: Desk, gateway: Gateway, header: Header, address: str, row: Row) -> Seat:
    """Whether the sender of a message that was taken counts. `gateway` is as it was then, or later.

    Raises `Conflict`: REPLAYED for the same message again, NUMBER_USED for another message under a number that was used before,
    with the next number that is free in `details`.
    """
    if row["put_back"] is not None:
        return Seat(True, 0.0, row["put_back"], row["write_sequence"], row["told_in"])
    return await desk.apart(lambda: _judged_unless_replayed(gateway, header, address, taken=row["taken"]))


def _be_present(gateway: Gateway) -> None:
    GatewayPresence.objects.get_or_create(gateway=gateway, defaults={"generation": gateway.generation})


def _judged_unless_replayed(gateway: Gateway, header: Header, address: str, *, taken: bool) -> Seat:
    if not taken and MessageReceipt.objects.filter(message_id=header.message_id).exists():
        log.warning("replayed message %s of %s refused", header.message_id, gateway.name)
        raise Conflict("this message was taken before", code="REPLAYED")
    return _judged(gateway, header, address, Spans.of(settings.MAZEVAULT.timing), fresh=taken)


def say_goodbye(gateway: Gateway, instance: str, number: int) -> None:
    """This instance will do nothing more: the next one need not wait for it, and nothing it still says counts.

    `number` is that of the message: a lease that was asked for later goes on.
    """
    with transaction.atomic():
        renewed = Route.objects.filter(active_gateway=gateway, lease_sequence__gte=number)
        current = _presence_of(gateway).filter(instance=instance)
        if (
            current.filter(~Exists(renewed)).update(ended=True) or not current.exists()
        ):  # one that waits will never be the current one
            GatewayInstance.objects.filter(gateway=gateway, instance=instance).update(ended=True)
            routes.wake(gateway.environment_id)


def says_what_is_known(seat: Seat, said: int) -> bool:
    """Whether there is nothing to look at in what it says of its stream of writes."""
    return not seat.put_back and said == seat.write_sequence


def look_at_writes(gateway: Gateway, seat: Seat, said: int, number: int) -> int:
    """What the current instance says of its stream of writes, in a message of this number. Returns the number it must go beyond
    because its database was put back, or 0.

    Numbers that were used for other writes must not come again. What it had acknowledged and nobody holds any more is lost: that
    is told, and a person decides.
    """
    if not seat.put_back and (said >= seat.write_sequence or number < seat.told_in):
        if said > seat.write_sequence:
            _presence_of(gateway).filter(write_sequence__lt=said).update(write_sequence=said, told_in=number)
        return 0
    stream = WriteStream.objects.filter(gateway=gateway, generation=gateway.generation).first()
    arrived = stream.highest if stream else 0
    target = max(arrived, seat.write_sequence)
    _presence_of(gateway).update(put_back=said < target, write_sequence=max(target, said), told_in=number)
    if said >= target:
        routes.wake(gateway.environment_id)
        return 0
    life = gateway.id, gateway.generation
    lost = losses.missing_of(*life, seat.write_sequence) - losses.missing_of(*life, said)
    if lost > 0:
        first = losses.first_missing_of(*life, said + 1, seat.write_sequence)
        quarantine.set_aside(
            gateway, Reason.PUT_BACK,
            f"its database was put back to an earlier state: {lost} of the writes it had acknowledged with the numbers "
            f"{first} to {seat.write_sequence} have not arrived here and are not in its database any more",
            {"lost": lost, "first_lost": first, "last_lost": seat.write_sequence}, address="", now=database_now(),
        )  # fmt: skip
    return target


def after_writes(seat: Seat, beyond: int) -> Seat:
    """The seat once its stream of writes was looked at."""
    return replace(seat, put_back=beyond > 0)


@dataclass(frozen=True)
class Told:
    """What people should know of a gateway's processes. Times are the database's.

    `stopped_at`: its process said goodbye and no other one came since. `started_at`: its present one was first heard.
    `waits_until`: so long at most its newest one waits, because a former one may still act.
    """

    complaints: tuple[str, ...] = ()
    stopped_at: datetime | None = None
    started_at: datetime | None = None
    waits_until: datetime | None = None


class _Heard(NamedTuple):
    """A row of `_HEARD`: an instance, with what its gateway's presence says and the time of now."""

    gateway_id: uuid.UUID
    instance: uuid.UUID
    address: str
    first_heard_at: datetime
    heard_at: datetime
    ended: bool
    shared: bool
    waiting_since: datetime | None
    current: uuid.UUID | None
    until: datetime
    seen_at: datetime


_HEARD = """
SELECT i.gateway_id, i.instance, i.address, i.first_heard_at, i.heard_at, i.ended, i.shared,
       i.waiting_since, p.instance, p.until, clock_timestamp()
  FROM gateways_gatewayinstance i
  JOIN gateways_gateway g ON g.id = i.gateway_id AND g.decommissioned_at IS NULL
  JOIN gateways_gatewaypresence p ON p.gateway_id = i.gateway_id ORDER BY i.heard_at DESC
"""


def told_of_all() -> dict[uuid.UUID, Told]:
    """By gateway, for those that were ever heard. One statement."""
    rows: dict[uuid.UUID, list[_Heard]] = {}
    for found in fetch(_HEARD, {}):
        row = _Heard(*found)
        rows.setdefault(row.gateway_id, []).append(row)
    return {identifier: _told_of(of_gateway) for identifier, of_gateway in rows.items()}


def life_of_active() -> dict[str, Subquery]:
    """`Told`'s times of the active gateway, as annotations of a queryset of routes."""
    mine = GatewayInstance.objects.filter(
        gateway=OuterRef("active_gateway"), gateway__presence__generation=F("gateway__generation")
    )
    current = mine.filter(instance=F("gateway__presence__instance"))
    waiting = mine.filter(ended=False, waiting_since__isnull=False, heard_at__gt=_now() - WAITS_NOW)
    return {
        "stopped_at": Subquery(current.filter(ended=True).values("heard_at")[:1]),
        "started_at": Subquery(current.filter(ended=False).values("first_heard_at")[:1]),
        "waits_until": Subquery(waiting.values("gateway__presence__until")[:1]),
    }


def drop_receipts() -> int:
    """Forget messages whose repetition is refused by its time alone. Their numbers stay used: the floor rises with them."""
    rule = next(one for one in retention.rules_of(PRIMARY) if one.table == MessageReceipt._meta.db_table)
    total = 0
    for _ in range(retention.BATCHES):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_DROP_RECEIPTS, [retention.days_of(rule), retention.BATCH])
            gone: int = cursor.fetchone()[0]
            retention.note_removed(rule.table, gone)
        total += gone
        if gone < retention.BATCH:
            break
    return total


def _now() -> Func:
    return Func(function="clock_timestamp", output_field=DateTimeField())


def _complaints(rows: Sequence[Any]) -> Iterator[str]:
    """Of rows of one gateway with `current` and `seen_at`."""
    counted = next((row for row in rows if row.instance == row.current), None)
    if counted is None:
        return
    its = _told(_instance(counted), counted.address)
    if counted.shared and counted.seen_at - counted.first_heard_at < PUT_BACK_SHOWN:
        yield f"its database was put back to an earlier state, and it went on with new message numbers: {its}"
    for row in rows:
        if row.waiting_since and not row.ended and row.seen_at - row.heard_at < SHOWN:
            yield f"a second instance waits and gets nothing: {_told(_instance(row), row.address)}; the one that counts: {its}"


def _told_of(rows: Sequence[Any]) -> Told:
    """Of rows of one gateway with `current`, `until` and `seen_at`, the last heard one first."""
    current = next((row for row in rows if row.instance == row.current), None)
    waits = any(row.waiting_since and not row.ended and row.seen_at - row.heard_at < WAITS_NOW for row in rows)
    return Told(
        complaints=tuple(_complaints(rows)),
        stopped_at=current.heard_at if current and current.ended else None,
        started_at=current.first_heard_at if current and not current.ended else None,
        waits_until=rows[0].until if waits else None,
    )


def _told(one: Instance, address: str) -> str:
    return f"instance {one.id} at {address or 'an unknown address'}, last heard {_time(one.heard_at)}"


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _presence_of(gateway: Gateway):  # type: ignore[no-untyped-def]
    return GatewayPresence.objects.filter(gateway=gateway, generation=gateway.generation)


def _judged(gateway: Gateway, header: Header, address: str, spans: Spans, *, fresh: bool) -> Seat:
    with transaction.atomic():
        row = _locked(gateway)
        now = database_now()
        rows = {one.instance: one for one in GatewayInstance.objects.filter(gateway=gateway)}
        lag = now.timestamp() - header.issued_at
        word = _word(gateway, header, rows, now, lag, spans, fresh=fresh)
        known = _known(gateway, row, rows)
        speaker = rows.get(word.instance)
        ruling = presence.judge(known, _instance(speaker) if speaker else None, word, spans)
        _store(gateway, row, ruling, word, address, lag, spans)
    if ruling.two_lives and not quarantine.has_two_lives(gateway):
        _set_aside(gateway, ruling.two_lives, {one.instance: one.address for one in rows.values()}, address, now)
    elif ruling.standing is Standing.TAKES_OVER:
        _tell_of_a_new_instance(gateway, ruling, address)
        routes.wake(gateway.environment_id)  # the former one may be waiting for its directive
    if ruling.used:
        raise _number_used(gateway, header, row.sequence + 1)
    wait = (ruling.until - now).total_seconds()
    return Seat(ruling.standing is not Standing.WAITS, max(wait, 0.0), row.put_back, row.write_sequence, row.told_in)


def _locked(gateway: Gateway) -> GatewayPresence:
    """The row of this generation. With a new one everything begins afresh: the former certificate is revoked.

    Whoever read the gateway before it was enrolled anew comes too late, and unseats nobody.
    """
    GatewayPresence.objects.get_or_create(gateway=gateway, defaults={"generation": gateway.generation})
    row = GatewayPresence.objects.select_for_update().get(gateway=gateway)
    if Gateway.objects.values_list("generation", flat=True).get(pk=gateway.pk) != gateway.generation:
        raise PermissionRefused("this gateway was enrolled anew, and this certificate with its former life has ended",
                                code="CERTIFICATE_REVOKED")  # fmt: skip
    if row.generation != gateway.generation:
        GatewayInstance.objects.filter(gateway=gateway).delete()
        row = GatewayPresence(gateway=gateway, generation=gateway.generation)
        row.save(force_update=True)
    return row


def _known(gateway: Gateway, row: GatewayPresence, rows: dict[uuid.UUID, GatewayInstance]) -> Known:
    current = rows.get(row.instance) if row.instance else None
    return Known(
        current=_instance(current) if current else None, until=row.until, sequence=row.sequence, floor=row.floor,
        evidence_from=Gateway.objects.values_list("released_at", flat=True).get(pk=gateway.pk),
    )  # fmt: skip


def _instance(row: GatewayInstance | _Heard) -> Instance:
    return Instance(row.instance, row.first_heard_at, row.heard_at, row.ended, row.shared, row.waiting_since)


def _word(gateway: Gateway, header: Header, rows: dict[uuid.UUID, GatewayInstance], now: datetime, lag: float, spans: Spans,
          *, fresh: bool) -> Word:  # fmt: skip
    instance, owner = uuid.UUID(header.instance), None
    if not fresh:
        receipt = MessageReceipt.objects.filter(gateway=gateway, generation=header.generation, sequence=header.sequence).first()
        owner = _owner(receipt, rows) if receipt else None
    speaker = rows.get(instance)
    punctual = speaker is None or lag <= speaker.lag_seconds + spans.late.total_seconds()
    return Word(instance, header.sequence, now, fresh, punctual, owner)


def _owner(receipt: MessageReceipt, rows: dict[uuid.UUID, GatewayInstance]) -> Instance | None:
    if receipt.instance is None:
        return None
    row = rows.get(receipt.instance)
    return _instance(row) if row else Instance(receipt.instance, receipt.received_at, receipt.received_at)


def _store(gateway: Gateway, row: GatewayPresence, ruling: Ruling, word: Word, address: str, lag: float, spans: Spans) -> None:
    speaker = ruling.speaker
    known = GatewayInstance.objects.filter(gateway=gateway, instance=speaker.id).first()
    way = Way(known.lag_seconds, known.lag_grown_at).after(lag, word.now, spans) if known else Way(lag, word.now)
    facts = {
        "address": address[:64], "heard_at": speaker.heard_at, "shared": speaker.shared, "waiting_since": speaker.waiting_since,
        "lag_seconds": way.seconds, "lag_grown_at": way.grown_at,
    }  # fmt: skip
    GatewayInstance.objects.update_or_create(
        gateway=gateway, instance=speaker.id, defaults=facts, create_defaults={**facts, "first_heard_at": speaker.first_heard_at}
    )
    if word.fresh:
        row.sequence = max(row.sequence, word.number)
    row.until = ruling.until
    if ruling.standing is Standing.TAKES_OVER:
        row.instance, row.ended, row.until = speaker.id, False, word.now + spans.quiet
        row.put_back = row.put_back or speaker.shared
    row.save()
    if known is None:
        _forget_the_oldest(gateway, row.instance)


def _forget_the_oldest(gateway: Gateway, current: uuid.UUID | None) -> None:
    others = GatewayInstance.objects.filter(gateway=gateway).exclude(Q(instance=current) if current else Q(pk=None))
    surplus = list(others.order_by("-heard_at").values_list("pk", flat=True)[KEPT - 1 :])
    GatewayInstance.objects.filter(pk__in=surplus).delete()


def _set_aside(gateway: Gateway, pair: Pair, known: Mapping[uuid.UUID, str], address: str, now: datetime) -> None:
    """`known` are the addresses from before this message, which came from `address`."""
    speaker, other = pair
    lives = f"{_told(speaker, address)}, and {_told(other, known.get(other.id, ''))}"
    how = "two machines use this identity, one with a copy of the other's memory" if speaker.id == other.id else (
        "two machines use this identity"
    )  # fmt: skip
    quarantine.set_aside(
        gateway, Reason.TWO_LIVES, f"{how}: {lives}",
        {
            "speaker": str(speaker.id), "speaker_address": address, "other": str(other.id),
            "other_address": known.get(other.id, ""), "same_memory": speaker.id == other.id,
        },
        address=address, now=now,
    )  # fmt: skip


def _tell_of_a_new_instance(gateway: Gateway, ruling: Ruling, address: str) -> None:
    log.info("instance %s of %s at %s is the current one now", ruling.speaker.id, gateway.name, address)
    if not ruling.speaker.shared:
        return
    with transaction.atomic():
        audit.record(
            actor=f"gateway:{gateway.id}", action="gateway.put_back", entity="gateway", entity_id=str(gateway.id),
            severity=audit.Severity.WARNING, environment=gateway.environment_id, address=address,
            details={"name": gateway.name, "instance": str(ruling.speaker.id)},
        )  # fmt: skip


def _number_used(gateway: Gateway, header: Header, following: int) -> Conflict:
    log.warning("message number %s of %s (instance %s) was used before", header.sequence, gateway.name, header.instance)
    return Conflict(
        f"the message number {header.sequence} was used before: the database was put back to an earlier state, or another "
        f"machine uses its identity; the next free number is {following}",
        code="NUMBER_USED", details=str(following),
    )  # fmt: skip
