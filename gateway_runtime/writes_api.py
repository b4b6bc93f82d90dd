"""Following writes at the gateway that accepted them, and who am I here. Signing in is the Primary's business."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.access import Principal
from accounts.authentication import principal_in
from accounts.models import Environment, Project
from accounts.roles import SECRETS_READ
from common.api import SIGNED_IN, Operation, rfc3339
from common.clock import now
from common.described import described
from common.errors import NotFound, Unavailable
from gateway_runtime import secrets_node, why
from gateway_runtime.models import OPEN, PendingWrite
from protocol.vocabulary import WriteOutcome
from vault import rules
from vault.selectors import as_uuid

SHOWN = 1000
"""Open writes in one answer; the totals count them all."""
_WHERE = {WriteOutcome.QUEUED: "queued@gateway", WriteOutcome.RECEIVED: "received@primary"}
"""Where an open write is, in the words of durability."""


class WriteRow(serializers.Serializer):
    """One write; never its content."""

    id = serializers.UUIDField()
    secret_id = serializers.UUIDField()
    project_id = serializers.UUIDField()
    key = serializers.CharField()
    operation = serializers.CharField()
    author = serializers.CharField()
    epoch = serializers.IntegerField()
    sequence = serializers.IntegerField()
    previous = serializers.UUIDField(allow_null=True)
    base_version = serializers.IntegerField(allow_null=True)
    promised = serializers.BooleanField()
    outcome = serializers.CharField()
    where = serializers.CharField(help_text="queued@gateway, received@primary, or settled@primary")
    version = serializers.IntegerField(help_text="what the secret became; 0 for none")
    code = serializers.CharField(allow_null=True)
    detail = serializers.CharField(allow_null=True)
    because = serializers.CharField(allow_null=True, help_text="why it is not applied (yet)")
    since = serializers.DateTimeField(allow_null=True, help_text="since when that is so")
    size = serializers.IntegerField(help_text="bytes")
    age_seconds = serializers.FloatField()
    accepted_at = serializers.DateTimeField()
    settled_at = serializers.DateTimeField(allow_null=True)


class QueueRow(serializers.Serializer):
    open = serializers.IntegerField()
    bytes = serializers.IntegerField()
    oldest_seconds = serializers.FloatField()
    writes = WriteRow(many=True)


class Writes(Operation):
    """The writes that wait here and that the caller may see, oldest first."""

    scoped = True
    permissions = {"GET": SECRETS_READ}

    @described(operation_id="listQueuedWrites", responses=QueueRow)
    def get(self, request: Request) -> Response:
        caller, moment = principal_in(request), now()
        places = _Places(caller)
        waiting = PendingWrite.objects.filter(OPEN).defer("sealed_body", "head").order_by("life", "sequence")
        seen = [row for row in waiting if places.shows(row)]
        oldest, open_ones = min((row.accepted_at for row in seen), default=moment), {row.id for row in waiting}
        return Response(
            {
                "open": len(seen),
                "bytes": sum(row.size for row in seen),
                "oldest_seconds": _age(oldest, moment),
                "writes": [write_row(row, moment, row.previous in open_ones) for row in seen[:SHOWN]],
            }
        )


class WriteOne(Operation):
    """One write, from its acceptance to its end. For its author, and for who may read the secret."""

    permissions = {"GET": SIGNED_IN}

    @described(operation_id="getQueuedWrite", responses=WriteRow)
    def get(self, request: Request, identifier: str) -> Response:
        wanted = as_uuid(identifier)
        row = PendingWrite.objects.defer("sealed_body", "head").filter(id=wanted).first() if wanted else None
        if row is None or not _Places(principal_in(request)).shows(row):
            raise NotFound("there is no such write at this gateway; one that ended long ago is known at the Primary")
        behind = row.previous is not None and PendingWrite.objects.filter(OPEN, id=row.previous).exists()
        return Response(write_row(row, now(), behind))


class Me(Operation):
    """Who the token belongs to, as far as this gateway knows."""

    permissions = {"GET": SIGNED_IN}

    @described(operation_id="whoAmIHere", responses=dict)
    def get(self, request: Request) -> Response:
        caller = principal_in(request)
        return Response({"id": caller.id, "kind": caller.kind.value, "email": caller.name, "full_name": caller.name})


class MyPermissions(Operation):
    """What the caller may do with secrets here, in at least one place."""

    permissions = {"GET": SIGNED_IN}

    @described(operation_id="myPermissionsHere", responses=dict)
    def get(self, request: Request) -> Response:
        return Response({"permissions": sorted(principal_in(request).permissions_anywhere)})


class SignInHere(serializers.Serializer):
    """What somebody sends who takes this for the Primary; none of it is read."""

    email = serializers.CharField(required=False)
    password = serializers.CharField(required=False)
    cookie = serializers.BooleanField(required=False)
    grant_type = serializers.CharField(required=False)
    client_id = serializers.CharField(required=False)
    client_secret = serializers.CharField(required=False)
    audience = serializers.JSONField(required=False, help_text="a list, or names with spaces between them, as at the Primary")


class PasswordSignIn(Operation):
    """Not here: passwords and client secrets are checked at the Primary only."""

    public = True
    authentication_classes = ()

    @described(operation_id="signInHere", request=SignInHere, responses={503: None}, auth=[])
    def post(self, request: Request) -> Response:
        raise Unavailable(
            "signing in with a password or a client secret needs the Primary; get a token there, with an audience that names "
            "this gateway environment, and it works here within a few seconds",
            code="PRIMARY_NEEDED", retry_after=30,
        )  # fmt: skip


def write_row(row: PendingWrite, moment: datetime, is_behind: bool) -> dict[str, Any]:
    """`is_behind`: an earlier write of the same secret is still open."""
    told = why.of_write(
        secrets_node.waiting(row, behind=row.previous if is_behind else None, away_since=secrets_node.away_since(moment))
    )
    return {
        "id": str(row.id),
        "secret_id": str(row.secret),
        "project_id": str(row.project),
        "key": row.key,
        "operation": row.operation,
        "author": row.actor,
        "epoch": row.epoch,
        "sequence": row.sequence,
        "previous": str(row.previous) if row.previous else None,
        "base_version": row.base_version,
        "promised": row.promised,
        "outcome": row.outcome,
        "where": _WHERE.get(WriteOutcome(row.outcome), "settled@primary"),
        "version": row.version,
        "code": row.code or None,
        "detail": row.detail or None,
        "because": told.because,
        "since": rfc3339(told.since),
        "size": row.size,
        "age_seconds": _age(row.accepted_at, moment),
        "accepted_at": rfc3339(row.accepted_at),
        "settled_at": rfc3339(row.settled_at),
    }


class _Places:
    """Where the caller may read secrets, asked once for each place."""

    def __init__(self, caller: Principal) -> None:
        self._caller = caller
        self._known: dict[tuple[uuid.UUID, uuid.UUID], bool] = {}

    def shows(self, row: PendingWrite) -> bool:
        if row.actor == self._caller.actor:
            return True
        place = (row.project, row.environment)
        if place not in self._known:
            self._known[place] = self._may_read(*place)
        return self._known[place]

    def _may_read(self, project_id: uuid.UUID, environment_id: uuid.UUID) -> bool:
        project = Project.objects.filter(id=project_id, deleted_at=None).first()
        environment = Environment.objects.filter(id=environment_id, deleted_at=None).first()
        if project is None or environment is None or environment.organization_id != project.organization_id:
            return False
        return self._caller.may(SECRETS_READ, rules.place_of(project, environment))


def _age(since: datetime, moment: datetime) -> float:
    return round(max(0.0, (moment - since).total_seconds()), 3)
