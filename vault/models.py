"""Keys, certificate authorities and secrets at rest. Private halves and values are sealed (DESIGN §10)."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from accounts.models import Environment, Project, Timed
from vault.generations import Standing


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
    """One generation of the root, or of the intermediate of one scope (`vault.generations`). An ended one stays as history.

    `sealed_key` is None where the root's key was removed, and of what has ended. `issuer` is the root that signed `certificate`;
    other living roots sign the same key too (`CrossCertificate`). `key_id` is the subject key identifier (hex).
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    scope = models.CharField(max_length=32)
    generation = models.IntegerField(default=1)
    standing = models.CharField(max_length=8, choices=[(one.value, one.value) for one in Standing], default=Standing.CURRENT)
    certificate = models.TextField()
    issuer = models.ForeignKey("self", models.PROTECT, null=True, related_name="+")
    key_id = models.CharField(max_length=64, db_index=True)
    sealed_key = models.BinaryField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    not_after = models.DateTimeField()
    announced_at = models.DateTimeField()
    current_at = models.DateTimeField(null=True)
    retired_at = models.DateTimeField(null=True)
    trusted_until = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["scope", "generation"], name="one_authority_of_a_generation"),
            models.UniqueConstraint(
                fields=["scope"], condition=Q(standing=Standing.CURRENT), name="one_current_authority_of_a_scope"
            ),
            models.UniqueConstraint(fields=["scope"], condition=Q(standing=Standing.NEXT), name="one_next_authority_of_a_scope"),
        ]


class CrossCertificate(models.Model):
    """The same intermediate under another root, so that whoever trusts either root can follow the chain."""

    authority = models.ForeignKey(CertificateAuthority, models.CASCADE, related_name="crossed")
    issuer = models.ForeignKey(CertificateAuthority, models.PROTECT, related_name="+")
    certificate = models.TextField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["authority", "issuer"], name="one_cross_certificate_of_a_root")]


class SecretType(models.TextChoices):
    PASSWORD = "password"  # noqa: S105  a kind of secret, not one
    API_KEY = "api_key"
    CERTIFICATE = "certificate"
    SSH_KEY = "ssh_key"
    GENERAL = "general"


class SecretStatus(models.TextChoices):
    ACTIVE = "active"
    ARCHIVED = "archived"
    DELETED = "deleted"
    """A tombstone that can be restored."""
    PURGED = "purged"
    """A tombstone that holds nothing any more."""


class Secret(Timed):
    """A named value of a project in one environment. Deleting leaves a tombstone; `version` is the newest one.

    On a gateway the same row is a copy of the Primary's (`gateway_runtime.replica`).
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    project = models.ForeignKey(Project, models.PROTECT, related_name="secrets")
    environment = models.ForeignKey(Environment, models.PROTECT, related_name="secrets")
    key = models.CharField(max_length=255)
    type = models.CharField(max_length=16, choices=SecretType.choices, default=SecretType.GENERAL)
    description = models.CharField(max_length=1000, default="")
    tags = models.JSONField(default=list)
    metadata = models.JSONField(default=dict)
    ttl_hours = models.IntegerField(default=0)
    rotation = models.JSONField(null=True)
    status = models.CharField(max_length=16, choices=SecretStatus.choices, default=SecretStatus.ACTIVE)
    version = models.IntegerField(default=0)
    created_by = models.CharField(max_length=64, default="")
    archived_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(null=True)
    rotated_version = models.IntegerField(default=0, db_default=0)
    """The version the last rotation made; 0 for none. What it replaced does not come back by an ordinary change."""

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "environment", "key"], condition=Q(deleted_at__isnull=True), name="one_living_secret_of_a_key"
            )
        ]
        indexes = [models.Index(fields=["id"], condition=Q(rotation__enabled=True), name="secrets_that_rotate")]


class SecretVersion(models.Model):
    """One state a secret was in: every update makes one, also those that change no value.

    `sealed_value` is None where the value rests elsewhere (`external_version`), was destroyed, or is not held on this node.
    `value_digest` is keyed by the environment, so that equal values can be recognised without being read.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    secret = models.ForeignKey(Secret, models.CASCADE, related_name="versions")
    version = models.IntegerField()
    sealed_value = models.BinaryField(null=True)
    value_digest = models.CharField(max_length=64, default="")
    external_version = models.CharField(max_length=200, default="")
    operation = models.CharField(max_length=16)
    author = models.CharField(max_length=64)
    origin = models.CharField(max_length=64, default="primary")
    write = models.UUIDField(null=True)
    epoch = models.BigIntegerField(null=True)
    reason = models.CharField(max_length=500, default="")
    created_at = models.DateTimeField(db_default=Now())
    retired_at = models.DateTimeField(null=True)
    """Since when a rotation has taken this value's place everywhere; it is not given out any more."""
    value_mark = models.CharField(max_length=64, default="", db_default="")
    """What the value is known again by (`vault.marks`), wherever it rests; empty where nobody knows it."""

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["secret", "version"], name="one_row_of_a_version"),
            models.UniqueConstraint(fields=["write"], condition=Q(write__isnull=False), name="one_version_of_a_write"),
        ]
        indexes = [
            models.Index(fields=["created_at"], condition=Q(operation="rotate"), name="versions_rotated"),
            models.Index(fields=["secret", "value_mark", "version"], condition=~Q(value_mark=""), name="versions_by_value"),
            models.Index(
                fields=["secret", "value_digest", "version"],
                condition=Q(value_mark="") & ~Q(value_digest=""),
                name="versions_by_digest",
            ),
        ]


