"""Outside systems a project is connected to, and the rules by which its secrets are kept in step with them."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q
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


class VaultUse(models.Model):
    """A project that may have the gateways go to a vault with their own identity, because an administrator said so (I13)."""

    vault = models.ForeignKey(Vault, models.CASCADE, related_name="uses")
    project = models.ForeignKey(Project, models.CASCADE, related_name="+")
    opened_by = models.CharField(max_length=64)
    opened_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["vault", "project"], name="one_use_of_a_vault")]


class AccessSnapshot(models.Model):
    """Who has a role on the vault of an integration, as Azure said at a moment.

    `vault_id` is the vault it was asked of: an integration may lead elsewhere since. `seen_by` is the person in whose name it was
    asked, so that it is shown to nobody else; empty when an application or a managed identity asked.
    """

    integration = models.ForeignKey(Integration, models.CASCADE, related_name="access_snapshots")
    seen_by = models.CharField(max_length=64, default="")
    vault_id = models.CharField(max_length=500, default="")
    at = models.DateTimeField()
    grants = models.JSONField(default=list)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["integration", "seen_by"], name="one_access_list_of_an_integration")]


class VaultQuestion(models.Model):
    """What somebody asked of an integration's vault, to be answered while nobody's request waits: a test, or who has access.

    `task` is the gateway's when it is asked there. `answer` is what came back: `stages`, or `at` and `grants`, or `trouble`.
    """

    TEST, ACCESS = "test", "access"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    integration = models.ForeignKey(Integration, models.CASCADE, related_name="questions")
    kind = models.CharField(max_length=8)
    asked_by = models.CharField(max_length=64)
    method = models.CharField(max_length=32)
    vault_id = models.CharField(max_length=500, default="")
    task = models.UUIDField(null=True)
    ran_at = models.CharField(max_length=100, default="")
    begun_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)
    answer = models.JSONField(default=dict)
    detail = models.CharField(max_length=2000, default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["integration", "kind"], condition=Q(ended_at__isnull=True), name="one_open_question_of_a_kind"
            )
        ]
        indexes = [
            models.Index(fields=["begun_at"], condition=Q(ended_at__isnull=True), name="questions_open"),
            models.Index(fields=["integration", "kind", "-begun_at"], name="questions_by_age"),
        ]


class SyncDirection(models.TextChoices):
    PULL = "pull"
    PUSH = "push"
    BIDIRECTIONAL = "bidirectional"


class SyncMode(models.TextChoices):
    INCREMENTAL = "incremental"
    FULL_SYNC = "full_sync"


class SyncRule(Timed):
    """Which secrets of a project are kept in step with an integration, which way, and who wins when both sides changed.

    `interval_minutes` 0 means that it runs when somebody asks; scheduled runs have the rights that `scheduled_by` has then.
    `adopted` are names in the vault that a person put under the rule although it did not make them. `dr_copy` says that the vault
    is the copy of the DR region, whose lag is looked at before a failover.
    """

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
    paused = models.BooleanField(default=False)
    paused_why = models.CharField(max_length=300, default="")
    interval_minutes = models.IntegerField(default=0)
    scheduled_by = models.CharField(max_length=64, default="")
    deletion_count = models.IntegerField(default=10)
    deletion_percent = models.IntegerField(default=10)
    adopted = models.JSONField(default=list)
    dr_copy = models.BooleanField(default=False)
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint("project", Lower("name"), condition=LIVING, name="one_living_sync_rule_of_a_name"),
        ]


class SyncMemory(models.Model):
    """What a rule remembers: of which vault, under which names and direction. `settled` once its first run is over.

    The key of the digests is sealed for the gateway environment `scope`; without it nobody can try values against them.
    """

    rule = models.OneToOneField(SyncRule, models.CASCADE, primary_key=True, related_name="memory")
    scope = models.CharField(max_length=32)
    sealed_digest_key = models.BinaryField()
    target = models.CharField(max_length=300)
    transform = models.CharField(max_length=500)
    environment = models.CharField(max_length=100)
    direction = models.CharField(max_length=16)
    settled = models.BooleanField(default=False)


class SyncItem(models.Model):
    """One secret that both sides of a rule had with the same value, and the versions they had then."""

    memory = models.ForeignKey(SyncMemory, models.CASCADE, related_name="items")
    folded_name = models.CharField(max_length=127)
    name = models.CharField(max_length=127)
    key = models.CharField(max_length=255)
    digest = models.CharField(max_length=64)
    our_version = models.BigIntegerField()
    their_version = models.CharField(max_length=200)
    stamp = models.CharField(max_length=40, default="")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["memory", "folded_name"], name="one_memory_of_a_name")]


class RunState(models.TextChoices):
    """Where a run stands. Everything but `running` is its end."""

    RUNNING = "running"
    PLANNED = "planned"
    """A preview, a drift report, or a plan that may not be done as it is; the verdict says why."""
    SUCCEEDED = "succeeded"
    INCOMPLETE = "incomplete"
    """All steps were tried and some failed; the next run proposes those again."""
    STOPPED = "stopped"
    FAILED = "failed"


class SyncRun(models.Model):
    """One run of a rule: asked for by somebody, planned and done by a gateway, told here step by step.

    `task` is the gateway's task that works on it now; a run may take several. `confirmed` is the preview a person agreed to,
    `undoes` the run that is taken back. `claim` is the claim of the task that spoke last.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    rule = models.ForeignKey(SyncRule, models.CASCADE, related_name="runs")
    phase = models.CharField(max_length=16)
    state = models.CharField(max_length=16, choices=RunState.choices, default=RunState.RUNNING)
    asked_by = models.CharField(max_length=64)
    scheduled = models.BooleanField(default=False)
    confirmed = models.ForeignKey("self", models.SET_NULL, null=True, related_name="+")
    undoes = models.ForeignKey("self", models.SET_NULL, null=True, related_name="undone_by")
    deletion_count = models.IntegerField()
    deletion_percent = models.IntegerField()
    environment = models.ForeignKey(Environment, models.PROTECT, related_name="+")
    target = models.CharField(max_length=300)
    task = models.UUIDField(null=True)
    stop_asked = models.BooleanField(default=False)
    verdict = models.CharField(max_length=32, default="")
    digest = models.CharField(max_length=64, default="")
    setting = models.CharField(max_length=64, default="")
    first_run = models.BooleanField(default=False)
    refusals = models.JSONField(default=list)
    numbers = models.JSONField(default=dict)
    code = models.CharField(max_length=64, default="")
    detail = models.CharField(max_length=1000, default="")
    created_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["rule"], condition=Q(state="running"), name="one_running_sync_of_a_rule"),
        ]
        indexes = [models.Index(fields=["rule", "-created_at"], name="sync_runs_by_age")]


