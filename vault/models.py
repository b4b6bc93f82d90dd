"""Keys and certificate authorities at rest. Every private half is sealed (DESIGN §10)."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class KeyEncryptionKey(models.Model):
    """The key of a scope (an environment, or the platform), wrapped by the master key."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    scope = models.CharField(max_length=32)
    wrapped = models.BinaryField()
    master_key_id = models.CharField(max_length=32)
    created_at = models.DateTimeField(db_default=Now())
    retired_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["scope"], condition=Q(retired_at__isnull=True), name="one_current_key_of_a_scope")
        ]


class CertificateAuthority(models.Model):
    """The root, or the intermediate of one scope. The root's key may be exported and removed."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    scope = models.CharField(max_length=32)
    certificate = models.TextField()
    sealed_key = models.BinaryField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    retired_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["scope"], condition=Q(retired_at__isnull=True), name="one_current_authority_of_a_scope"
            )
        ]
