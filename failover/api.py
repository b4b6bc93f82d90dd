"""The failover paths of the seed and their relatives. Views parse, call, render."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.roles import FAILOVER_FORCE, GATEWAY_ADMIN, GATEWAY_READ
from common.api import Operation as ApiOperation
from common.api import Text, checked
from common.described import described
from failover import operations, selectors
from failover.operations import Asked
from gateways import write_selectors
from gateways.models import Route
from gateways.routes import environment_of


class MoveWish(serializers.Serializer):
    """All fields may be absent: the seed's calls have no body."""

    plan_id = serializers.UUIDField(required=False)
    waive = serializers.ListField(child=Text(max_length=64), required=False, max_length=20)
    reason = Text(required=False, allow_blank=True, max_length=500)


class PlanWish(serializers.Serializer):
    kind = serializers.ChoiceField(choices=["activate-dr", "failback"], required=False)


class Reason(serializers.Serializer):
    reason = Text(required=False, allow_blank=True, max_length=500)


class ForceWish(serializers.Serializer):
    confirm = Text(max_length=32, help_text="the environment's code, typed by the person who takes the risk")
    reason = Text(max_length=500)


class ResumeWish(ForceWish):
    gateway = Text(max_length=63, help_text="name of the gateway that shall be active")


class DrainRow(serializers.Serializer):
    reason = serializers.CharField()
    writes = serializers.IntegerField(
        allow_null=True, help_text="accepted writes that have not arrived; null before the first report"
    )
    oldest_seconds = serializers.FloatField(allow_null=True)
    running = serializers.IntegerField(allow_null=True, help_text="calls to the outside that have not ended")
    reported_at = serializers.DateTimeField(allow_null=True)
    until = serializers.DateTimeField(allow_null=True, help_text="nobody waits longer than this")


class OperationRow(serializers.Serializer):
    id = serializers.UUIDField()
    kind = serializers.CharField()
    step = serializers.CharField()
    waits_for = serializers.CharField(allow_null=True)
    waits_until = serializers.DateTimeField(allow_null=True)
    draining = DrainRow(allow_null=True, help_text="the wait for the old gateway's queue, while there is one")
    outcome = serializers.CharField(allow_null=True)
    source_gateway = serializers.CharField(allow_null=True)
    target_gateway = serializers.CharField(allow_null=True)
    epoch_before = serializers.IntegerField()
    epoch_after = serializers.IntegerField(allow_null=True)
    requested_by = serializers.CharField()
    requested_by_name = serializers.CharField(allow_null=True, help_text="address of a person, name of a service identity")
    reason = serializers.CharField()
    plan_id = serializers.UUIDField(allow_null=True)
    passed_over = serializers.ListField(child=serializers.CharField())
    forced_by = serializers.CharField(allow_null=True)
    forced_by_name = serializers.CharField(allow_null=True)
    split_risk_until = serializers.DateTimeField(allow_null=True)
    fence_last_sequence = serializers.IntegerField(
        allow_null=True, help_text="number of the last write the old gateway had accepted, as it confirmed; null when it did not"
    )
    opened_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)


class StatusRow(serializers.Serializer):
    environment = serializers.CharField()
    state = serializers.CharField()
    state_since = serializers.DateTimeField()
    epoch = serializers.IntegerField()
    active_gateway = serializers.CharField(allow_null=True)
    active_role = serializers.CharField(allow_null=True)
    standby_gateway = serializers.CharField(allow_null=True)
    dr_active = serializers.BooleanField()
    lease_until = serializers.DateTimeField(allow_null=True)
    may_act = serializers.BooleanField(help_text="whether a gateway holds the lease, so that anything can be done outside")
    lease_ended_seconds = serializers.FloatField(
        allow_null=True, help_text="how long ago the last lease ended; null while one lives"
    )
    headline = serializers.CharField(help_text="how the environment stands, in one sentence")
    next = serializers.CharField(help_text="what a person should do now; empty when nothing")
    switched_at = serializers.DateTimeField(allow_null=True)
    requires_plan = serializers.BooleanField()
    loss_manifest_open = serializers.BooleanField(help_text="writes of a lost gateway are not accounted for yet")
    hold_reason = serializers.CharField()
    operation = OperationRow(allow_null=True)
    last_operation = OperationRow(allow_null=True)


