"""`GET /` and the three questions for health of the Primary. They need no authentication and say nothing of the topology."""

from __future__ import annotations

import json

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from rest_framework import serializers
from rest_framework.request import Request

from common import health
from common.api import Operation, guarded
from common.described import described


@guarded
def primary_root(request: HttpRequest) -> HttpResponse:
    """Answer `{"mode":"primary"}` (seed §10.1)."""
    return answer({"mode": settings.MAZEVAULT.mode})


class HealthBody(serializers.Serializer):
    status = serializers.ChoiceField(choices=["ok", "error"])
    mode = serializers.CharField()
    version = serializers.CharField()
    database = serializers.CharField(help_text="ok or unreachable; unknown when no worker process answers")
    cache = serializers.CharField(help_text="ok or unreachable; unknown when no worker process answers")


class StateBody(serializers.Serializer):
    status = serializers.CharField(help_text="ok or error")
    mode = serializers.CharField()
    version = serializers.CharField()
    reasons = serializers.ListField(child=serializers.CharField(), help_text="what is missing, in sentences; empty when ok")


class PrimaryHealth(Operation):
    """200 with `"status":"ok"` while the database answers, 503 when it does not; the cache alone degrades nothing.

    The answer comes within a second, whatever is down.
    """

    public = True
    authentication_classes = ()

    @described(operation_id="health", responses={200: HealthBody, 503: HealthBody}, auth=[])
    def get(self, request: Request) -> HttpResponse:
        database, store = health.found(health.database, health.cache_server)
        body: dict[str, object] = {
            "status": "ok" if database else "error",
            "mode": settings.MAZEVAULT.mode,
            "version": settings.MAZEVAULT.version,
            "database": "ok" if database else "unreachable",
            "cache": "ok" if store else "unreachable",
        }
        return answer(body, status=200 if database else 503)


class Live(Operation):
    """For a liveness probe: 200 while the processes of this node move, 503 with the reasons otherwise. Asks no database."""

    public = True
    authentication_classes = ()

    @described(operation_id="health_live", responses={200: StateBody, 503: StateBody}, auth=[])
    def get(self, request: Request) -> HttpResponse:
        status, body = health.liveness()
        return answer(body, status)


class Ready(Operation):
    """For a readiness probe: 200 when the database answers and has its migrations, 503 with the reasons otherwise."""

    public = True
    authentication_classes = ()

    @described(operation_id="health_ready", responses={200: StateBody, 503: StateBody}, auth=[])
    def get(self, request: Request) -> HttpResponse:
        status, body = health.readiness()
        return answer(body, status)


def answer(body: dict[str, object], status: int = 200) -> HttpResponse:
    """A small JSON answer with a Content-Length."""
    text = json.dumps(body, separators=(",", ":")).encode()
    response = HttpResponse(text, status=status, content_type="application/json")
    response["Content-Length"] = str(len(text))
    response["Cache-Control"] = "no-store"
    return response
