"""Facts of the fleet and the constraints that hold them: environments, gateways, certificates, tokens, routes, tasks, writes."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import F, Func, Q, TextField, Value
from django.db.models.functions import Now

from protocol.replica import EMPTY_DIGEST
from protocol.vocabulary import HealthLabel, Role, StandbyMode, TaskState, WriteOutcome
from vault.generations import Standing

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
    held_reason = models.CharField(max_length=400, default="")
    held_code = models.CharField(max_length=16, default="", db_default="")
    released_at = models.DateTimeField(null=True)
    orders = models.BigIntegerField(db_default=0, editable=False)
    """How often this row was changed, as for `Route`."""

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


class GatewayLife(models.Model):
    """One generation of a gateway and the key it signs writes with, kept after its end: old writes may arrive (DESIGN §9)."""

    gateway = models.ForeignKey(Gateway, models.CASCADE, related_name="lives")
    generation = models.UUIDField()
    signing_key = models.CharField(max_length=64)
    began_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["gateway", "generation"], name="one_life_of_a_generation")]


class CertifiedKey(models.Model):
    """A public key belongs to the subject it was first certified for, for ever (reliability §3, signer table)."""

    spki = models.CharField(primary_key=True, max_length=64)
    gateway = models.ForeignKey(Gateway, models.CASCADE)


class GatewayCertificate(models.Model):
    """A client certificate we signed. Looked up by the fingerprint of what the TLS socket shows.

    `issuer_key` is the key identifier (hex) of the generation that signed it. `renewal_ordered_at` is set when it must be renewed
    whatever its age, because that generation is given up.
    """

    fingerprint = models.CharField(primary_key=True, max_length=64)
    gateway = models.ForeignKey(Gateway, models.CASCADE, related_name="certificates")
    spki = models.CharField(max_length=64, db_index=True)
    serial = models.CharField(max_length=40, unique=True)
    pem = models.TextField()
    server_pem = models.TextField()
    not_before = models.DateTimeField()
    not_after = models.DateTimeField()
    issued_at = models.DateTimeField(db_default=Now())
    issuer_key = models.CharField(max_length=64, default="", db_index=True)
    renewal_ordered_at = models.DateTimeField(null=True)
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
    """Proof that a sealed message was taken once; a second arrival is a replay (reliability §6). `instance` is who sent it."""

    message_id = models.UUIDField(primary_key=True)
    gateway = models.ForeignKey(Gateway, models.CASCADE)
    generation = models.UUIDField()
    sequence = models.BigIntegerField()
    instance = models.UUIDField(null=True)
    received_at = models.DateTimeField(db_default=Now(), db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["gateway", "generation", "sequence"], name="one_message_of_a_sequence")]


class GatewayPresence(models.Model):
    """Which running instance of a gateway is the current one, in its present generation (`gateways.presence`).

    `until`: before this moment what it was given may still be in use. `sequence` is the highest message number taken, `floor` the
    highest whose receipt is gone. `write_sequence` is the highest number of its writes it told of, in the message `told_in`;
    `put_back`: its database went back, and it has not yet gone beyond that number.
    """

    gateway = models.OneToOneField(Gateway, models.CASCADE, primary_key=True, related_name="presence")
    generation = models.UUIDField()
    instance = models.UUIDField(null=True)
    ended = models.BooleanField(default=False)
    until = models.DateTimeField(null=True)
    sequence = models.BigIntegerField(default=0)
    floor = models.BigIntegerField(default=0)
    write_sequence = models.BigIntegerField(default=0)
    told_in = models.BigIntegerField(default=0)
    put_back = models.BooleanField(default=False)


class GatewayInstance(models.Model):
    """One of the last instances of a gateway that were heard: where from and when. Times are the database's.

    `lag_seconds` is the shortest way of a message by both clocks; one that took much longer proves nothing about now.
    `lag_grown_at` is when that way last grew (`presence.Way`).
    """

    gateway = models.ForeignKey(Gateway, models.CASCADE, related_name="instances")
    instance = models.UUIDField()
    address = models.CharField(max_length=64, default="")
    first_heard_at = models.DateTimeField()
    heard_at = models.DateTimeField()
    lag_seconds = models.FloatField()
    lag_grown_at = models.DateTimeField(db_default=Now())
    ended = models.BooleanField(default=False)
    shared = models.BooleanField(default=False)
    waiting_since = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["gateway", "instance"], name="one_row_of_an_instance")]


class PrimaryKeyPair(models.Model):
    """The Primary's channel keys (reliability §6): signing keys with their certificates, recipient keys. Both have generations.

    `standing` and `generation` are those of `vault.generations`, counted for each purpose. The private half of a signing key is
    destroyed when it is retired; its certificate stays, since signed checkpoints are checked with it.
    """

    SIGNING, RECIPIENT = "signing", "recipient"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    purpose = models.CharField(max_length=16)
    generation = models.IntegerField(default=1)
    standing = models.CharField(max_length=8, default=Standing.CURRENT)
    kid = models.CharField(max_length=64, unique=True)
    public_key = models.CharField(max_length=64)
    sealed_private_key = models.BinaryField(null=True)
    certificate = models.TextField(default="")
    created_at = models.DateTimeField(db_default=Now())
    announced_at = models.DateTimeField()
    not_after = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["purpose", "not_after"], name="primary_keys_by_purpose")]
        constraints = [
            models.UniqueConstraint(fields=["purpose", "generation"], name="one_primary_key_of_a_generation"),
            models.UniqueConstraint(
                fields=["purpose"], condition=Q(standing=Standing.CURRENT), name="one_current_primary_key_of_a_purpose"
            ),
            models.UniqueConstraint(
                fields=["purpose"], condition=Q(standing=Standing.NEXT), name="one_next_primary_key_of_a_purpose"
            ),
        ]


class PrimaryNode(models.Model):
    """Identity of this life of the Primary's database (DESIGN §2, generation). `looks` only grows in it (`remembered`)."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    generation = models.UUIDField(default=uuid.uuid4)
    system_identifier = models.CharField(max_length=32)
    timeline = models.BigIntegerField()
    since = models.DateTimeField(db_default=Now())
    looks = models.BigIntegerField(default=0)
    longest_block_seconds = models.FloatField(default=0, db_default=0)
    """The longest that any node of the last hour blocks leases for, waits for an old one, and adds to the end of one. Times may
    have been made shorter since, and what was given before lasts on (`generation.keep_times`)."""
    longest_lease_seconds = models.FloatField(default=0, db_default=0)
    longest_fence_wait_seconds = models.FloatField(default=0, db_default=0)
    longest_seen_at = models.DateTimeField(db_default=Now())
    everywhere_refused = models.BooleanField(default=False, db_default=False)
    """For processes of the former version: whether gateways were told that credentials without an audience do not count there."""
    told_form = models.CharField(max_length=64, default="", db_default="")
    """In what form gateways were told of people and services (`told_principals`)."""


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
    resync_ordered_at = models.DateTimeField(null=True)
    resync_begun_at = models.DateTimeField(null=True)
    resync_ended_at = models.DateTimeField(null=True)


