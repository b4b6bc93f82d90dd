"""What the writes of one transaction have in common, read in a number of statements that does not depend on theirs.

Locks are taken in one order: route, writes, repeated requests, secrets, projects, environments. The route is shared, so that
applying and promoting never overlap, but only against changes of who is active: a lease is renewed beside it.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
from django.db import connection
from django.db.models import F

from accounts.access import Principal
from accounts.models import Environment, Project
from accounts.principals import principals_named
from common import audit
from common.clock import moment_of
from common.rows import hold
from common.rowsets import Row
from gateways import authors
from gateways.models import Gateway, GatewayStatus, ReceivedWrite, Route
from gateways.reconciliation import RouteFacts
from gateways.write_held import AnyWrite, HeldWrite, read
from protocol.vocabulary import WriteOperation, WriteOutcome
from vault import answered
from vault.answered import Asked, First
from vault.models import Secret
from vault.recording import Recorder
from vault.secrets import Place, hold_places

CREATE = WriteOperation.CREATE.value
_SHARE_ROUTE = "SELECT 1 FROM gateways_route WHERE environment_id = %s FOR KEY SHARE"
_AROUND = """
SELECT s.secret,
       (SELECT min(sequence) FROM gateways_receivedwrite AS w WHERE w.gateway_id = %(gateway)s AND w.generation = %(generation)s
           AND w.secret = s.secret AND w.outcome = 'received' AND w.in_stream AND w.id <> ALL(%(ids)s::uuid[])),
       (SELECT max(sequence) FROM gateways_receivedwrite AS w WHERE w.gateway_id = %(gateway)s AND w.generation = %(generation)s
           AND w.secret = s.secret AND w.outcome = 'applied' AND w.in_stream)
  FROM unnest(%(secrets)s::uuid[]) AS s(secret)
"""
"""Of each secret the first other write of the stream that is open, and the last one that was applied; each by an index."""
_TAKEN = """
SELECT s.project_id, s.environment_id, s.key FROM vault_secret AS s
  JOIN unnest(%s::uuid[], %s::uuid[], %s::text[]) AS w(project, environment, key)
    ON s.project_id = w.project AND s.environment_id = w.environment AND s.key = w.key
 WHERE s.deleted_at IS NULL
"""
_STORE = """
UPDATE gateways_receivedwrite AS t
   SET secret = r.secret, outcome = r.outcome, version = r.version, code = r.code, detail = r.detail, attempts = r.attempts,
       not_before = r.not_before, settled_at = r.settled_at, settled_by = r.settled_by, resolution = r.resolution,
       promised = r.promised, sealed_body = CASE WHEN r.kept THEN t.sealed_body END
  FROM json_to_recordset(%s::json) AS r(id uuid, secret uuid, outcome text, version bigint, code text, detail text,
       attempts integer,
       not_before timestamptz, settled_at timestamptz, settled_by text, resolution text, promised boolean, kept boolean)
 WHERE t.id = r.id
"""
_STORED = ("id", "secret", "outcome", "version", "code", "detail", "attempts", "not_before", "settled_at", "settled_by",
           "resolution", "promised")  # fmt: skip
_WAKE_FOLLOWERS = """
UPDATE gateways_receivedwrite SET not_before = %s
 WHERE id IN (SELECT id FROM gateways_receivedwrite
               WHERE outcome = 'received' AND previous = ANY(%s) AND not_before > %s FOR UPDATE SKIP LOCKED)
