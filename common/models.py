"""The audit trail: rows are written with the change they tell of, and chained in order right after (DESIGN §10)."""

from __future__ import annotations

from django.db import models


class AuditEntry(models.Model):
    """One thing that happened. The database refuses to change, delete or truncate it (migration 0002)."""

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField()
    actor = models.CharField(max_length=64)
    action = models.CharField(max_length=64, db_index=True)
    entity = models.CharField(max_length=32)
    entity_id = models.CharField(max_length=64)
    severity = models.CharField(max_length=8)
    environment = models.CharField(max_length=16)
    address = models.CharField(max_length=64)
    details = models.JSONField(default=dict)

    class Meta:
        indexes = [models.Index(fields=["entity", "entity_id"], name="audit_by_entity")]


class AuditLink(models.Model):
    """The place of an entry in the chain: `hash` covers the entry and the hash before it."""

    position = models.BigIntegerField(primary_key=True)
    entry = models.OneToOneField(AuditEntry, models.PROTECT, related_name="link")
    hash = models.CharField(max_length=64)


class Change(models.Model):
    """That a thing changed, for readers of one scope (`common.feed`). No position yet: the sequencer has not seen it."""

    id = models.BigAutoField(primary_key=True)
    scope = models.CharField(max_length=16)
    kind = models.CharField(max_length=16)
    entity_id = models.UUIDField()
    position = models.BigIntegerField(null=True, unique=True)

    class Meta:
        indexes = [
            models.Index(fields=["scope", "position"], name="changes_of_a_scope"),
            models.Index(fields=["scope", "kind", "entity_id"], name="changes_of_a_thing"),
            models.Index(fields=["id"], condition=models.Q(position=None), name="changes_waiting"),
        ]
