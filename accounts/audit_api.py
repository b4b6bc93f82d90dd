"""Reading the audit trail: for everything, for one project, and by search (client-api B.2, B.3). Newest first, bare arrays."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from django.db.models import QuerySet
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.access import actors_of
from accounts.fields import Id, Moment, Whole
from accounts.names import names_of
from accounts.operations import Signed
from accounts.roles import AUDIT_READ
from accounts.scoping import absent, place_of, require, visible_projects
from common.api import Text, checked, rfc3339
from common.described import described
from common.models import AuditEntry
from common.paging import FURTHEST, MOST_SHOWN, PAGE, SHOWN, clamped, page_of


class AuditRow(serializers.Serializer):
    id = serializers.CharField()
    user_id = serializers.CharField(help_text="of the person or service identity; empty for the product itself")
    user_name = serializers.CharField(help_text="address of the person, name of the service identity")
    project_id = serializers.CharField()
    action = serializers.CharField()
    entity_type = serializers.CharField()
    entity_id = serializers.CharField()
    ip_address = serializers.CharField()
    severity = serializers.CharField()
    details = serializers.CharField(help_text="`event_data` as text")
    created_at = serializers.DateTimeField()
    event_data = serializers.DictField()


class SearchWish(serializers.Serializer):
    start_date = Moment(required=False, allow_null=True)
    end_date = Moment(required=False, allow_null=True)
    user_id = Text(required=False, allow_blank=True, max_length=64)
    action = Text(required=False, allow_blank=True, max_length=64)
    entity_type = Text(required=False, allow_blank=True, max_length=32)
    entity_id = Text(required=False, allow_blank=True, max_length=200)
    project_id = Id(required=False, allow_null=True, allow_blank=True)
    environment = Text(required=False, allow_blank=True, max_length=100)
    severity = Text(required=False, allow_blank=True, max_length=8)
    ip_address = Text(required=False, allow_blank=True, max_length=64)
    limit = Whole(required=False, help_text=f"from 1 to {MOST_SHOWN}; beyond that the nearest counts")
    offset = Whole(required=False, min_value=0, max_value=FURTHEST)


class AuditLogs(Signed):
    """The newest entries of the whole trail."""

    scoped = False
    permissions = {"GET": AUDIT_READ}

    @described(operation_id="listAuditLogs", parameters=PAGE, responses=AuditRow(many=True))
    def get(self, request: Request) -> Response:
        return Response(_page(AuditEntry.objects.all(), request))


class ProjectAuditLogs(Signed):
    """The newest entries about one project and what is in it."""

    permissions = {"GET": AUDIT_READ}

    @described(operation_id="listProjectAuditLogs", parameters=PAGE, responses=AuditRow(many=True))
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        project = visible_projects(self.by.principal, AUDIT_READ).filter(id=identifier).first()
        if project is None:
            raise absent("project")
        require(self.by.principal, AUDIT_READ, place_of(project), readable=AUDIT_READ, what="project")
        return Response(_page(AuditEntry.objects.filter(project=identifier), request))


class AuditSearch(Signed):
    """Entries by time, actor, action, kind of thing, severity and address."""

    scoped = False
    only_asks = True
    permissions = {"POST": AUDIT_READ}

    @described(operation_id="searchAuditLogs", request=SearchWish, responses=AuditRow(many=True))
    def post(self, request: Request) -> Response:
        wish = checked(SearchWish, request.data)
        return Response(_rows(_found(wish), clamped(wish.get("limit", SHOWN)), wish.get("offset", 0)))


def audit_rows(entries: Iterable[AuditEntry]) -> list[dict[str, Any]]:
    found = list(entries)
    names = names_of(entry.actor for entry in found)
    return [_audit_row(entry, names) for entry in found]


def _audit_row(entry: AuditEntry, names: Mapping[str, str]) -> dict[str, Any]:
    """An entry in the form of existing clients; times and ids are texts."""
    kind, _, holder = entry.actor.partition(":")
    return {
        "id": str(entry.id),
        "user_id": holder if kind in ("user", "service") else "",
        "user_name": names.get(entry.actor, ""),
        "project_id": str(entry.project or ""),
        "action": entry.action,
        "entity_type": entry.entity,
        "entity_id": entry.entity_id,
        "ip_address": entry.address,
        "severity": entry.severity,
        "details": json.dumps(entry.details, sort_keys=True, ensure_ascii=False),
        "created_at": rfc3339(entry.at),
        "event_data": entry.details,
    }


def _found(wish: dict[str, Any]) -> QuerySet[AuditEntry]:
    exact = {"action": "action", "entity_type": "entity", "entity_id": "entity_id", "severity": "severity",
             "ip_address": "address", "project_id": "project", "environment": "environment"}  # fmt: skip
    found = AuditEntry.objects.filter(**{column: wish[name] for name, column in exact.items() if wish.get(name)})
    if wish.get("user_id"):
        found = found.filter(actor__in=actors_of(wish["user_id"]))
    if wish.get("start_date"):
        found = found.filter(at__gte=wish["start_date"])
    if wish.get("end_date"):
        found = found.filter(at__lte=wish["end_date"])
    return found


def _page(found: QuerySet[AuditEntry], request: Request) -> list[dict[str, Any]]:
    return audit_rows(page_of(found.order_by("-id"), request))


def _rows(found: QuerySet[AuditEntry], limit: int, offset: int) -> list[dict[str, Any]]:
    return audit_rows(found.order_by("-id")[offset : offset + limit])
