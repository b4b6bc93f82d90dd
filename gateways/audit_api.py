"""The audit trail as a file, and whether it is sound. Looking and searching are elsewhere; nothing here changes anything."""

from __future__ import annotations

import csv
import io
import json
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.access import actors_of
from accounts.operations import Signed
from accounts.roles import AUDIT_READ
from accounts.scoping import absent, place_of, require
from common import audit
from common.api import Operation
from common.clock import now
from common.described import described
from common.errors import ValidationFailed
from common.models import AuditEntry
from common.paging import PAGE, asked
from gateways import audit_report, secret_audit
from gateways.heartbeats import parse_moment
from protocol.audit_files import cell
from vault.models import Secret
from vault.values import scope_of

COLUMNS = ("chain", "position", "hash", "id", "at", "actor", "action", "entity", "entity_id", "severity", "environment",
           "address", "organization", "project", "details", "text")  # fmt: skip
EXACT = {"action": "action", "entity_type": "entity", "entity_id": "entity_id", "severity": "severity",
         "ip_address": "address", "environment": "environment", "project_id": "project",
         "organization_id": "organization"}  # fmt: skip
"""Filters that compare, by the client's word for them, with the column they compare."""
FILTERS = ("user_id", *EXACT)


class FormatIsAFilter(DefaultContentNegotiation):
    """`format` says which file is wanted; it is not the framework's way to name a renderer."""

    def select_renderer(self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None) -> Any:
        first = next(iter(renderers))
        return first, first.media_type


class FindingRow(serializers.Serializer):
    chain = serializers.CharField()
    position = serializers.IntegerField(allow_null=True)
    fault = serializers.CharField()
    sentence = serializers.CharField()


class ChainRow(serializers.Serializer):
    node = serializers.CharField()
    chain = serializers.CharField()
    start = serializers.IntegerField(help_text="position up to which retention has removed entries; 0 for none")
    length = serializers.IntegerField()
    head = serializers.CharField()


class ForkRow(serializers.Serializer):
    chain = serializers.CharField(help_text="a gateway's chain that was told in two ways")
    position = serializers.IntegerField(help_text="the last position both ways have in common")
    follows = serializers.CharField(help_text="the chain in which the gateway's own way is held since its release")


class AuditReport(serializers.Serializer):
    sound = serializers.BooleanField()
    chains = ChainRow(many=True)
    findings = FindingRow(many=True)
    forks = ForkRow(many=True)
    statements = serializers.IntegerField(help_text="signed checkpoints and cuts that were checked")
    pinned = serializers.BooleanField(help_text="whether the root was compared with one from outside of this database")


class AuditExport(Operation):
    """All matching entries of this Primary as one file, oldest first, with place, hash and exact text."""

    permissions = {"GET": AUDIT_READ}
    content_negotiation_class = FormatIsAFilter

    @described(
        operation_id="exportAuditLogs",
        parameters=[
            OpenApiParameter("format", str, enum=["csv", "json"], description="csv when left out"),
            OpenApiParameter("start_date", str), OpenApiParameter("end_date", str),
            *(OpenApiParameter(name, str) for name in FILTERS),
        ],
        responses={(200, "text/csv"): OpenApiTypes.BINARY, (200, "application/json"): OpenApiTypes.ANY},
    )  # fmt: skip
    def get(self, request: Request) -> StreamingHttpResponse:
        form = request.query_params.get("format", "csv")
        if form not in ("csv", "json"):
            raise ValidationFailed("format must be csv or json")
        entries = matching(request.query_params)
        with transaction.atomic():
            audit.record(actor=self.actor, action="audit.exported", entity="audit-chain", entity_id="primary",
                         address=self.address, details={"format": form, "filters": _filters(request)})  # fmt: skip
        lines = _as_csv(entries) if form == "csv" else _as_json(entries)
        answer = StreamingHttpResponse(lines, content_type="text/csv; charset=utf-8" if form == "csv" else "application/json")
        answer["Content-Disposition"] = f'attachment; filename="audit-log.{form}"'
        return answer