class LossWriteRow(serializers.Serializer):
    id = serializers.UUIDField()
    sequence = serializers.IntegerField()
    secret_id = serializers.UUIDField(allow_null=True)
    key = serializers.CharField()
    operation = serializers.CharField()
    base_version = serializers.IntegerField(allow_null=True)
    author = serializers.CharField()
    body_digest = serializers.CharField()
    outcome = serializers.CharField()
    resolution = serializers.CharField(allow_null=True)
    received_at = serializers.DateTimeField()


class LossManifestRow(serializers.Serializer):
    id = serializers.UUIDField()
    environment = serializers.CharField()
    operation = serializers.UUIDField(allow_null=True)
    gateway = serializers.CharField()
    epoch = serializers.IntegerField()
    open = serializers.BooleanField()
    opened_at = serializers.DateTimeField()
    closed_at = serializers.DateTimeField(allow_null=True)
    closed_by = serializers.CharField(allow_null=True)
    closed_reason = serializers.CharField()
    reported_at = serializers.DateTimeField(allow_null=True)
    reported_depth = serializers.IntegerField(help_text="queued writes in its last heartbeat before it was replaced")
    last_sequence = serializers.IntegerField()
    stopped = serializers.BooleanField(help_text="the gateway confirmed that it no longer acts, so nothing comes on top of this")
    arrived = serializers.IntegerField()
    unresolved = serializers.IntegerField()
    missing = serializers.IntegerField(help_text="writes it had accepted that have never arrived")
    writes = LossWriteRow(many=True)


class AcceptLossWish(serializers.Serializer):
    confirm = Text(max_length=32, help_text="the environment's code, typed by the person who accepts the loss")
    reason = Text(max_length=500)


class CheckRow(serializers.Serializer):
    name = serializers.CharField()
    level = serializers.CharField()
    passed = serializers.BooleanField()
    sentence = serializers.CharField()
    fix = serializers.CharField()


class PlanRow(serializers.Serializer):
    plan_id = serializers.UUIDField()
    environment = serializers.CharField()
    kind = serializers.CharField()
    verdict = serializers.CharField(help_text="green, needs_waiver or refused")
    checks = CheckRow(many=True)
    estimate = serializers.DictField()
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()


class TransitionRow(serializers.Serializer):
    id = serializers.IntegerField()
    at = serializers.DateTimeField()
    event = serializers.CharField()
    to = serializers.CharField()
    epoch = serializers.IntegerField()
    operation = serializers.UUIDField(allow_null=True)
    actor = serializers.CharField()
    actor_name = serializers.CharField(allow_null=True, help_text="address of a person, name of a service identity")
    sentence = serializers.CharField()


class Status(ApiOperation):
    """Where an environment stands, and the open operation if there is one."""

    permissions = {"GET": GATEWAY_READ}

    @described(operation_id="failoverStatus", responses=StatusRow)
    def get(self, request: Request, code: str) -> Response:
        return Response(selectors.status_row(environment_of(code).code))


class MakePlan(ApiOperation):
    """Check a move and estimate it without doing it. `kind` defaults to the move that is possible now."""

    permissions = {"POST": GATEWAY_ADMIN}

    @described(operation_id="failoverPlan", request=PlanWish, responses={201: PlanRow})
    def post(self, request: Request, code: str) -> Response:
        wish = checked(PlanWish, request.data)
        status = selectors.status_row(environment_of(code).code)
        kind = wish.get("kind") or ("failback" if status["dr_active"] else "activate-dr")
        return Response(selectors.plan_row(operations.make_plan(code, kind, self.asked())), status=201)

    def asked(self, reason: str = "") -> Asked:
        return Asked(actor=self.actor, address=self.address, reason=reason)


