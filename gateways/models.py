"""Facts of the fleet and the constraints that hold them: environments, gateways, certificates, tokens, routes, tasks."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from protocol.vocabulary import HealthLabel, Role, StandbyMode, TaskState

ROLES = [(role.value, role.value) for role in Role]


class GatewayEnvironment(models.Model):
    """A blast-radius unit such as NPR or PRO (DESIGN §2). Data allows others."""

    code = models.CharField(primary_key=True, max_length=16)
    requires_plan = models.BooleanField(default=False)
    created_at = models.DateTimeField(db_default=Now())


class Gateway(models.Model):
    """One enrolled gateway. Role and environment live here, not in its certificate."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=63)
    environment = models.ForeignKey(GatewayEnvironment, models.PROTECT, related_name="gateways")
    role = models.CharField(max_length=16, choices=ROLES)
    standby_mode = models.CharField(max_length=8, default=StandbyMode.WARM.value)
    generation = models.UUIDField()
    signing_key = models.CharField(max_length=64)
    encryption_key = models.CharField(max_length=64)
    server_names = models.JSONField(default=list)
    version = models.CharField(max_length=64)
    enrolled_at = models.DateTimeField()
    created_at = models.DateTimeField(db_default=Now())
    banned_at = models.DateTimeField(null=True)
    drained_at = models.DateTimeField(null=True)
    decommissioned_at = models.DateTimeField(null=True)
    held_at = models.DateTimeField(null=True)
    held_reason = models.CharField(max_length=200, default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["name"], condition=Q(decommissioned_at__isnull=True), name="one_live_gateway_of_a_name"
            ),
            models.UniqueConstraint(
                fields=["environment", "role"],
                condition=Q(decommissioned_at__isnull=True),
                name="one_live_gateway_in_a_role",
            ),
        ]


class CertifiedKey(models.Model):
    """A public key belongs to the subject it was first certified for, for ever (reliability §3, signer table)."""

    spki = models.CharField(primary_key=True, max_length=64)
    gateway = models.ForeignKey(Gateway, models.CASCADE)


class GatewayCertificate(models.Model):
    """A client certificate we signed. Looked up by the fingerprint of what the TLS socket shows."""

    fingerprint = models.CharField(primary_key=True, max_length=64)
    gateway = models.ForeignKey(Gateway, models.CASCADE, related_name="certificates")
    spki = models.CharField(max_length=64, db_index=True)
    serial = models.CharField(max_length=40, unique=True)
    pem = models.TextField()
    server_pem = models.TextField()
    not_before = models.DateTimeField()
    not_after = models.DateTimeField()
    issued_at = models.DateTimeField(db_default=Now())
    revoked_at = models.DateTimeField(null=True)
    revoked_reason = models.CharField(max_length=100, default="")


class BootstrapTokenRow(models.Model):
    """What is kept of a bootstrap token: never its secret, only the hash (DESIGN §6)."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    secret_hash = models.CharField(max_length=64)
    name = models.CharField(max_length=63)
    environment = models.ForeignKey(GatewayEnvironment, models.PROTECT)
    role = models.CharField(max_length=16, choices=ROLES)
    standby_mode = models.CharField(max_length=8)
    server_names = models.JSONField(default=list)
    created_by = models.CharField(max_length=64)
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)
    used_at = models.DateTimeField(null=True)
    used_spki = models.CharField(max_length=64, default="")
    gateway = models.ForeignKey(Gateway, models.SET_NULL, null=True)


class MessageReceipt(models.Model):
    """Proof that a sealed message was taken once; a second arrival is a replay (reliability §6)."""

    message_id = models.UUIDField(primary_key=True)
    gateway = models.ForeignKey(Gateway, models.CASCADE)
    generation = models.UUIDField()
    sequence = models.BigIntegerField()
    received_at = models.DateTimeField(db_default=Now(), db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["gateway", "generation", "sequence"], name="one_message_of_a_sequence")]


class PrimaryKeyPair(models.Model):
    """The Primary's channel keys: one signing key with its certificate, recipient keys that rotate (reliability §6)."""

    SIGNING, RECIPIENT = "signing", "recipient"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    purpose = models.CharField(max_length=16)
    kid = models.CharField(max_length=64, unique=True)
    public_key = models.CharField(max_length=64)
    sealed_private_key = models.BinaryField()
    certificate = models.TextField(default="")
    created_at = models.DateTimeField(db_default=Now())
    not_after = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["purpose", "not_after"], name="primary_keys_by_purpose")]


