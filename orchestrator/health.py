"""`GET /` and `GET /api/v1/health` of the Primary. Health needs no authentication and says nothing of the topology."""

from __future__ import annotations

import json
import logging

from django.conf import settings
from django.core.cache import cache
from django.db import Error as DatabaseError
from django.db import connection
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request

from common.api import Operation, guarded

log = logging.getLogger("mazevault.health")


@guarded
def primary_root(request: HttpRequest) -> HttpResponse:
    """Answer `{"mode":"primary"}` (seed §10.1)."""
    return answer({"mode": settings.MAZEVAULT.mode})


class HealthBody(serializers.Serializer):
    status = serializers.ChoiceField(choices=["ok", "error"])
    mode = serializers.CharField()
    version = serializers.CharField()
    database = serializers.CharField(help_text="ok or unreachable")
    cache = serializers.CharField(help_text="ok or unreachable")


class PrimaryHealth(Operation):
    """200 with `"status":"ok"` while the database answers, 503 when it does not; the cache alone degrades nothing."""

    public = True
    authentication_classes = ()

    @extend_schema(operation_id="health", responses={200: HealthBody, 503: HealthBody}, auth=[])
    def get(self, request: Request) -> HttpResponse:
        database, store = database_answers(), cache_answers()
        body: dict[str, object] = {
            "status": "ok" if database else "error",
            "mode": settings.MAZEVAULT.mode,
            "version": settings.MAZEVAULT.version,
            "database": "ok" if database else "unreachable",
            "cache": "ok" if store else "unreachable",
        }
        return answer(body, status=200 if database else 503)


def database_answers() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        log.warning("health: database does not answer: %s", type(error).__name__)
        return False
    return True


def cache_answers() -> bool:
    try:
        cache.get("health")
    except Exception as error:  # the cache client's own tree is wide; whatever it raises means "no answer"
        log.warning("health: cache does not answer: %s", type(error).__name__)
        return False
    return True


def answer(body: dict[str, object], status: int = 200) -> HttpResponse:
    """A small JSON answer with a Content-Length."""
    text = json.dumps(body, separators=(",", ":")).encode()
    response = HttpResponse(text, status=status, content_type="application/json")
    response["Content-Length"] = str(len(text))
    response["Cache-Control"] = "no-store"
    return response