class SignOfLife(models.Model):
    """A numbered question that only a living gateway answers, and what it said with its last answer (`gateways.signs`)."""

    gateway = models.OneToOneField(Gateway, models.CASCADE, primary_key=True, related_name="sign")
    asked = models.BigIntegerField(default=0)
    asked_at = models.DateTimeField(null=True)
    answered = models.BigIntegerField(default=0)
    answered_at = models.DateTimeField(null=True)
    report = models.JSONField(default=dict)


class Route(models.Model):
    """Which gateway serves an environment, with its epoch and its lease. Changed only by `gateways.routes`."""

    environment = models.OneToOneField(GatewayEnvironment, models.PROTECT, primary_key=True, related_name="route")
    epoch = models.BigIntegerField(default=0)
    active_gateway = models.ForeignKey(Gateway, models.PROTECT, null=True, related_name="+")
    lease_open = models.BooleanField(default=False)
    lease_until = models.DateTimeField(null=True)
    lease_sequence = models.BigIntegerField(default=0)
    lease_blocked_until = models.DateTimeField(null=True)
    lease_blocks = models.BigIntegerField(default=0)
    fence_operation = models.UUIDField(null=True)
    fence_number = models.BigIntegerField(default=0)
    fence_cancelled = models.BooleanField(default=False)
    fence_acknowledged_at = models.DateTimeField(null=True)
    fence_last_sequence = models.BigIntegerField(null=True)
    drain_operation = models.UUIDField(null=True)
    drain_reported_at = models.DateTimeField(null=True)
    drain_queue_depth = models.BigIntegerField(null=True)
    drain_running_tasks = models.BigIntegerField(null=True)
    drain_oldest_seconds = models.FloatField(null=True)
    switched_at = models.DateTimeField(null=True)
    danger = models.CharField(max_length=300, default="")
    orders = models.BigIntegerField(db_default=0, editable=False)
    """How often this row was changed: counted by a trigger, so that directives have an order (`gateways.directives`)."""

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
    answered_claim = models.UUIDField(null=True)
    """The last claim a result was accepted for: who repeats that result is told that it is known."""
    finished_at = models.DateTimeField(null=True)
    duration_seconds = models.FloatField(null=True)
    detail = models.TextField(default="")
    result = models.JSONField(default=dict)

    class Meta:
        indexes = [
            models.Index(fields=["environment", "not_before"], condition=Q(state="pending"), name="tasks_waiting"),
            models.Index(fields=["claim_until"], condition=Q(state="claimed"), name="tasks_claimed"),
            models.Index(fields=["environment", "-created_at"], name="tasks_by_age"),
            models.Index(fields=["finished_at"], condition=Q(finished_at__isnull=False), name="tasks_ended"),
            models.Index(
                fields=["created_at"], condition=Q(kind="vault.survey", state="succeeded", detail=""), name="tasks_not_read_yet"
            ),
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


class TaskMinute(models.Model):
    """How many tasks of a gateway ended well and badly in one minute: what health looks at instead of the tasks themselves."""

    gateway = models.ForeignKey(Gateway, models.CASCADE, db_index=False)
    minute = models.DateTimeField()
    good = models.IntegerField(default=0)
    bad = models.IntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["gateway", "minute"], name="one_row_of_a_gateways_minute")]


