"""Outside systems a project is connected to, and the rules by which its secrets are kept in step with them."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models.functions import Lower, Now

from accounts.models import LIVING, ConflictStrategy, Environment, Project, Timed


class Integration(Timed):
    """One outside system of a project. `environment_given` is what the client sent for its environment.

    The secret part of the configuration is sealed under `sealed_under`, the gateway environment it concerned when it was made.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    project = models.ForeignKey(Project, models.PROTECT, related_name="integrations")
    environment = models.ForeignKey(Environment, models.PROTECT, null=True, related_name="integrations")
    environment_given = models.CharField(max_length=100, default="")
    name = models.CharField(max_length=200)
    type = models.CharField(max_length=64)
    provider = models.CharField(max_length=64)
    config = models.JSONField(default=dict)
    sealed_under = models.CharField(max_length=32)
    sealed_secrets = models.BinaryField(null=True)
    secrets_version = models.IntegerField(default=0)
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                "project",
                "environment",
                Lower("name"),
                condition=LIVING,
                nulls_distinct=False,
                name="one_living_integration_of_a_name",
            )
        ]


class Vault(models.Model):
    """A vault that an integration has named, and the gateway environment it belongs to from then on."""

    origin = models.CharField(max_length=300, primary_key=True)
    gateway_environment = models.CharField(max_length=32)
    bound_at = models.DateTimeField(db_default=Now())


class AccessSnapshot(models.Model):
    """Who has a role on the vault of an integration, as Azure said at a moment.

    `seen_by` is the person in whose name it was asked, so that it is shown to nobody else; empty when an application or a managed
    identity asked.
    """

    integration = models.ForeignKey(Integration, models.CASCADE, related_name="access_snapshots")
    seen_by = models.CharField(max_length=64, default="")
    at = models.DateTimeField()
    grants = models.JSONField(default=list)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["integration", "seen_by"], name="one_access_list_of_an_integration")]


class SyncDirection(models.TextChoices):
    PULL = "pull"
    PUSH = "push"
    BIDIRECTIONAL = "bidirectional"


class SyncMode(models.TextChoices):
    INCREMENTAL = "incremental"
    FULL_SYNC = "full_sync"


class SyncRule(Timed):
    """Which secrets of a project are kept in step with an integration, which way, and who wins when both sides changed."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    project = models.ForeignKey(Project, models.PROTECT, related_name="sync_rules")
    integration = models.ForeignKey(Integration, models.PROTECT, related_name="sync_rules")
    name = models.CharField(max_length=200)
    target_environment = models.CharField(max_length=100, default="")
    source_path = models.CharField(max_length=1000, default="")
    key_transform_template = models.CharField(max_length=500, default="")
    conflict_strategy = models.CharField(
        max_length=24, choices=ConflictStrategy.choices, default=ConflictStrategy.MANUAL_RESOLUTION
    )
    sync_direction = models.CharField(max_length=16, choices=SyncDirection.choices, default=SyncDirection.PULL)
    sync_mode = models.CharField(max_length=16, choices=SyncMode.choices, default=SyncMode.INCREMENTAL)
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint("project", Lower("name"), condition=LIVING, name="one_living_sync_rule_of_a_name"),
        ]
