"""A gateway's own database: who it is in this life, what it may no longer do, what it did, what it copied, what it promised."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from protocol.replica import EMPTY_DIGEST
from protocol.vocabulary import WriteOutcome

OPEN_OUTCOMES = (WriteOutcome.QUEUED.value, WriteOutcome.RECEIVED.value)
"""A write in one of these still has to be carried to its end; in any other the Primary answers for it."""
OPEN = Q(outcome__in=OPEN_OUTCOMES)


class NodeState(models.Model):
    """One row. Committed before anything that depends on it is said or done.

    `life` counts the generations of this database. `assigned_*` is the last directive, so that a restart without the Primary
    goes on where it was. The `replica_*` fields are the cursor of the copy and since when it is known to be complete. `process`
    is the one that acts, until it has said that all it began has ended. `mark` is the furthest one the Primary gave
    (`protocol.marks`), packed, with what it says.
    """

    id = models.SmallIntegerField(primary_key=True, default=1)
    generation = models.UUIDField(default=uuid.uuid4)
    life = models.IntegerField(default=1)
    highest_epoch = models.BigIntegerField(default=0)
    assigned_role = models.CharField(max_length=16, default="")
    assigned_epoch = models.BigIntegerField(default=0)
    fenced_operation = models.UUIDField(null=True)
    fenced_epoch = models.BigIntegerField(null=True)
    fenced_number = models.BigIntegerField(default=0)
    write_sequence = models.BigIntegerField(default=0)
    replica_generation = models.CharField(max_length=36, default="")
    replica_position = models.BigIntegerField(default=0)
    replica_complete_at = models.DateTimeField(null=True)
    replica_round = models.BigIntegerField(default=0)
    replica_resyncing = models.BooleanField(default=False)
    rights_position = models.BigIntegerField(default=0, db_default=0)
    """How far it heard who lost rights while it was quarantined and its cursor stood still."""
    process = models.UUIDField(null=True)
    mark = models.TextField(default="")
    mark_epoch = models.BigIntegerField(default=-1)
    mark_position = models.BigIntegerField(default=-1)
    created_at = models.DateTimeField(db_default=Now())


class MessageNumbers(models.Model):
    """One row: the first message number that is not reserved yet. Nothing but `state.Sequences` touches it."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    next = models.BigIntegerField()


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
        indexes = [
            models.Index(fields=["started_at"], condition=models.Q(reported_at=None), name="effects_unreported"),
            models.Index(fields=["reported_at"], condition=models.Q(reported_at__isnull=False), name="effects_reported"),
        ]


class ReplicaRow(models.Model):
    """That the copy holds a thing: its fingerprint as it came, and the round of reading it was last seen in."""

    kind = models.CharField(max_length=16)
    entity_id = models.UUIDField()
    fingerprint = models.CharField(max_length=64)
    round = models.BigIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["kind", "entity_id"], name="one_row_of_a_copied_thing")]


class CopySum(models.Model):
    """One row: the digest of the copy at the position and in the round it was last stored at; empty while it is not known.

    Everything up to the row `checked_upto` was looked at again in this round and sums up to `checked_sum`. Beside the node's row,
    so that a long page holds nothing that a write or a fence needs.
    """

    id = models.SmallIntegerField(primary_key=True, default=1)
    position = models.BigIntegerField(default=0)
    round = models.BigIntegerField(default=0)
    digest = models.CharField(max_length=64, default=EMPTY_DIGEST)
    checked_upto = models.BigIntegerField(default=0)
    checked_sum = models.CharField(max_length=64, default=EMPTY_DIGEST)


class ReplicaPrincipal(models.Model):
    """Somebody who may do something with secrets here. No account: a name, grants, and hashes of credentials (DESIGN §9)."""

    id = models.UUIDField(primary_key=True)
    kind = models.CharField(max_length=16)
    name = models.CharField(max_length=254)
    grants = models.JSONField(default=list)
    round = models.BigIntegerField()


class ReplicaToken(models.Model):
    """A credential of a copied principal. `scopes` None limits nothing."""

    hash = models.CharField(max_length=64, primary_key=True)
    principal = models.ForeignKey(ReplicaPrincipal, models.CASCADE, related_name="tokens")
    expires_at = models.DateTimeField()
    scopes = models.JSONField(null=True)


class PersonalTokens(models.Model):
    """Entra's tokens of a sign-in at this gateway, sealed, under the hash of the session's token."""

    hash = models.CharField(max_length=64, primary_key=True)
    sealed_tokens = models.BinaryField()
    version = models.IntegerField(default=1)
    expires_at = models.DateTimeField()


class PendingWrite(models.Model):
    """A write accepted here. The body is sealed until the write ended; the signed head stays with the row.

    `promised`: the caller was told that it is queued. `not_before`: when it is next sent or asked for. `size` is that of the
    body's text in bytes.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    life = models.IntegerField()
    generation = models.UUIDField()
    sequence = models.BigIntegerField()
    epoch = models.BigIntegerField()
    gateway_environment = models.CharField(max_length=16)
    previous = models.UUIDField(null=True)
    operation = models.CharField(max_length=16)
    secret = models.UUIDField()
    project = models.UUIDField()
    environment = models.UUIDField()
    key = models.CharField(max_length=255)
    base_version = models.IntegerField(null=True)
    actor = models.CharField(max_length=64)
    idempotency_key = models.CharField(max_length=200, default="")
    request_digest = models.CharField(max_length=64, default="")
    head = models.TextField()
    signature = models.CharField(max_length=128)
    sealed_body = models.BinaryField(null=True)
    size = models.IntegerField()
    promised = models.BooleanField(default=False)
    outcome = models.CharField(max_length=16, default=WriteOutcome.QUEUED.value)
    version = models.IntegerField(default=0)
    code = models.CharField(max_length=64, default="")
    detail = models.CharField(max_length=500, default="")
    attempts = models.IntegerField(default=0)
    not_before = models.DateTimeField()
    accepted_at = models.DateTimeField()
    settled_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["generation", "sequence"], name="one_write_of_a_sequence_number"),
            models.UniqueConstraint(
                fields=["actor", "idempotency_key"], condition=~Q(idempotency_key=""), name="one_write_of_an_idempotency_key"
            ),
        ]
        indexes = [
            models.Index(fields=["life", "sequence"], condition=OPEN, include=["size"], name="writes_open"),
            models.Index(fields=["secret", "-life", "-sequence"], name="writes_of_a_secret"),
            models.Index(fields=["settled_at"], name="writes_settled"),
        ]

    @property
    def open(self) -> bool:
        return self.outcome in OPEN_OUTCOMES


class Backlog(models.Model):
    """One row: how many writes are open here and how many bytes they have. Moved with each that comes or ends."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    writes = models.BigIntegerField(default=0)
    size = models.BigIntegerField(default=0)


class WriteTally(models.Model):
    """How many writes met each outcome here; it only grows."""

    outcome = models.CharField(max_length=16, primary_key=True)
    total = models.BigIntegerField(default=0)


class AuditFork(models.Model):
    """A fork of an audit chain kept here: under this name the Primary takes what stands behind the position (ADR 42)."""

    name = models.CharField(primary_key=True, max_length=40)
    chain = models.CharField(max_length=36, db_index=True)
    position = models.BigIntegerField()
    begun_at = models.DateTimeField(db_default=Now())