class ReceivedWrite(models.Model):
    """A write of a gateway as it arrived, and what became of it (DESIGN §9).

    `head` is the exact text that was signed. Body and salt are sealed in `sealed_body` until nobody can need them any more.
    A row outside of its stream (`in_stream` False) is evidence of a write that contradicts another one or is not genuine;
    `claimed_id` is then the id it came with when that one is another write's. `previous` and `secret` are ids, not references:
    what they name may not have arrived, or not exist.
    """

    id = models.UUIDField(primary_key=True)
    gateway = models.ForeignKey(Gateway, models.PROTECT, related_name="writes")
    environment = models.ForeignKey(GatewayEnvironment, models.PROTECT)
    generation = models.UUIDField()
    epoch = models.BigIntegerField()
    sequence = models.BigIntegerField()
    in_stream = models.BooleanField(default=True)
    claimed_id = models.UUIDField(null=True, db_index=True)
    previous = models.UUIDField(null=True)
    operation = models.CharField(max_length=16)
    secret = models.UUIDField(null=True)
    project = models.UUIDField(null=True)
    project_environment = models.UUIDField(null=True)
    key = models.CharField(max_length=255)
    base_version = models.BigIntegerField(null=True)
    actor = models.CharField(max_length=64)
    idempotency_key = models.CharField(max_length=200, db_default="")
    accepted_at = models.CharField(max_length=64)
    head = models.TextField()
    signature = models.CharField(max_length=128)
    sealed_body = models.BinaryField(null=True)
    body_digest = models.CharField(max_length=64)
    promised = models.BooleanField()
    outcome = models.CharField(max_length=16, default=WriteOutcome.RECEIVED.value)
    version = models.BigIntegerField(default=0)
    code = models.CharField(max_length=64, default="")
    detail = models.CharField(max_length=500, default="")
    attempts = models.IntegerField(default=0)
    not_before = models.DateTimeField()
    received_at = models.DateTimeField()
    settled_at = models.DateTimeField(null=True)
    settled_by = models.CharField(max_length=64, default="")
    resolution = models.CharField(max_length=16, default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["gateway", "generation", "sequence"], condition=Q(in_stream=True), name="one_write_of_a_sequence"
            )
        ]
        indexes = [
            models.Index(fields=["gateway", "generation", "sequence"], condition=Q(outcome="received"), name="writes_waiting"),
            models.Index(
                fields=["gateway", "secret", "sequence"], condition=Q(outcome="received"), name="writes_waiting_by_secret"
            ),
            models.Index(fields=["previous"], condition=Q(outcome="received"), name="writes_waiting_for_another"),
            models.Index(
                fields=["environment", "outcome"],
                condition=Q(outcome__in=["conflict", "quarantined", "dead_letter"], resolution=""),
                name="writes_unresolved",
            ),
            models.Index(fields=["environment", "-received_at"], name="writes_by_age"),
            models.Index(fields=["settled_at"], condition=Q(settled_at__isnull=False), name="received_writes_settled"),
            models.Index(
                fields=["gateway", "generation", "secret", "sequence"], condition=Q(outcome="applied"), name="writes_applied"
            ),
        ]


