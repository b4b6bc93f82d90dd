"""People's API of the way to a vault."""

from __future__ import annotations

import uuid
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.authentication import credential_in
from accounts.models import Session
from accounts.operations import Signed
from accounts.roles import PROJECTS_READ, PROJECTS_WRITE
from accounts.scoping import place_of, require
from common.api import checked
from common.clock import now
from gateways import vault_ways
from gateways.vault_ways import Trial
from integrations import connections


class TestWish(serializers.Serializer):
    write = serializers.BooleanField(
        required=False, default=False, help_text="also try to set, delete and recover a secret of our own in the vault"
    )


class StageRow(serializers.Serializer):
    stage = serializers.CharField()
    outcome = serializers.ChoiceField(["ok", "failed", "skipped"])
    milliseconds = serializers.IntegerField()
    cause = serializers.CharField(help_text="why it failed or was skipped")
    fix = serializers.CharField()
    owner = serializers.CharField(help_text="who can fix it")
    code = serializers.CharField()


class TestRow(serializers.Serializer):
    ok = serializers.BooleanField(allow_null=True, help_text="null while a gateway has not answered yet")
    ran_at = serializers.CharField(help_text="`primary`, or the name of the gateway")
    auth_method = serializers.CharField()
    stages = StageRow(many=True)
    task = serializers.UUIDField(allow_null=True, help_text="the gateway's task, see admin/tasks")
    detail = serializers.CharField()


class IntegrationTest(Signed):
    """Try the way to an integration's vault: address, DNS, TCP, TLS, token, consent, list, get; on wish also set and recover."""

    permissions = {"POST": PROJECTS_WRITE}

    @extend_schema(operation_id="testIntegration", request=TestWish, responses={200: TestRow, 202: TestRow})
    def post(self, request: Request, identifier: uuid.UUID) -> Response:
        wish = checked(TestWish, request.data)
        integration = connections.integration_seen(self.by.principal, identifier)
        require(
            self.by.principal, PROJECTS_WRITE, place_of(integration.project), readable=PROJECTS_READ, what="integration"
        )  # fmt: skip
        credential = credential_in(request)
        session = credential if isinstance(credential, Session) else None
        trial = vault_ways.try_integration(integration, session, self.by, write=wish["write"], now=now())
        return Response(test_row(trial), status=202 if trial.ok is None and not trial.detail else 200)


def test_row(trial: Trial) -> dict[str, Any]:
    return {
        "ok": trial.ok if trial.stages or not trial.detail else False,
        "ran_at": trial.ran_at,
        "auth_method": trial.method.value,
        "stages": [
            {name: stage[name] for name in ("stage", "outcome", "milliseconds", "cause", "fix", "owner", "code")}
            for stage in trial.stages
        ],
        "task": str(trial.task) if trial.task else None,
        "detail": trial.detail,
    }