class _Move(ApiOperation):
    permissions = {"POST": GATEWAY_ADMIN}
    kind = ""

    def begin(self, request: Request, code: str) -> Response:
        wish = checked(MoveWish, request.data)
        asked = Asked(actor=self.actor, address=self.address, reason=wish.get("reason", ""))
        answer = operations.request(code, self.kind, operations.Wish(wish.get("plan_id"), tuple(wish.get("waive", ()))), asked)
        return Response(_status_with(code, answer.operation), status=202 if answer.accepted else 200)


class ActivateDr(_Move):
    """Move the environment to its DR gateway. 202 while it runs, 200 when DR is active already."""

    kind = "activate-dr"

    @described(operation_id="activateDr", request=MoveWish, responses={202: StatusRow, 200: StatusRow})
    def post(self, request: Request, code: str) -> Response:
        return self.begin(request, code)


class Failback(_Move):
    """Move the environment back to its primary gateway. 202 while it runs, 200 when the primary is active already."""

    kind = "failback"

    @described(operation_id="failback", request=MoveWish, responses={202: StatusRow, 200: StatusRow})
    def post(self, request: Request, code: str) -> Response:
        return self.begin(request, code)


class Cancel(ApiOperation):
    """Undo the open operation while nothing irrevocable has happened."""

    permissions = {"POST": GATEWAY_ADMIN}

    @described(operation_id="cancelFailover", request=Reason, responses=StatusRow)
    def post(self, request: Request, code: str) -> Response:
        wish = checked(Reason, request.data)
        operation = operations.cancel(code, Asked(self.actor, self.address, wish.get("reason", "")))
        return Response(_status_with(code, operation))


class Force(ApiOperation):
    """Do not wait for the old gateway. Needs its own permission, a reason and the typed name of the environment."""

    permissions = {"POST": FAILOVER_FORCE}

    @described(operation_id="forceFailover", request=ForceWish, responses={202: StatusRow})
    def post(self, request: Request, code: str) -> Response:
        wish = checked(ForceWish, request.data)
        operation = operations.force(code, wish["confirm"], Asked(self.actor, self.address, wish["reason"]))
        return Response(_status_with(code, operation), status=202)


class Resume(ApiOperation):
    """Leave HOLD with a decision about which gateway is active."""

    permissions = {"POST": FAILOVER_FORCE}

    @described(operation_id="resumeEnvironment", request=ResumeWish, responses=StatusRow)
    def post(self, request: Request, code: str) -> Response:
        wish = checked(ResumeWish, request.data)
        operations.resume(code, wish["gateway"], wish["confirm"], Asked(self.actor, self.address, wish["reason"]))
        return Response(selectors.status_row(environment_of(code).code))


class LossManifests(ApiOperation):
    """What gateways that were replaced may have taken with them, newest first."""

    permissions = {"GET": GATEWAY_READ}

    @described(operation_id="lossManifests", responses=LossManifestRow(many=True))
    def get(self, request: Request, code: str) -> Response:
        return Response(write_selectors.manifest_rows(environment_of(code).code))


class AcceptLoss(ApiOperation):
    """Close a loss manifest although writes are missing, because their gateway will never return. Needs a reason."""

    permissions = {"POST": FAILOVER_FORCE}

    @described(operation_id="acceptLoss", request=AcceptLossWish, responses=LossManifestRow(many=True))
    def post(self, request: Request, code: str, identifier: str) -> Response:
        wish = checked(AcceptLossWish, request.data)
        environment = environment_of(code).code
        operations.accept_loss(environment, identifier, wish["confirm"], Asked(self.actor, self.address, wish["reason"]))
        return Response(write_selectors.manifest_rows(environment))


class History(ApiOperation):
    """The newest steps of an environment, newest first."""

    permissions = {"GET": GATEWAY_READ}

    @described(operation_id="failoverHistory", responses=TransitionRow(many=True))
    def get(self, request: Request, code: str) -> Response:
        return Response(selectors.history_rows(environment_of(code).code))


def _status_with(code: str, operation: Any) -> dict[str, Any]:
    """The environment's status; an operation that has just ended is still shown as the one that was asked for."""
    environment = environment_of(code)
    row = selectors.status_row(environment.code)
    if operation is not None and row["operation"] is None:
        route = Route.objects.get(environment=environment)
        row["operation"] = selectors.operation_row(operation, route)
    return row
