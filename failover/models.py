"""Where each environment stands, the operations that moved it, the plans made for it, and its history."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from failover.machine import State
from gateways.models import Gateway, GatewayEnvironment


class EnvironmentState(models.Model):
    """The state of an environment. Changed only together with a `Transition` row, under the route's lock."""

    environment = models.OneToOneField(GatewayEnvironment, models.PROTECT, primary_key=True, related_name="failover")
    state = models.CharField(max_length=20, default=State.UNASSIGNED.value)
    since = models.DateTimeField(db_default=Now())
    hold_reason = models.CharField(max_length=300, default="")


class Plan(models.Model):
    """Checks and estimate at a moment, and the digest of the world they were made for."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    environment = models.ForeignKey(GatewayEnvironment, models.PROTECT)
    kind = models.CharField(max_length=16)
    digest = models.CharField(max_length=32)
    checks = models.JSONField()
    estimate = models.JSONField()
    created_by = models.CharField(max_length=64)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()


class Operation(models.Model):
    """One move of an environment from request to end. At most one is open for an environment (I6)."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    environment = models.ForeignKey(GatewayEnvironment, models.PROTECT)
    kind = models.CharField(max_length=16)
    plan = models.ForeignKey(Plan, models.PROTECT, null=True)
    waived = models.JSONField(default=list)
    checks = models.JSONField(default=list)
    source = models.ForeignKey(Gateway, models.PROTECT, null=True, related_name="+")
    target = models.ForeignKey(Gateway, models.PROTECT, null=True, related_name="+")
    epoch_before = models.BigIntegerField()
    epoch_after = models.BigIntegerField(null=True)
    requested_by = models.CharField(max_length=64)
    reason = models.CharField(max_length=500, default="")
    forced_by = models.CharField(max_length=64, default="")
    forced_reason = models.CharField(max_length=500, default="")
    split_risk_until = models.DateTimeField(null=True)
    fence_last_sequence = models.BigIntegerField(null=True)
    """Number of the last write the source had accepted, as it said when it confirmed that it no longer acts."""
    target_question = models.BigIntegerField(null=True)
    source_question = models.BigIntegerField(null=True)
    """Only answers to these questions and to later ones are signs of life of now (`gateways.signs`)."""
    opened_at = models.DateTimeField(db_default=Now())
    step_since = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=16, default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["environment"], condition=Q(finished_at__isnull=True), name="one_open_operation_of_an_environment"
            )
        ]


class Transition(models.Model):
    """History: one row for each step, append only."""

    id = models.BigAutoField(primary_key=True)
    environment = models.ForeignKey(GatewayEnvironment, models.PROTECT)
    operation = models.ForeignKey(Operation, models.PROTECT, null=True, related_name="transitions")
    from_state = models.CharField(max_length=20)
    event = models.CharField(max_length=20)
    to_state = models.CharField(max_length=20)
    epoch = models.BigIntegerField()
    actor = models.CharField(max_length=64)
    sentence = models.CharField(max_length=800)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = [models.Index(fields=["environment", "-id"], name="history_of_an_environment")]