"""
_TALLY = """
INSERT INTO gateways_writetally (environment_id, outcome, total) VALUES (%s, %s, %s)
ON CONFLICT (environment_id, outcome) DO UPDATE SET total = gateways_writetally.total + excluded.total
"""

Line = tuple[int, int, int]
"""Gateway, generation and secret, as numbers: the writes of one stream to one secret."""
Key = tuple[int, int, str]
"""A name in a project and an environment."""


@dataclass
class Scene:
    """What the writes of one transaction have in common: an environment, its locked route, who is who, what is where.

    Lives no longer than the transaction: everything in it is locked, or was read after the locks were taken. With a `book`
    changes are kept there until `close`, and what is read here is ahead of what is stored.
    """

    environment: str
    now: datetime
    route: Route
    book: Recorder | None = None
    gateways: dict[int, tuple[RouteFacts, float]] = field(default_factory=dict)
    principals: dict[str, Principal | None] = field(default_factory=dict)
    made: dict[uuid.UUID, datetime | None] = field(default_factory=dict)
    """When a write was made by whom the gateway names; None: they are not believed to have made it."""
    places: dict[tuple[int, int], Place | None] = field(default_factory=dict)
    secrets: dict[uuid.UUID, Secret | None] = field(default_factory=dict)
    elsewhere: set[uuid.UUID] = field(default_factory=set)
    """Of the ids that were asked about those which secrets of other environments have."""
    keys: dict[Key, bool] = field(default_factory=dict)
    writes: dict[uuid.UUID, HeldWrite] = field(default_factory=dict)
    open_here: dict[Line, set[int]] = field(default_factory=dict)
    open_elsewhere: dict[Line, int] = field(default_factory=dict)
    newest_applied: dict[Line, int] = field(default_factory=dict)
    changed: dict[uuid.UUID, AnyWrite] = field(default_factory=dict)
    settled: list[uuid.UUID] = field(default_factory=list)
    tally: Counter[str] = field(default_factory=Counter)
    firsts: dict[Asked, First] = field(default_factory=dict)
    """What requests with an idempotency key were answered, before and in this transaction."""
    answers: dict[Asked, First] = field(default_factory=dict)

    @staticmethod
    def open(environment: str, now: datetime) -> Scene:
        """Lock the route against promotion and read it. Must run inside `atomic`."""
        hold_route(environment)
        return Scene(environment, now, Route.objects.get(environment_id=environment))

    def prepare(self, rows: Sequence[HeldWrite]) -> None:
        """Read all that is asked about these locked writes, after `hold_what_they_touch`."""
        self._read_secrets({row.secret for row in rows if row.secret})
        self._read_places({(row.project, row.project_environment) for row in rows if row.project and row.project_environment})
        self._read_taken_keys(rows)
        self._read_authors({row.actor for row in rows})
        self._read_claims(rows)
        self.firsts |= answered.firsts(asked_by(rows), self.environment, self.now)
        self.writes |= {row.id: row for row in rows}
        unread = {row.previous for row in rows if row.previous} - self.writes.keys()
        if unread:
            named = ReceivedWrite.objects.filter(id__in=unread, environment_id=self.environment)
            self.writes |= {row.id: row for row in read(named, with_body=False)}
        for gateway, generation in {(row.gateway_id, row.generation) for row in rows}:
            self._read_around(gateway, generation, [row for row in rows if row.gateway_id == gateway])

    def close(self) -> None:
        """Store what became of the writes, wake what waited for them and count; last, since the counters are everybody's."""
        if self.book is not None:
            self.book.store()
        answered.remember(self.answers, self.now)
        with connection.cursor() as cursor:
            if self.changed:
                cursor.execute(_STORE, [msgspec.json.encode([_stored(row) for row in self.changed.values()]).decode()])
            if self.settled:
                cursor.execute(_WAKE_FOLLOWERS, [self.now, self.settled, self.now])
            for outcome, count in sorted(self.tally.items()):
                cursor.execute(_TALLY, [self.environment, outcome, count])

    def say(self, entry: Row) -> None:
        """An entry of the audit, in the order of what it tells of."""
        if self.book is not None:
            self.book.entries.append(entry)
        else:
            audit.record_all([entry])

    def route_to(self, gateway: uuid.UUID) -> tuple[RouteFacts, float]:
        """Who serves the environment, as seen from a gateway, and how far off its clock was last seen, in seconds."""
        if gateway.int not in self.gateways:
            skew = GatewayStatus.objects.filter(gateway_id=gateway).values_list("clock_skew_seconds", flat=True).first()
            self.gateways[gateway.int] = (_route_facts(self.route, Gateway.objects.get(id=gateway)), skew or 0.0)
        return self.gateways[gateway.int]

    def principal(self, actor: str) -> Principal | None:
        """Who made the write and what they may do now, not then."""
        if actor not in self.principals:
            self._read_authors({actor})
        return self.principals[actor]

    def made_at(self, row: AnyWrite) -> datetime | None:
        """When the author made the write; None where the gateway's word on who did is not believed (`gateways.authors`)."""
        if row.id not in self.made:
            self._read_claims([row])
        return self.made[row.id]

    def place(self, row: AnyWrite) -> Place | None:
        """Project and project environment of a write, if both live, belong together and are of this gateway environment (I13)."""
        if row.project is None or row.project_environment is None:
            return None
        pair = (row.project.int, row.project_environment.int)
        if pair not in self.places:
            self._read_places({(row.project, row.project_environment)})
        return self.places[pair]

    def secret(self, row: AnyWrite) -> Secret | None:
        """The secret, locked until the transaction ends, if it is in exactly the place the write names."""
        if row.secret is None:
            return None
        if row.secret not in self.secrets:
            hold_secrets(self.environment, [row.secret])
            self._read_secrets({row.secret})
        found = self.secrets[row.secret]
        fits = found and found.project_id == row.project and found.environment_id == row.project_environment
        return found if fits else None

    def give_free_id(self, row: AnyWrite) -> None:
        """A creation under an id that another environment has gets one of its own: nobody learns here that it is taken (I13).
        What a gateway that is sound makes up is free."""
        if row.operation == CREATE and row.secret in self.elsewhere:
            row.secret = uuid.uuid4()

    def is_taken(self, key: str, place: Place) -> bool:
        """Whether a living secret has this key in this place."""
        if self.book is None:
            return Secret.objects.filter(project=place[0], environment=place[1], key=key, deleted_at=None).exists()
        return self.keys[place[0].id.int, place[1].id.int, key]

    def change_came(self, secret: Secret, *, lived: bool) -> None:
        """A secret was changed. `lived`: it had its key before."""
        self.secrets[secret.id] = secret
        lives = secret.deleted_at is None
        if lives or lived:
            self.keys[secret.project_id.int, secret.environment_id.int, secret.key] = lives

    def hold_request(self, row: AnyWrite) -> None:
        """For a write that is decided on by itself: its request waits for twins, and what it was answered is read."""
        answered.hold(asked_by([row]))
        self.firsts |= answered.firsts(asked_by([row]), self.environment, self.now)

    def remember(self, row: AnyWrite, first: First) -> None:
        """What the request that made this write is answered from now on, at every node."""
        if row.idempotency_key:
            asked = row.actor, row.idempotency_key
            self.firsts[asked] = self.answers[asked] = first

    def forget_secret(self, row: AnyWrite) -> None:
        """What was done to it was taken back, so the object may not be what is stored. With a book it was put right already."""
        if row.secret and self.book is None:
            self.secrets.pop(row.secret, None)

    def settled_now(self, row: AnyWrite) -> None:
        """A write has ended."""
        self.changed[row.id] = row
        self.settled.append(row.id)
        self.tally[row.outcome] += 1
        if row.secret:
            self.open_here.get(_line(row.gateway_id, row.generation, row.secret), set()).discard(row.sequence)

    def earlier_waits(self, row: AnyWrite) -> bool:
        """Whether an earlier write of the stream to the same secret is open, even when this one does not name it."""
        if row.secret is None:
            return False
        line = _line(row.gateway_id, row.generation, row.secret)
        first = min(self.open_here.get(line, ()), default=row.sequence)
        return min(first, self.open_elsewhere.get(line, row.sequence)) < row.sequence

    def later_applied(self, row: AnyWrite) -> bool:
        """Whether a later write of the stream to the same secret was applied: what is older may not go on top of it (I9)."""
        if row.secret is None:
            return False
        return self.newest_applied.get(_line(row.gateway_id, row.generation, row.secret), 0) > row.sequence

    def _read_authors(self, actors: set[str]) -> None:
        self.principals |= principals_named(actors, self.now)

    def _read_claims(self, rows: Sequence[AnyWrite]) -> None:
        claims = [
            authors.Claim(
                row.id, row.actor, moment_of(row.accepted_at), row.received_at, row.epoch, row.gateway_id, row.generation
            )
            for row in rows
        ]
        self.made |= {**dict.fromkeys(row.id for row in rows), **authors.believed(self.environment, claims)}

    def _read_secrets(self, identifiers: set[uuid.UUID]) -> None:
        """With their projects and environments, of which there are few."""
        rows = Secret.objects.filter(id__in=identifiers).annotate(scope=F("environment__gateway_environment"))
        all_of_them = list(rows) if identifiers else []
        found = [row for row in all_of_them if row.scope == self.environment]
        self.elsewhere |= {row.id for row in all_of_them} - {row.id for row in found}
        projects = Project.objects.in_bulk({secret.project_id for secret in found})
        environments = Environment.objects.in_bulk({secret.environment_id for secret in found})
        for secret in found:
            secret.project, secret.environment = projects[secret.project_id], environments[secret.environment_id]
        self.secrets |= {**dict.fromkeys(identifiers), **{secret.id: secret for secret in found}}

    def _read_places(self, pairs: set[tuple[uuid.UUID, uuid.UUID]]) -> None:
        found = places_of_writes(self.environment, pairs)
        self.places |= {(project.int, environment.int): place for (project, environment), place in found.items()}

    def _read_taken_keys(self, rows: Iterable[HeldWrite]) -> None:
        wanted = {
            (row.project, row.project_environment, row.key)
            for row in rows if row.operation == CREATE and row.project and row.project_environment
        }  # fmt: skip
        if not wanted:
            return
        with connection.cursor() as cursor:
            cursor.execute(_TAKEN, [list(column) for column in zip(*wanted, strict=True)])
            taken = set(cursor.fetchall())
        self.keys |= {
            (project.int, environment.int, key): (project, environment, key) in taken for project, environment, key in wanted
        }

    def _read_around(self, gateway: uuid.UUID, generation: uuid.UUID, rows: Sequence[HeldWrite]) -> None:
        """What else there is of the stream to the same secrets."""
        mine = [row for row in rows if row.secret and row.generation == generation]
        for row in mine:
            if row.in_stream and row.secret and row.outcome == WriteOutcome.RECEIVED:
                self.open_here.setdefault(_line(gateway, generation, row.secret), set()).add(row.sequence)
        told: dict[str, Any] = {
            "gateway": gateway, "generation": generation, "ids": [row.id for row in mine],
            "secrets": list({row.secret for row in mine}),
        }  # fmt: skip
        with connection.cursor() as cursor:
            cursor.execute(_AROUND, told)
            for secret, first_open, last_applied in cursor.fetchall():
                if first_open is not None:
                    self.open_elsewhere[_line(gateway, generation, secret)] = first_open
                if last_applied is not None:
                    self.newest_applied[_line(gateway, generation, secret)] = last_applied