class StepState(models.TextChoices):
    PLANNED = "planned"
    BEGUN = "begun"
    """Announced: whether it was done is not known yet."""
    DONE = "done"
    FAILED = "failed"
    OUTDATED = "outdated"
    """The world had moved: nothing was done."""


class SyncStep(models.Model):
    """One step of a run's plan and what became of it. `remembered` is what the rule knew of the name before."""

    run = models.ForeignKey(SyncRun, models.CASCADE, related_name="steps")
    position = models.IntegerField()
    fingerprint = models.CharField(max_length=64)
    name = models.CharField(max_length=127)
    action = models.JSONField()
    state = models.CharField(max_length=16, choices=StepState.choices, default=StepState.PLANNED)
    operation = models.UUIDField(null=True)
    our_version = models.BigIntegerField(null=True)
    their_version = models.CharField(max_length=200, null=True)
    remembered = models.JSONField(null=True)
    code = models.CharField(max_length=64, default="")
    detail = models.CharField(max_length=1000, default="")
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["run", "position"], name="one_step_at_a_position"),
            models.UniqueConstraint(fields=["operation"], condition=Q(operation__isnull=False), name="one_step_of_an_operation"),
        ]
        indexes = [models.Index(fields=["run", "state"], name="sync_steps_by_state")]


class SyncNote(models.Model):
    """A secret that a run left alone and why; in a drift report `reason` says how both sides stand to each other."""

    run = models.ForeignKey(SyncRun, models.CASCADE, related_name="notes")
    key = models.CharField(max_length=255)
    name = models.CharField(max_length=127)
    reason = models.CharField(max_length=32)
    held_off = models.CharField(max_length=32, default="")


class StorageMove(models.Model):
    """Moving the values of a project into its vault, or out of it, in one gateway environment. `failed` names what stayed.

    `look` is the task that last looked whether what was moved into the vault is there. `opened` are the names of deleted secrets
    that were recovered in the vault to be read, by secret, until they are known to be deleted there again.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    project = models.ForeignKey(Project, models.CASCADE, related_name="storage_moves")
    gateway_environment = models.CharField(max_length=32)
    to = models.CharField(max_length=16)
    state = models.CharField(max_length=16, choices=RunState.choices, default=RunState.RUNNING)
    asked_by = models.CharField(max_length=64)
    task = models.UUIDField(null=True)
    look = models.UUIDField(null=True)
    opened = models.JSONField(default=dict)
    moved = models.IntegerField(default=0)
    failed = models.JSONField(default=dict)
    code = models.CharField(max_length=64, default="")
    detail = models.CharField(max_length=1000, default="")
    created_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "gateway_environment"], condition=Q(state="running"), name="one_running_move_of_a_project"
            )
        ]
        indexes = [models.Index(fields=["project", "-created_at"], name="storage_moves_by_age")]


class RotationState(models.TextChoices):
    WAITING = "waiting"
    """Until the new value has arrived wherever a rule brings it, and the grace period is over."""
    VERIFYING = "verifying"
    """The gateways look whether it is the newest in each vault; nothing is switched off before all of them have seen it."""
    RETIRING = "retiring"
    RETIRED = "retired"
    SUPERSEDED = "superseded"
    """Another value was set meanwhile; what is to be retired is that one's business."""
    FAILED = "failed"


class Rotation(models.Model):
    """What becomes of the values before a rotated one. `targets` are the vaults that have it, each with the task that looks."""

    version = models.OneToOneField("vault.SecretVersion", models.CASCADE, primary_key=True, related_name="rotation")
    state = models.CharField(max_length=16, choices=RotationState.choices, default=RotationState.WAITING)
    grace_until = models.DateTimeField()
    targets = models.JSONField(default=list)
    detail = models.CharField(max_length=1000, default="")
    created_at = models.DateTimeField(db_default=Now())
    looked_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["state"], condition=Q(state__in=["waiting", "verifying", "retiring"]), name="rotations_open")
        ]


class OperationTally(models.Model):
    """Counters behind the metrics of sync steps and rotations; they only grow, whatever is pruned (DESIGN §11)."""

    operation = models.CharField(max_length=16)
    kind = models.CharField(max_length=32)
    result = models.CharField(max_length=16)
    total = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["operation", "kind", "result"], name="one_tally_of_an_operation")]
