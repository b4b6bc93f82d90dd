"""The digest of an environment's copies, kept beside the change feed, so that comparing one costs one look (anti-entropy).

`advance` follows the feed: the fingerprint a thing had goes out of the sum, the one it has now comes in. `check` walks over
everything again in small steps, whatever the feed says. Both run in the background; no request waits for either.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce

from common import feed
from common.clock import database_now
from common.locks import try_transaction_lock
from common.models import Change
from common.rows import ensure
from gateways.models import CopiedThing, CopyDigest, GatewayEnvironment
from gateways.replica_records import Thing, load
from protocol.replica import EMPTY_DIGEST, ReplicaKind, ReplicaPrincipal, fingerprint, moved

log = logging.getLogger("mazevault.gateways.copy_digests")

CHUNK = 500
"""Changes taken in one transaction."""
CHECKED_AT_ONCE = 100
"""Things looked at again in one step: some fifty milliseconds."""


def advance_all() -> int:
    """Follow the feed wherever something changed. Safe to repeat and to race; returns how many changes were taken."""
    feed.place_pending()
    return sum(_advance_to_head(code) for code in _behind())


def check_all() -> int:
    """One small step of looking again wherever copies hold something. Returns how many things were found to differ."""
    return sum(check(code) for code in _with_something_to_look_at())


def advance(code: str) -> int:
    """Take the next changes of an environment; what an older installation holds is taken from the beginning in the same way."""
    with transaction.atomic():
        if not try_transaction_lock(f"copy-digest:{code}"):
            return 0
        ensure(CopyDigest, environment_id=code)
        row = CopyDigest.objects.get(environment_id=code)
        entries = feed.changes_after(code, row.position, CHUNK)
        if not entries:
            return 0
        named = [(ReplicaKind(entry.kind), entry.entity_id) for entry in entries if entry.kind != ReplicaKind.PRINCIPAL]
        _replace(row, named, _fingerprints(code, named, database_now()))
        row.position = entries[-1].position or row.position
        row.save(update_fields=["position", "digest", "checked_sum"])
    return len(entries)


def check(code: str) -> int:
    """Compare the next things with what they are now. One that differs is noted as changed, so that copies hear of it too."""
    with transaction.atomic():
        row = CopyDigest.objects.filter(environment_id=code).first()
        if row is None or not try_transaction_lock(f"copy-digest:{code}"):
            return 0
        row.refresh_from_db()
        things = list(CopiedThing.objects.filter(environment_id=code, id__gt=row.checked_upto).order_by("id")[:CHECKED_AT_ONCE])
        if not things:
            _end_round(row)
            return 0
        differing = _differing(code, things)
        for kind, identifier in differing:
            feed.note([code], kind, identifier)
        row.checked_upto = things[-1].id
        row.checked_sum = moved(row.checked_sum, came=[one.fingerprint for one in things])
        row.save(update_fields=["checked_upto", "checked_sum"])
    return len(differing)


def _behind() -> list[str]:
    """Environments whose feed goes further than their digest; one statement, however many rest."""
    known = CopyDigest.objects.filter(environment=OuterRef("code")).values("position")
    ahead = Change.objects.filter(scope=OuterRef("code"), position__gt=OuterRef("known"))
    rows = GatewayEnvironment.objects.annotate(known=Coalesce(Subquery(known), 0)).filter(Exists(ahead))
    return list(rows.order_by("code").values_list("code", flat=True))


def _with_something_to_look_at() -> list[str]:
    """Those with things, and those whose digest says there are some."""
    things = CopiedThing.objects.filter(environment=OuterRef("environment"))
    rows = CopyDigest.objects.filter(Exists(things) | ~Q(digest=EMPTY_DIGEST) | ~Q(checked_sum=EMPTY_DIGEST))
    return list(rows.order_by("environment").values_list("environment", flat=True))


def _advance_to_head(code: str) -> int:
    total = 0
    while taken := advance(code):
        total += taken
        if taken < CHUNK:
            break
    return total


def _fingerprints(code: str, named: Iterable[Thing], moment: datetime) -> dict[Thing, str]:
    """Of these things and of what they need, as far as they are of this environment now."""
    records = load(code, named, moment, with_values=False).by_thing
    return {thing: fingerprint(one) for thing, one in records.items() if not isinstance(one, ReplicaPrincipal)}


def _replace(row: CopyDigest, named: Iterable[Thing], now_are: Mapping[Thing, str]) -> None:
    """Bring the rows of these things up to date and the sums with them."""
    code = row.environment_id
    before = {(ReplicaKind(one.kind), one.entity_id): one for one in _rows_of(code, {*named, *now_are})}
    gone = [one for thing, one in before.items() if thing not in now_are]
    came = {thing: found for thing, found in now_are.items() if thing not in before or before[thing].fingerprint != found}
    went = [*gone, *(before[thing] for thing in came if thing in before)]
    row.digest = moved(row.digest, came=came.values(), went=[one.fingerprint for one in went])
    looked_at = [one for one in went if one.id <= row.checked_upto]
    again = [came[_thing(one)] for one in looked_at if _thing(one) in came]
    row.checked_sum = moved(row.checked_sum, came=again, went=[one.fingerprint for one in looked_at])
    CopiedThing.objects.filter(id__in=[one.id for one in gone]).delete()
    _store(code, came)


def _store(code: str, came: Mapping[Thing, str]) -> None:
    rows = [
        CopiedThing(environment_id=code, kind=kind.value, entity_id=identifier, fingerprint=found)
        for (kind, identifier), found in came.items()
    ]
    CopiedThing.objects.bulk_create(
        rows, update_conflicts=True, unique_fields=["environment", "kind", "entity_id"], update_fields=["fingerprint"]
    )


def _rows_of(code: str, things: Iterable[Thing]) -> list[CopiedThing]:
    by_kind: dict[ReplicaKind, set[uuid.UUID]] = {}
    for kind, identifier in things:
        by_kind.setdefault(kind, set()).add(identifier)
    wanted = Q()
    for kind, identifiers in by_kind.items():
        wanted |= Q(kind=kind.value, entity_id__in=identifiers)
    return list(CopiedThing.objects.filter(wanted, environment_id=code)) if by_kind else []


def _thing(row: CopiedThing) -> Thing:
    return ReplicaKind(row.kind), row.entity_id


def _differing(code: str, things: list[CopiedThing]) -> list[Thing]:
    """Those whose fingerprint is another one now. A change on its way is among them, and being noted twice harms nothing."""
    now_are = _fingerprints(code, [_thing(one) for one in things], database_now())
    return [_thing(one) for one in things if now_are.get(_thing(one)) != one.fingerprint]


def _end_round(row: CopyDigest) -> None:
    """Everything was looked at. A digest that is not the sum of its parts is an error of this program: told and put right."""
    if row.checked_sum != row.digest:
        log.error("the digest of the copies of %s was %s and is put right: %s", row.environment_id, row.digest, row.checked_sum)
        row.digest = row.checked_sum
    row.checked_upto, row.checked_sum, row.checked_at = 0, EMPTY_DIGEST, database_now()
    row.save(update_fields=["digest", "checked_upto", "checked_sum", "checked_at"])