class WriteStream(models.Model):
    """How much of a gateway's stream of one life has arrived, counted as it arrives: `arrived` writes, `highest` the farthest.

    Everything up to `floor` has arrived; up to `forgotten` some were removed because their time was over.
    """

    gateway = models.ForeignKey(Gateway, models.PROTECT, db_index=False)
    generation = models.UUIDField()
    arrived = models.BigIntegerField(default=0)
    highest = models.BigIntegerField(default=0)
    floor = models.BigIntegerField(db_default=0)
    forgotten = models.BigIntegerField(db_default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["gateway", "generation"], name="one_stream_of_a_life")]


class WriteTally(models.Model):
    """Counters behind `mazevault_gateway_writes_total`; they only grow (DESIGN §11)."""

    environment = models.ForeignKey(GatewayEnvironment, models.PROTECT)
    outcome = models.CharField(max_length=16)
    total = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["environment", "outcome"], name="one_tally_of_an_outcome")]


class LossManifest(models.Model):
    """What a gateway that was replaced may have taken with it, until it is accounted for (DESIGN §8).

    `reported_depth` and `last_sequence` are what it last said of its queue, in `generation`.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    environment = models.ForeignKey(GatewayEnvironment, models.PROTECT)
    operation = models.UUIDField(null=True)
    gateway = models.ForeignKey(Gateway, models.PROTECT, related_name="loss_manifests")
    generation = models.UUIDField()
    epoch = models.BigIntegerField()
    opened_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True)
    closed_by = models.CharField(max_length=64, default="")
    closed_reason = models.CharField(max_length=500, default="")
    reported_at = models.DateTimeField(null=True)
    reported_depth = models.BigIntegerField(default=0)
    last_sequence = models.BigIntegerField(default=0)
    stopped = models.BooleanField(default=False)
    """It confirmed that it no longer acts, so no later number can be of its time."""

    class Meta:
        indexes = [models.Index(fields=["environment", "-opened_at"], name="losses_by_age")]


class ToldPrincipal(models.Model):
    """That gateways of this environment were told of a principal, so that they are told as well when it is to be forgotten.

    Nobody else is ever named to them, not even by an id (I13).
    """

    environment = models.ForeignKey(GatewayEnvironment, models.CASCADE)
    principal = models.UUIDField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["environment", "principal"], name="one_note_of_a_told_principal")]


class CopyDigest(models.Model):
    """The digest of what a reader of an environment's changes holds at `position`, moved with each change (`copy_digests`).

    Everything up to the row `checked_upto` was looked at again in this round, and sums up to `checked_sum`.
    """

    environment = models.OneToOneField(GatewayEnvironment, models.CASCADE, primary_key=True)
    position = models.BigIntegerField(default=0)
    digest = models.CharField(max_length=64, default=EMPTY_DIGEST)
    checked_upto = models.BigIntegerField(default=0)
    checked_sum = models.CharField(max_length=64, default=EMPTY_DIGEST)
    checked_at = models.DateTimeField(null=True)


class CopiedThing(models.Model):
    """The fingerprint of a thing that copies of this environment hold: what is taken from the digest when the thing changes."""

    id = models.BigAutoField(primary_key=True)
    environment = models.ForeignKey(GatewayEnvironment, models.CASCADE, db_index=False)
    kind = models.CharField(max_length=16)
    entity_id = models.UUIDField()
    fingerprint = models.CharField(max_length=64)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["environment", "kind", "entity_id"], name="one_fingerprint_of_a_thing")]
        indexes = [models.Index(fields=["environment", "id"], name="copied_things_in_order")]


class GatewayAuditChain(models.Model):
    """How far the Primary holds the audit chain of one life of a gateway, and how far it has anchored it in its own chain.

    `contradicted_*`: the first entry that told another past than what is held here, the hash held and the hash told, and when. A
    fork `follows` the chain that was contradicted, from behind the position `begins_at` on (`gateways.audit_forks`).
    """

    chain = models.CharField(primary_key=True, max_length=40)
    gateway = models.ForeignKey(Gateway, models.PROTECT, related_name="audit_chains")
    position = models.BigIntegerField(default=0)
    hash = models.CharField(max_length=64)
    anchored_position = models.BigIntegerField(default=0)
    anchored_at = models.DateTimeField(null=True)
    follows = models.CharField(max_length=40, default="", db_default="")
    begins_at = models.BigIntegerField(default=0, db_default=0)
    contradicted_at = models.DateTimeField(null=True)
    contradicted_position = models.BigIntegerField(null=True)
    contradicted_hash = models.CharField(max_length=64, default="", db_default="")
    contradicting_hash = models.CharField(max_length=64, default="", db_default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["follows"], condition=~Q(follows=""), name="one_chain_follows_a_chain"),
        ]


ABOUT_SECRET = Func(F("text"), Value('"entity":"secret","entity_id":"([^"]+)"'), function="substring", output_field=TextField())
"""The secret that an uploaded entry is about. Its text is sorted and compact (`protocol.audit.entry_text`), and what stands in
its details is a text in it, so these words come once and unescaped."""


class GatewayAuditRecord(models.Model):
    """One entry of a gateway's audit chain, byte for byte as it was uploaded. Append-only like the Primary's own (I18)."""

    id = models.BigAutoField(primary_key=True)
    chain = models.CharField(max_length=40)
    position = models.BigIntegerField()
    text = models.TextField()
    hash = models.CharField(max_length=64)
    received_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["chain", "position"], name="one_gateway_record_at_a_position")]
        indexes = [models.Index(ABOUT_SECRET, F("id"), name="gateway_audit_of_a_secret")]


class AuditCountersignature(models.Model):
    """A gateway's signature under a checkpoint of the Primary's chain, or why it refused to sign."""

    id = models.BigAutoField(primary_key=True)
    checkpoint = models.ForeignKey("common.AuditCheckpoint", models.PROTECT, related_name="countersignatures")
    gateway = models.ForeignKey(Gateway, models.PROTECT)
    generation = models.UUIDField()
    key = models.CharField(max_length=64)
    signature = models.CharField(max_length=88)
    refusal = models.CharField(max_length=200, default="")
    received_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["checkpoint", "generation"], name="one_countersignature_of_a_life"),
        ]
        indexes = [models.Index(fields=["generation"], name="countersignatures_of_a_life")]
