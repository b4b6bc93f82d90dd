"""The audit trail: rows are written with the change they tell of, and chained in order right after (DESIGN §10)."""

from __future__ import annotations

from django.db import models


class AuditEntry(models.Model):
    """One thing that happened. The database refuses to change it, and deletes it only behind a signed cut (migration 0004)."""

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField()
    actor = models.CharField(max_length=64)
    action = models.CharField(max_length=64, db_index=True)
    entity = models.CharField(max_length=32)
    entity_id = models.CharField(max_length=64)
    severity = models.CharField(max_length=8)
    environment = models.CharField(max_length=16)
    address = models.CharField(max_length=64)
    organization = models.UUIDField(null=True)
    project = models.UUIDField(null=True)
    details = models.JSONField(default=dict)

    class Meta:
        indexes = [
            models.Index(fields=["entity", "entity_id"], name="audit_by_entity"),
            models.Index(fields=["project", "id"], name="audit_by_project"),
            models.Index(fields=["actor", "id"], name="audit_by_actor"),
            models.Index(fields=["at"], name="audit_by_time"),
        ]


class AuditPending(models.Model):
    """An entry without a place yet. A trigger writes the row with the entry, the sequencer takes it away."""

    entry_id = models.BigIntegerField(primary_key=True)


class AuditLink(models.Model):
    """The place of an entry in a chain: `hash` covers the chain's name, the position, the hash before and the entry's text.

    A Primary has one chain, named "primary"; a gateway has one for each of its generations, named by it.
    """

    id = models.BigAutoField(primary_key=True)
    chain = models.CharField(max_length=36)
    position = models.BigIntegerField()
    entry = models.OneToOneField(AuditEntry, models.PROTECT, related_name="link")
    hash = models.CharField(max_length=64)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["chain", "position"], name="one_entry_at_a_position")]


class AuditCheckpoint(models.Model):
    """A signed statement of where a chain stood: made at the Primary, remembered by the gateways that countersigned it.

    A cut is a statement that everything up to its position was removed because its time was over (`common.audit_retention`), or
    that it stands in another chain, which this one goes on from (`gateways.audit_forks`).
    """

    id = models.BigAutoField(primary_key=True)
    chain = models.CharField(max_length=40)
    position = models.BigIntegerField()
    is_cut = models.BooleanField(default=False)
    text = models.TextField()
    signature = models.CharField(max_length=88)
    key = models.CharField(max_length=64)

    class Meta:
        indexes = [models.Index(fields=["chain", "is_cut", "position"], name="checkpoints_of_a_chain")]


class Change(models.Model):
    """That a thing changed, for readers of one scope (`common.feed`). No position yet: the sequencer has not seen it."""

    id = models.BigAutoField(primary_key=True)
    scope = models.CharField(max_length=16)
    kind = models.CharField(max_length=16)
    entity_id = models.UUIDField()
    position = models.BigIntegerField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["scope", "position"], name="one_change_at_a_position_of_a_scope")]
        indexes = [
            models.Index(fields=["scope", "kind", "entity_id"], name="changes_of_a_thing"),
            models.Index(fields=["id"], condition=models.Q(position=None), name="changes_waiting"),
        ]


class RemovedTally(models.Model):
    """How many rows retention has removed from a table; it only grows."""

    table = models.CharField(primary_key=True, max_length=64)
    total = models.BigIntegerField(default=0)