class KeptValue(models.Model):
    """A value that was moved into a vault and rests here as well until it was seen there (docs/adr/0035).

    `told_by` is who said that it arrived. `seen_at` is when a gateway first showed that it can read it there; `by_gateway`: the
    Primary has a way of its own and did not reach the vault by it. `nonce` belongs to the question that is open, if one is.
    `trouble` says why the last look saw nothing.
    """

    version = models.OneToOneField(SecretVersion, models.CASCADE, primary_key=True, related_name="kept")
    sealed_value = models.BinaryField()
    value_digest = models.CharField(max_length=64)
    move = models.UUIDField()
    told_by = models.CharField(max_length=64)
    kept_at = models.DateTimeField(db_default=Now())
    seen_at = models.DateTimeField(null=True)
    look_at = models.DateTimeField()
    by_gateway = models.BooleanField(default=False)
    nonce = models.CharField(max_length=64, default="")
    trouble = models.CharField(max_length=1000, default="")

    class Meta:
        indexes = [models.Index(fields=["move", "look_at"], name="kept_values_to_be_looked_for")]


class AnsweredRequest(models.Model):
    """A change that was asked for under an `Idempotency-Key`, so that its repetition gets the same answer and changes nothing.

    `digest` is keyed and covers the whole request; the request itself is not kept. `key` may name the gateway environment
    (`vault.answered`).
    """

    id = models.BigAutoField(primary_key=True)
    actor = models.CharField(max_length=64)
    key = models.CharField(max_length=240)
    digest = models.CharField(max_length=64)
    secret = models.ForeignKey(Secret, models.CASCADE, related_name="+")
    version = models.IntegerField()
    at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["actor", "key"], name="one_answer_to_a_repeated_request")]


class VaultClaim(models.Model):
    """A change of one name in a vault that was begun and is not recorded yet; nobody else touches the name meanwhile (ADR 30).

    The id is the operation that what is set in the vault is tagged with. `body` is the wish without its value, which rests
    nowhere here. `until` is when the claim ends by itself: a call that was begun under it cannot arrive later. `turn` counts who
    has had it, so that one who slept too long finds it is not theirs any more.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    place = models.CharField(max_length=300)
    name = models.CharField(max_length=127)
    secret = models.UUIDField()
    project = models.UUIDField()
    environment = models.UUIDField()
    key = models.CharField(max_length=255)
    operation = models.CharField(max_length=16)
    base_version = models.IntegerField(null=True)
    body = models.TextField()
    actor = models.CharField(max_length=64)
    address = models.CharField(max_length=64, default="")
    idempotency_key = models.CharField(max_length=200, default="")
    digest = models.CharField(max_length=64, default="")
    turn = models.IntegerField(default=0)
    looks = models.IntegerField(default=0)
    """How often it was looked for what became of it, in vain."""
    look_at = models.DateTimeField(db_default=Now())
    begun_at = models.DateTimeField(db_default=Now())
    recovering_since = models.DateTimeField(null=True)
    """Since when a name that lay deleted is being recovered for this change, written before the vault hears of it: Azure may
    finish after the claim has ended, and what it brings back must not outlive a change that was not made."""
    sealed_marks = models.BinaryField(null=True)
    """Hash of the value and fingerprint of the request (`claims.Marks`), so that what somebody else ends is known again."""
    until = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["place", "name"], name="one_claim_of_a_name_in_a_vault"),
            models.UniqueConstraint(
                fields=["actor", "idempotency_key"], condition=~Q(idempotency_key=""), name="one_claim_of_an_idempotency_key"
            ),
        ]
        indexes = [models.Index(fields=["secret"], name="claims_of_a_secret")]