class PrimaryNode(models.Model):
    """Identity of this life of the Primary's database (DESIGN §2, generation)."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    generation = models.UUIDField(default=uuid.uuid4)
    system_identifier = models.CharField(max_length=32)
    timeline = models.BigIntegerField()
    since = models.DateTimeField(db_default=Now())


class GatewayStatus(models.Model):
    """The last heartbeat of a gateway and the label with its memory."""

    gateway = models.OneToOneField(Gateway, models.CASCADE, primary_key=True, related_name="status")
    heartbeat_at = models.DateTimeField(null=True)
    report = models.JSONField(default=dict)
    clock_skew_seconds = models.FloatField(default=0)
    score = models.FloatField(default=0)
    label = models.CharField(max_length=16, default=HealthLabel.SILENT.value)
    label_memory = models.JSONField(default=dict)
    stable_since = models.DateTimeField(null=True)
    good_in_row = models.IntegerField(default=0)
    consecutive_failures = models.IntegerField(default=0)
    highest_epoch = models.BigIntegerField(default=0)
    judged_at = models.DateTimeField(null=True)
    watched_since = models.DateTimeField(null=True)
    """Nobody listened before this moment: silence is counted from here."""


class Route(models.Model):
    """Which gateway serves an environment, with its epoch and its lease. Changed only by `gateways.routes`."""

    environment = models.OneToOneField(GatewayEnvironment, models.PROTECT, primary_key=True, related_name="route")
    epoch = models.BigIntegerField(default=0)
    active_gateway = models.ForeignKey(Gateway, models.PROTECT, null=True, related_name="+")
    lease_open = models.BooleanField(default=False)
    lease_until = models.DateTimeField(null=True)
    lease_sequence = models.BigIntegerField(default=0)
    lease_blocked_until = models.DateTimeField(null=True)
    fence_operation = models.UUIDField(null=True)
    fence_number = models.BigIntegerField(default=0)
    fence_cancelled = models.BooleanField(default=False)
    fence_acknowledged_at = models.DateTimeField(null=True)
    fence_last_sequence = models.BigIntegerField(null=True)
    drain_operation = models.UUIDField(null=True)
    drain_reported_at = models.DateTimeField(null=True)
    drain_queue_depth = models.BigIntegerField(null=True)
    drain_running_tasks = models.BigIntegerField(null=True)
    switched_at = models.DateTimeField(null=True)
    danger = models.CharField(max_length=300, default="")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(lease_open=False) | Q(active_gateway__isnull=False), name="an_open_lease_has_a_gateway"
            )
        ]


class EpochGrant(models.Model):
    """Who was active when: one gateway for an environment and epoch, for ever (I1)."""

    environment = models.ForeignKey(GatewayEnvironment, models.PROTECT)
    epoch = models.BigIntegerField()
    gateway = models.ForeignKey(Gateway, models.PROTECT)
    operation = models.UUIDField(null=True)
    granted_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["environment", "epoch"], name="one_gateway_for_an_epoch")]


class Task(models.Model):
    """Work offered to the active gateway of an environment."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    environment = models.ForeignKey(GatewayEnvironment, models.PROTECT)
    kind = models.CharField(max_length=64)
    payload = models.JSONField(default=dict)
    state = models.CharField(max_length=16, default=TaskState.PENDING.value)
    created_by = models.CharField(max_length=64)
    created_at = models.DateTimeField(db_default=Now())
    not_before = models.DateTimeField(db_default=Now())
    attempts = models.IntegerField(default=0)
    epoch = models.BigIntegerField(null=True)
    gateway = models.ForeignKey(Gateway, models.PROTECT, null=True)
    claim = models.UUIDField(null=True)
    claim_until = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    duration_seconds = models.FloatField(null=True)
    detail = models.TextField(default="")
    result = models.JSONField(default=dict)

    class Meta:
        indexes = [
            models.Index(fields=["environment", "not_before"], condition=Q(state="pending"), name="tasks_waiting"),
            models.Index(fields=["claim_until"], condition=Q(state="claimed"), name="tasks_claimed"),
            models.Index(fields=["environment", "-created_at"], name="tasks_by_age"),
        ]


class RejectedResult(models.Model):
    """A result that came too late, kept as evidence and never applied (reliability §4.4)."""

    id = models.BigAutoField(primary_key=True)
    task = models.ForeignKey(Task, models.CASCADE, related_name="rejected_results")
    gateway = models.ForeignKey(Gateway, models.PROTECT)
    epoch = models.BigIntegerField()
    verdict = models.CharField(max_length=32)
    body = models.JSONField()
    received_at = models.DateTimeField(db_default=Now())


class TaskTally(models.Model):
    """Counters behind the task metrics; they only grow, whatever is pruned (DESIGN §11)."""

    environment = models.ForeignKey(GatewayEnvironment, models.PROTECT)
    status = models.CharField(max_length=32)
    total = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["environment", "status"], name="one_tally_of_a_status")]


class DurationTally(models.Model):
    """Histogram of task durations of one gateway: how many fell into the bucket with this upper bound, and their sum."""

    gateway = models.ForeignKey(Gateway, models.PROTECT)
    upper_bound = models.CharField(max_length=8)
    total = models.BigIntegerField(default=0)
    seconds = models.FloatField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["gateway", "upper_bound"], name="one_tally_of_a_bucket")]
