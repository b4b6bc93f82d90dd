"""The facts of a sync run: the project as the Primary tells it, the vault as it lists and, where a plan needs it, reads."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence, Set
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from common.clock import now as clock_now
from gateway_runtime.sync_vault import Final, Paused, Reading, Run, Unseen, asks_for_rest
from integrations.azure.connection_test import PROBE_OWNER
from integrations.azure.errors import (
    AccessDenied,
    AzureTrouble,
    ObjectDisabled,
    TokenTrouble,
)
from integrations.azure.keyvault import KEY, Entry
from integrations.sync.facts import (
    Base,
    Confirmation,
    Direction,
    Ours,
    Remembered,
    Theirs,
    World,
)
from integrations.sync.plan import names_to_read
from integrations.sync.told import remembered_of
from integrations.sync.transform import TransformInvalid
from protocol.sync import (
    Listing,
    OurSecret,
)

log = logging.getLogger("mazevault.gateway.sync")

Row = TypeVar("Row")

SETTLED = timedelta(minutes=1)
"""A vault tells its times in whole seconds, by its own clock: what changed a shorter time ago may change again unseen."""


READ_SECONDS = 120.0
"""Reading of one task; what is left is read in the next one, so that other tasks get their turn."""


def world_of(run: Run) -> World:
    """Both sides, with the values read that a plan needs."""
    known = listed(run)
    try:
        names = names_to_read(known)
    except TransformInvalid:  # the plan says so
        return known
    return replace(known, theirs=read(run, known.theirs, names))


def listed(run: Run) -> World:
    """Both sides as far as lists tell of them."""
    order, talk = run.order, run.talk
    run.unseen = Unseen.of(talk.rows(Listing.UNSEEN))
    ours = tuple(_ours(run, row) for row in talk.rows(Listing.OURS))
    base = None
    if order.remembers:
        items = tuple(remembered_of(item) for item in talk.rows(Listing.MEMORY))
        base = Base(order.memory_target, order.memory_transform, order.memory_environment, Direction(order.memory_direction),
                    items, order.settled)  # fmt: skip
    confirmed = Confirmation(order.confirmed, frozenset(talk.rows(Listing.AGREED))) if order.confirmed else None
    rule = replace(run.rule, adopted=frozenset(talk.rows(Listing.ADOPTED)))
    theirs, whole = _their_list(run)
    theirs = _unchanged_known(theirs, base.items if base else ())
    run.numbers.update({"listed_here": len(ours), "listed_there": len(theirs)})
    return World(rule, ours, theirs, base, whole, confirmed)


def read(run: Run, theirs: Sequence[Theirs], names: Iterable[str]) -> tuple[Theirs, ...]:
    """The same secrets, with version and digest of those that are named. One that cannot be read stays without.

    What this run has read before, in another task too, is not read again while the list shows it unchanged. Raises `Paused` after
    a while, if the next task has less to read then.
    """
    found = {each.name.lower(): each for each in theirs}
    until = time.monotonic() + READ_SECONDS
    for name in names:
        run.live()
        listed_one, known = found[name.lower()], run.readings.get(name.lower())
        if known is not None and known.stamp == listed_one.stamp:
            found[name.lower()] = replace(listed_one, version=known.version, digest=known.digest, unseen=known.unseen)
            continue
        if run.newly_kept and time.monotonic() > until:
            raise Paused
        try:
            held = run.look(name)
        except ObjectDisabled:
            continue
        except (AccessDenied, TokenTrouble) as denied:
            log.warning("no value of the vault can be read: %s", denied.cause)
            run.trouble = denied
            break
        if held is not None:
            now, digest = clock_now(), run.digest(held.value)
            found[name.lower()] = replace(
                _theirs(run, held.entry, now), version=held.entry.version, digest=digest, name=found[name.lower()].name,
                unseen=run.unseen.tells_of(held.entry, digest),
            )  # fmt: skip
            _keep_in_mind(run, found[name.lower()])
            run.numbers["read"] += 1
    return tuple(found.values())


def _keep_in_mind(run: Run, theirs: Theirs) -> None:
    if theirs.stamp and theirs.digest is not None:
        run.readings[theirs.name.lower()] = Reading(theirs.stamp, theirs.version, theirs.digest, theirs.unseen)
        run.newly_kept += 1


def looked_at(run: Run, theirs: Sequence[Theirs], wanted: Set[str]) -> tuple[Theirs, ...]:
    """The same secrets; of those wanted (in small letters) the version is known, of a deleted one the version it had last.

    Raises `Final` when the vault does not let us look.
    """
    named = [each for each in theirs if each.name.lower() in wanted]
    buried = {each.name: _buried_version(run, each.name) for each in named if each.deleted}
    known = [replace(each, buried_version=buried[each.name]) if each.name in buried else each for each in theirs]
    return read(run, known, [each.name for each in named if not each.deleted])


def _buried_version(run: Run, name: str) -> str:
    run.live()
    try:
        gone = run.call(lambda: run.vault.deleted_one(name))
    except (AccessDenied, TokenTrouble) as denied:
        raise Final(denied) from denied
    return gone.entry.version if gone else ""


def _unchanged_known(theirs: Iterable[Theirs], remembered: Iterable[Remembered]) -> tuple[Theirs, ...]:
    """What the list shows to be as it was when the rule last looked is in the version it was in then; nobody reads it again."""
    known = {item.name.lower(): item for item in remembered if item.stamp}
    found = []
    for each in theirs:
        item = known.get(each.name.lower())
        same = item is not None and not each.deleted and item.stamp == each.stamp
        found.append(replace(each, version=item.their_version) if item is not None and same else each)
    return tuple(found)


def _their_list(run: Run) -> tuple[tuple[Theirs, ...], bool]:
    """The vault's secrets, and whether the list came to its end. Raises `Final` when the vault does not let us list."""
    now = clock_now()
    try:
        living = run.call(lambda: _all(run, run.vault.entries()))
        deleted = run.call(lambda: _all(run, run.vault.deleted()))
    except (AccessDenied, TokenTrouble) as denied:
        raise Final(denied) from denied
    except AzureTrouble as trouble:
        if asks_for_rest(trouble):
            raise
        log.warning("the list of the vault broke off: %s", trouble.cause)
        run.trouble = trouble
        return (), False
    found = {gone.entry.name.lower(): _theirs(run, gone.entry, now, deleted=True) for gone in deleted}
    found |= {entry.name.lower(): _theirs(run, entry, now) for entry in living}
    return tuple(each for each in found.values() if each.owner != PROBE_OWNER), True


def _all(run: Run, rows: Iterable[Row]) -> list[Row]:
    found = []
    for row in rows:
        run.live()
        found.append(row)
    return found


def _theirs(run: Run, entry: Entry, now: datetime, *, deleted: bool = False) -> Theirs:
    return Theirs(
        name=entry.name,
        version="",
        changed_at=entry.updated_at,
        owner=run.owner_in(entry),
        key=entry.tags.get(KEY),
        deleted=deleted,
        enabled=entry.enabled,
        expired=entry.expires_at is not None and entry.expires_at <= now,
        certificate=entry.of_certificate,
        stamp=entry.updated_at.isoformat() if now - entry.updated_at > SETTLED else "",
    )


def _ours(run: Run, row: OurSecret) -> Ours:
    owner = None if row.owner in run.ended_owners else row.owner
    return Ours(row.key, row.version, row.digest, datetime.fromisoformat(row.changed_at), row.deleted, row.active, owner)