class NodeOfTrail(serializers.Serializer):
    node = serializers.CharField()
    heard_at = serializers.DateTimeField(allow_null=True)
    missing_since = serializers.DateTimeField(allow_null=True, help_text="from when on entries may be missing; null: none are")
    because = serializers.CharField(allow_null=True)


class TrailEntry(serializers.Serializer):
    at = serializers.DateTimeField()
    node = serializers.CharField(help_text="primary, or the gateway where it was done")
    actor = serializers.CharField()
    name = serializers.CharField(allow_null=True, help_text="address of a person, name of a service identity")
    action = serializers.CharField()
    severity = serializers.CharField()
    environment = serializers.CharField()
    address = serializers.CharField()
    details = serializers.DictField()


class Trail(serializers.Serializer):
    secret_id = serializers.UUIDField()
    complete = serializers.BooleanField(help_text="whether no gateway of its environment may have more to tell")
    nodes = NodeOfTrail(many=True)
    entries = TrailEntry(many=True)


class SecretAudit(Signed):
    """Who did what with one secret, at the Primary and at gateways, newest first; `nodes` says of which one something may be
    missing, since when and why."""

    permissions = {"GET": AUDIT_READ}

    @described(operation_id="listSecretAudit", parameters=PAGE, responses=Trail)
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        secret = Secret.objects.select_related("project", "environment").filter(id=identifier).first()
        if secret is None:
            raise absent("secret")
        require(self.by.principal, AUDIT_READ, place_of(secret.project), readable=AUDIT_READ, what="secret")
        limit, offset = asked(request)
        if offset > secret_audit.FURTHEST:
            raise ValidationFailed(f"offset: must be at most {secret_audit.FURTHEST}; older entries are in GET audit-logs/export")
        return Response(secret_audit.trail(identifier, scope_of(secret), limit, offset))


class AuditVerify(Operation):
    """Check every chain in this database against its checkpoints and anchors. The command `mazevault audit verify` also asks
    the gateways, which is stronger: somebody who owns this database owns the checkpoints in it."""

    permissions = {"GET": AUDIT_READ}

    @described(operation_id="verifyAuditLogs", responses=AuditReport)
    def get(self, request: Request) -> Response:
        return Response(audit_report.verify().as_json())


def matching(wanted: Any) -> QuerySet[AuditEntry]:
    """Entries that fit the filters of a query. Raises `ValidationFailed` naming the filter that has no such form."""
    found = AuditEntry.objects.select_related("link").order_by("id").filter(at__lte=now())
    for name, column in EXACT.items():
        if name in wanted:
            try:
                found = found.filter(**{column: wanted[name]})
            except (ValidationError, ValueError) as error:
                raise ValidationFailed(f"{name} must be a UUID") from error
    if "user_id" in wanted:
        found = found.filter(actor__in=actors_of(wanted["user_id"]))
    if "start_date" in wanted:
        found = found.filter(at__gte=parse_moment("start_date", wanted["start_date"]))
    if "end_date" in wanted:
        found = found.filter(at__lt=parse_moment("end_date", wanted["end_date"]))
    return audit.with_details_text(found)


def _filters(request: Request) -> dict[str, str]:
    return {name: str(value) for name, value in request.query_params.items() if name in (*FILTERS, "start_date", "end_date")}


def _rows(entries: QuerySet[AuditEntry]) -> Iterator[dict[str, Any]]:
    for entry in entries.iterator(chunk_size=1000):
        link = getattr(entry, "link", None)
        place = {"chain": link.chain, "position": link.position, "hash": link.hash} if link else dict.fromkeys(COLUMNS[:3])
        text = audit.text_of(entry)
        yield {**place, **json.loads(text), "text": text}


def _as_csv(entries: QuerySet[AuditEntry]) -> Iterator[str]:
    buffer = io.StringIO()
    write = csv.writer(buffer)
    write.writerow(COLUMNS)
    for row in _rows(entries):
        write.writerow(cell(row[name]) for name in COLUMNS)
        if buffer.tell() > 65536:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def _as_json(entries: QuerySet[AuditEntry]) -> Iterator[str]:
    before = "["
    for row in _rows(entries):
        yield before + json.dumps(row, ensure_ascii=False)
        before = ",\n"
    yield "[]\n" if before == "[" else "]\n"
