"""The fleet for people: bootstrap tokens, gateways, health, tasks. Views parse, call, render."""

from __future__ import annotations

import uuid
from typing import Any

from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.fields import Settings
from accounts.roles import GATEWAY_ADMIN, GATEWAY_READ
from common.api import Operation, Text, checked
from common.clock import now
from common.described import described
from common.errors import NotFound, ValidationFailed
from common.paging import PAGE, page_of
from gateways import dispatch, fleet, routes, selectors, tokens
from gateways.models import BootstrapTokenRow
from gateways.tokens import TokenWish
from protocol.vocabulary import TaskState

TASKS_SHOWN = 500


class BootstrapWish(serializers.Serializer):
    """`name` alone is enough; PRO and the role dr-standby must be named."""

    name = Text(max_length=63)
    environment = Text(required=False, max_length=16)
    role = Text(required=False, max_length=16)
    standby_mode = Text(required=False, max_length=8)
    ttl_hours = serializers.IntegerField(required=False, min_value=1, max_value=tokens.LONGEST_LIFE_HOURS)
    server_names = serializers.ListField(child=Text(max_length=253), required=False, max_length=20)


class BootstrapRow(serializers.Serializer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    environment = serializers.CharField()
    role = serializers.CharField()
    standby_mode = serializers.CharField()
    state = serializers.CharField(help_text="unused, used, revoked or expired")
    created_by = serializers.CharField()
    created_by_name = serializers.CharField(allow_null=True, help_text="address of a person, name of a service identity")
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()
    used_at = serializers.DateTimeField(allow_null=True)
    revoked_at = serializers.DateTimeField(allow_null=True)
    gateway_id = serializers.UUIDField(allow_null=True)


class NewBootstrap(BootstrapRow):
    token = serializers.CharField(help_text="the whole package, shown once; the value of GATEWAY_BOOTSTRAP_TOKEN")


class GatewayRow(serializers.Serializer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    environment = serializers.CharField()
    role = serializers.CharField()
    standby_mode = serializers.CharField()
    assigned_role = serializers.CharField()
    version = serializers.CharField()
    generation = serializers.UUIDField()
    enrolled_at = serializers.DateTimeField()
    created_at = serializers.DateTimeField()
    banned_at = serializers.DateTimeField(allow_null=True)
    drained_at = serializers.DateTimeField(allow_null=True)
    held_at = serializers.DateTimeField(allow_null=True)
    held_reason = serializers.CharField()


class HealthRow(serializers.Serializer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    environment = serializers.CharField()
    role = serializers.CharField()
    health_score = serializers.FloatField()
    health = serializers.CharField()
    activation_status = serializers.CharField()
    last_heartbeat = serializers.DateTimeField(allow_null=True)
    heartbeat_age_seconds = serializers.FloatField(allow_null=True)
    consecutive_failures = serializers.IntegerField()
    parts = serializers.DictField(child=serializers.FloatField())
    caps = serializers.ListField(child=serializers.CharField())
    why = serializers.ListField(child=serializers.CharField(), help_text="what is wrong; an ended lease comes first")
    headline = serializers.CharField(help_text="how it stands, in one sentence")
    next = serializers.CharField(help_text="what a person should do now; empty when nothing")
    may_act = serializers.BooleanField(help_text="whether it is the active gateway and holds the lease")
    lease_until = serializers.DateTimeField(allow_null=True, help_text="null where it is not the active gateway")
    lease_ended_seconds = serializers.FloatField(allow_null=True, help_text="how long ago its lease ended; null while it lives")
    stopped_at = serializers.DateTimeField(allow_null=True, help_text="when it was stopped in order, and not started since")
    reported_role = serializers.CharField(allow_null=True)
    assigned_role = serializers.CharField()
    epoch = serializers.IntegerField()
    version = serializers.CharField()
    write_queue = serializers.DictField()
    certificate_days_left = serializers.FloatField(allow_null=True)


class ReasonWish(serializers.Serializer):
    reason = Text(required=False, allow_blank=True, max_length=500)


class DrainWish(ReasonWish):
    draining = serializers.BooleanField(required=False)


class TaskWish(serializers.Serializer):
    environment = Text(max_length=16)
    kind = Text(max_length=64)
    payload = Settings(required=False)


class TaskRow(serializers.Serializer):
    id = serializers.UUIDField()
    environment = serializers.CharField()
    kind = serializers.CharField()
    payload = serializers.DictField()
    state = serializers.CharField()
    attempts = serializers.IntegerField()
    epoch = serializers.IntegerField(allow_null=True)
    gateway = serializers.CharField(allow_null=True)
    created_by = serializers.CharField()
    created_by_name = serializers.CharField(allow_null=True, help_text="address of a person, name of a service identity")
    created_at = serializers.DateTimeField()
    not_before = serializers.DateTimeField()
    claim_until = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    duration_seconds = serializers.FloatField(allow_null=True)
    detail = serializers.CharField()
    result = serializers.DictField()
    rejected_results = serializers.IntegerField()


class Bootstrap(Operation):
    """Create a bootstrap token for a gateway, or list the tokens without their secrets."""

    permissions = {"POST": GATEWAY_ADMIN, "GET": GATEWAY_READ}

    @described(operation_id="createBootstrapToken", request=BootstrapWish, responses={201: NewBootstrap})
    def post(self, request: Request) -> Response:
        fields = checked(BootstrapWish, request.data)
        wish = TokenWish(**{**fields, "server_names": tuple(fields.get("server_names", ()))})
        created = tokens.create_token(wish, actor=self.actor, address=self.address, now=now())
        return Response({"token": created.text, **selectors.token_rows([created.row], now())[0]}, status=201)

    @described(operation_id="listBootstrapTokens", parameters=PAGE, responses=BootstrapRow(many=True))
    def get(self, request: Request) -> Response:
        rows = page_of(BootstrapTokenRow.objects.order_by("-created_at", "id"), request)
        return Response(selectors.token_rows(rows, now()))


class BootstrapOne(Operation):
    """Revoke an unused bootstrap token."""

    permissions = {"DELETE": GATEWAY_ADMIN}

    @described(operation_id="revokeBootstrapToken", responses={204: None})
    def delete(self, request: Request, identifier: str) -> Response:
        tokens.revoke_token(_uuid(identifier, "bootstrap token"), actor=self.actor, address=self.address, now=now())
        return Response(status=204)


class Gateways(Operation):
    """All enrolled gateways."""

    permissions = {"GET": GATEWAY_READ}

    @described(operation_id="listGateways", responses=GatewayRow(many=True))
    def get(self, request: Request) -> Response:
        return Response(selectors.gateway_rows())


class GatewayOne(Operation):
    """One gateway with its certificates."""

    permissions = {"GET": GATEWAY_READ}

    @described(operation_id="getGateway", responses=GatewayRow)
    def get(self, request: Request, identifier: str) -> Response:
        gateway = fleet.living_gateway(_uuid(identifier, "gateway"))
        return Response(selectors.gateway_row(gateway.id, with_certificates=True))


class _Act(Operation):
    permissions = {"POST": GATEWAY_ADMIN}

    def act(self, request: Request, identifier: str, use_case: Any, **more: Any) -> Response:
        reason = checked(ReasonWish, request.data).get("reason", "")
        gateway = use_case(_uuid(identifier, "gateway"), reason=reason, actor=self.actor, address=self.address, now=now(), **more)
        return Response(selectors.gateway_row(gateway.id))


class Ban(_Act):
    """Refuse everything this gateway says from its next request on and revoke its certificates."""

    @described(operation_id="banGateway", request=ReasonWish, responses=GatewayRow)
    def post(self, request: Request, identifier: str) -> Response:
        return self.act(request, identifier, fleet.ban)


class Release(_Act):
    """Take back a hold after its cause was looked into."""

    @described(operation_id="releaseGateway", request=ReasonWish, responses=GatewayRow)
    def post(self, request: Request, identifier: str) -> Response:
        return self.act(request, identifier, fleet.release)


class Drain(_Act):
    """Offer the gateway no new tasks; `{"draining": false}` ends that."""

    @described(operation_id="drainGateway", request=DrainWish, responses=GatewayRow)
    def post(self, request: Request, identifier: str) -> Response:
        draining = checked(DrainWish, request.data).get("draining", True)
        return self.act(request, identifier, fleet.drain, draining=draining)


class Decommission(_Act):
    """End a gateway for good; its name and its role become free."""

    @described(operation_id="decommissionGateway", request=ReasonWish, responses=GatewayRow)
    def post(self, request: Request, identifier: str) -> Response:
        return self.act(request, identifier, fleet.decommission)


class GatewayHealth(Operation):
    """Health of every gateway: score, label, parts, and why."""

    permissions = {"GET": GATEWAY_READ}

    @described(operation_id="gatewayHealth", responses=HealthRow(many=True))
    def get(self, request: Request) -> Response:
        return Response(selectors.gateway_health())


class Tasks(Operation):
    """Offer a task to the active gateway of an environment, or list the newest tasks."""

    permissions = {"POST": GATEWAY_ADMIN, "GET": GATEWAY_READ}

    @described(operation_id="createTask", request=TaskWish, responses={201: TaskRow})
    def post(self, request: Request) -> Response:
        wish = checked(TaskWish, request.data)
        task = dispatch.create_task(
            wish["environment"], wish["kind"], wish.get("payload", {}), actor=self.actor, address=self.address
        )
        task.refresh_from_db()
        return Response(selectors.task_rows([task])[0], status=201)

    @described(
        operation_id="listTasks",
        parameters=[OpenApiParameter("environment", str), OpenApiParameter("state", str)],
        responses=TaskRow(many=True),
    )
    def get(self, request: Request) -> Response:
        queryset = selectors.tasks().order_by("-created_at")
        code, state = request.query_params.get("environment"), request.query_params.get("state")
        if code:
            queryset = queryset.filter(environment=routes.environment_of(code))
        if state:
            queryset = queryset.filter(state=_task_state(state))
        return Response(selectors.task_rows(queryset[:TASKS_SHOWN]))


class TaskOne(Operation):
    """One task."""

    permissions = {"GET": GATEWAY_READ}

    @described(operation_id="getTask", responses=TaskRow)
    def get(self, request: Request, identifier: str) -> Response:
        task = selectors.tasks().filter(id=_uuid(identifier, "task")).first()
        if task is None:
            raise NotFound("there is no task with this id")
        return Response(selectors.task_rows([task])[0])


def _uuid(text: str, what: str) -> uuid.UUID:
    """An id from a path; anything that is no UUID cannot be the id of anything."""
    try:
        return uuid.UUID(text)
    except ValueError:
        raise NotFound(f"there is no {what} with this id") from None


def _task_state(text: str) -> str:
    if text not in {state.value for state in TaskState}:
        raise ValidationFailed(f"state must be one of {', '.join(state.value for state in TaskState)}")
    return text