def hold_route(environment: str) -> None:
    """Nobody is promoted in this environment until the transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute(_SHARE_ROUTE, [environment])


def asked_by(rows: Iterable[AnyWrite]) -> set[Asked]:
    """The requests with an idempotency key that made these writes."""
    return {(row.actor, row.idempotency_key) for row in rows if row.idempotency_key}


def hold_what_they_touch(environment: str, rows: Sequence[HeldWrite]) -> None:
    """Lock the requests that made these writes, their secrets, and the places of new ones, until the transaction ends. They are
    read afterwards."""
    answered.hold(asked_by(rows))
    hold_secrets(environment, {row.secret for row in rows if row.secret})
    new = [row for row in rows if row.operation == CREATE and row.project and row.project_environment]
    if new:
        environments = {row.project_environment for row in new if row.project_environment}
        hold_places({row.project for row in new if row.project}, environments)


def hold_secrets(environment: str, identifiers: Iterable[uuid.UUID]) -> None:
    theirs = Secret.objects.filter(id__in=identifiers, environment__gateway_environment=environment)
    hold(Secret, list(theirs.values_list("pk", flat=True)), no_key=True)


def place_of_write(code: str, project_id: uuid.UUID, environment_id: uuid.UUID) -> Place | None:
    """Project and project environment, if both live, belong together and are of the gateway environment `code` (I13)."""
    return places_of_writes(code, {(project_id, environment_id)})[project_id, environment_id]


def places_of_writes(code: str, pairs: Iterable[tuple[uuid.UUID, uuid.UUID]]) -> dict[tuple[uuid.UUID, uuid.UUID], Place | None]:
    """`place_of_write` of many pairs at once."""
    pairs = list(pairs)
    living = Environment.objects.filter(gateway_environment=code, deleted_at=None)
    environments = living.in_bulk({environment for _, environment in pairs})
    projects = Project.objects.filter(deleted_at=None, organization__deleted_at=None).in_bulk({project for project, _ in pairs})
    found: dict[tuple[uuid.UUID, uuid.UUID], Place | None] = dict.fromkeys(pairs)
    for project_id, environment_id in pairs:
        project, environment = projects.get(project_id), environments.get(environment_id)
        if project and environment and project.organization_id == environment.organization_id:
            found[project_id, environment_id] = project, environment
    return found


def _route_facts(route: Route, gateway: Gateway) -> RouteFacts:
    return RouteFacts(
        epoch=route.epoch,
        active_gateway=str(route.active_gateway_id or ""),
        generation=str(gateway.generation),
        frozen=bool(route.danger),
        held=gateway.held_at is not None,
        banned=gateway.banned_at is not None,
    )


def _line(gateway: uuid.UUID, generation: uuid.UUID, secret: uuid.UUID) -> Line:
    return gateway.int, generation.int, secret.int


def _stored(row: AnyWrite) -> Row:
    return {**{name: getattr(row, name) for name in _STORED}, "kept": row.sealed_body is not None}
