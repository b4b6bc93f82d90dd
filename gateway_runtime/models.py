"""A gateway's own database: who it is in this life, what it may no longer do, and what it did."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models.functions import Now


class NodeState(models.Model):
    """One row. Committed before anything that depends on it is said or done."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    generation = models.UUIDField(default=uuid.uuid4)
    highest_epoch = models.BigIntegerField(default=0)
    fenced_operation = models.UUIDField(null=True)
    fenced_epoch = models.BigIntegerField(null=True)
    fenced_number = models.BigIntegerField(default=0)
    next_sequence = models.BigIntegerField(default=1)
    created_at = models.DateTimeField(db_default=Now())


class Effect(models.Model):
    """One thing this gateway did or refused to do, with the epoch it did it under and its boot-clock interval in seconds."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    task = models.UUIDField(db_index=True)
    claim = models.UUIDField(unique=True)
    kind = models.CharField(max_length=64)
    epoch = models.BigIntegerField()
    started_at = models.DateTimeField()
    started_boot = models.FloatField()
    ended_boot = models.FloatField(null=True)
    outcome = models.CharField(max_length=16, default="")
    detail = models.TextField(default="")
    result = models.JSONField(default=dict)
    retry = models.BooleanField(default=True)
    duration_seconds = models.FloatField(default=0)
    reported_at = models.DateTimeField(null=True)
    verdict = models.CharField(max_length=32, default="")

    class Meta:
        indexes = [models.Index(fields=["started_at"], condition=models.Q(reported_at=None), name="effects_unreported")]
