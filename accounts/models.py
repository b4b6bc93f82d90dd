"""Organizations and what belongs to them; people, service identities and their credentials; roles and where they are held."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower, Now

from accounts.addresses import LONGEST_FOLDED, folded

LIVING = Q(deleted_at__isnull=True)


class Storage(models.TextChoices):
    """Where the values of a project rest (DESIGN §10)."""

    MAZEVAULT = "mazevault"
    KEY_VAULT = "key_vault"


class ConflictStrategy(models.TextChoices):
    """What happens to a write whose base is not the current version (DESIGN §9)."""

    MANUAL_RESOLUTION = "manual_resolution"
    MAZEVAULT_WINS = "mazevault_wins"
    EXTERNAL_WINS = "external_wins"
    MOST_RECENT_WINS = "most_recent_wins"


class StaleEpochPolicy(models.TextChoices):
    """What happens to a quarantined write of an old epoch (reliability §5)."""

    ASK = "ask"
    DISCARD = "discard"
    REPLAY_AS_NEW = "replay_as_new"


class Timed(models.Model):
    """Times every answer about the object repeats to the microsecond."""

    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        abstract = True


class Organization(Timed):
    """Owner of projects and environments. A deleted one frees its name."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=200)
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(Lower("name"), condition=LIVING, name="one_living_organization_of_a_name")]


class Environment(Timed):
    """A project environment such as dev or prod; `gateway_environment` is the blast radius it is mapped to (DESIGN §2)."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    organization = models.ForeignKey(Organization, models.PROTECT, related_name="environments")
    name = models.CharField(max_length=100)
    slug = models.CharField(max_length=100)
    is_production = models.BooleanField(default=False)
    incident_auto_escalation = models.BooleanField(default=False)
    gateway_environment = models.CharField(max_length=16)
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint("organization", Lower("slug"), condition=LIVING, name="one_living_environment_of_a_slug"),
            models.UniqueConstraint("organization", Lower("name"), condition=LIVING, name="one_living_environment_of_a_name"),
        ]


class Project(Timed):
    """What secrets belong to. `environment` is what the client sent, given back as it was; `default_environment` is a slug."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    organization = models.ForeignKey(Organization, models.PROTECT, related_name="projects")
    name = models.CharField(max_length=200)
    type = models.CharField(max_length=64, default="")
    environment = models.CharField(max_length=100, default="")
    default_environment = models.CharField(max_length=100, default="dev")
    storage = models.CharField(max_length=16, choices=Storage.choices, default=Storage.MAZEVAULT)
    conflict_strategy = models.CharField(
        max_length=24, choices=ConflictStrategy.choices, default=ConflictStrategy.MANUAL_RESOLUTION
    )
    stale_epoch_policy = models.CharField(max_length=16, choices=StaleEpochPolicy.choices, default=StaleEpochPolicy.ASK)
    max_staleness_seconds = models.IntegerField(null=True)
    settings = models.JSONField(default=dict)
    sealed_webhooks = models.BinaryField(null=True)
    webhooks_version = models.IntegerField(default=0, db_default=0)
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint("organization", Lower("name"), condition=LIVING, name="one_living_project_of_a_name"),
            models.CheckConstraint(
                condition=Q(max_staleness_seconds__isnull=True) | Q(max_staleness_seconds__gt=0), name="staleness_is_positive"
            ),
        ]


class Role(models.Model):
    """A named set of permissions. System roles are made by `manage.py setup` from `accounts.roles` and never change by API."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=64)
    display_name = models.CharField(max_length=200, default="")
    description = models.CharField(max_length=1000, default="")
    permissions = models.JSONField(default=list)
    is_system_role = models.BooleanField(default=False)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(Lower("name"), name="one_role_of_a_name")]


class UserManager(BaseUserManager["User"]):
    def by_email(self, email: str) -> User | None:
        """The living account with this address, however it is written (`accounts.addresses`); there is one at most."""
        return self.filter(email_folded=folded(email), deleted_at__isnull=True).first()


class User(AbstractBaseUser):
    """A person who signs in. The address is unique among living accounts in its folded form, which follows `email` when saved.

    `role` is what the client sent, and held everywhere; further roles are `RoleGrant`s. Of an account of Entra it is shown only:
    what such an account may do are its `RoleGrant`s, and its sessions and tokens count for a while after Entra last said that it
    may come in (`entra_confirmed_at`).
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    email = models.EmailField(max_length=254)
    email_folded = models.CharField(max_length=LONGEST_FOLDED, default="", db_default="", editable=False)
    full_name = models.CharField(max_length=200, default="")
    role = models.CharField(max_length=64, default="viewer")
    is_active = models.BooleanField(default=True)
    must_change_password = models.BooleanField(default=False)
    sso_provider = models.CharField(max_length=32, default="")
    sso_external_id = models.CharField(max_length=128, default="")
    disabled_by_sso = models.BooleanField(default=False)
    entra_confirmed_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    deleted_at = models.DateTimeField(null=True)

    USERNAME_FIELD = "email"
    objects = UserManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["email_folded"], condition=LIVING, name="one_account_of_a_folded_address"),
            models.UniqueConstraint(
                fields=["sso_provider", "sso_external_id"],
                condition=LIVING & ~Q(sso_external_id=""),
                name="one_account_of_an_external_identity",
            ),
        ]

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.email_folded = folded(self.email)
        if "email" in (named := kwargs.get("update_fields") or ()):
            kwargs["update_fields"] = [*named, "email_folded"]
        super().save(*args, **kwargs)


class ServiceIdentity(Timed):
    """Software that signs in with `client_id` and `client_secret`. Only the secret's hash is kept."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    display_name = models.CharField(max_length=200)
    description = models.CharField(max_length=1000, default="")
    owner_email = models.CharField(max_length=254)
    client_id = models.CharField(max_length=64, unique=True)
    secret_hash = models.CharField(max_length=64)
    status = models.CharField(max_length=16, default="active")
    deleted_at = models.DateTimeField(null=True)


ONE_HOLDER = Q(user__isnull=False, service__isnull=True) | Q(user__isnull=True, service__isnull=False)


BY_DEFAULT = "default"
"""Why somebody holds a role whom no mapping names."""


class RoleGrant(models.Model):
    """A role held by a person or a service identity: everywhere, or where organization, project and environment say.

    `environment` is a slug; `environment_given` is what the client sent for it, given back as it was. `given_by` says why a
    sign-in gave it (`assigned_by_sso`): ids of mappings, or `BY_DEFAULT`.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    user = models.ForeignKey(User, models.CASCADE, null=True, related_name="grants")
    service = models.ForeignKey(ServiceIdentity, models.CASCADE, null=True, related_name="grants")
    role = models.ForeignKey(Role, models.PROTECT, related_name="grants")
    organization = models.ForeignKey(Organization, models.CASCADE, null=True, related_name="+")
    project = models.ForeignKey(Project, models.CASCADE, null=True, related_name="+")
    environment = models.CharField(max_length=100, default="")
    environment_given = models.CharField(max_length=100, default="")
    expires_at = models.DateTimeField(null=True)
    assigned_by_sso = models.BooleanField(default=False)
    given_by = models.JSONField(default=list, db_default=models.Value([], models.JSONField()))
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(condition=ONE_HOLDER, name="a_grant_has_one_holder"),
            models.UniqueConstraint(
                fields=["user", "service", "role", "organization", "project", "environment", "assigned_by_sso"],
                nulls_distinct=False,
                name="one_grant_of_a_role_in_a_place",
            ),
        ]


class Session(models.Model):
    """A bearer token that was given out at a sign-in. Only its hash is kept.

    `gateway_environment`: it was opened at a gateway of this environment and counts at those only; empty for the Primary's own,
    which count where `audience` says (`accounts.audiences`). `everywhere_until`: it was made before there were audiences, and
    counts at gateways until then without one.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    user = models.ForeignKey(User, models.CASCADE, null=True, related_name="sessions")
    service = models.ForeignKey(ServiceIdentity, models.CASCADE, null=True, related_name="sessions")
    token_hash = models.CharField(max_length=64, unique=True)
    address = models.CharField(max_length=64, default="")
    gateway_environment = models.CharField(max_length=16, default="", db_default="")
    audience = models.JSONField(null=True)
    everywhere_until = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=ONE_HOLDER, name="a_session_has_one_holder")]
        indexes = [
            models.Index(fields=["user", "created_at"], name="sessions_of_a_user_by_age"),
            models.Index(fields=["service", "created_at"], name="sessions_of_a_service_by_age"),
            models.Index(fields=["user", "revoked_at", "expires_at"], name="living_sessions_of_a_user"),
            models.Index(fields=["service", "revoked_at", "expires_at"], name="living_sessions_of_a_service"),
        ]


class ApiToken(models.Model):
    """A long-lived bearer token a person made for software, with no more than the named scopes. Only its hash is kept.

    `parent` is the token it was made with, if it was one: it ends with it. It counts where `audience` says
    (`accounts.audiences`), `everywhere_until` as of a session.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    user = models.ForeignKey(User, models.CASCADE, null=True, related_name="api_tokens")
    service = models.ForeignKey(ServiceIdentity, models.CASCADE, null=True, related_name="api_tokens")
    name = models.CharField(max_length=200)
    token_hash = models.CharField(max_length=64, unique=True)
    parent = models.ForeignKey("self", models.CASCADE, null=True, related_name="children")
    scopes = models.JSONField(null=True)
    audience = models.JSONField(null=True)
    everywhere_until = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=ONE_HOLDER, name="a_token_has_one_holder")]
        indexes = [
            models.Index(fields=["user", "expires_at"], name="tokens_of_a_user_by_end"),
            models.Index(fields=["service", "expires_at"], name="tokens_of_a_service_by_end"),
            models.Index(fields=["user", "revoked_at", "expires_at"], name="living_tokens_of_a_user"),
            models.Index(fields=["service", "revoked_at", "expires_at"], name="living_tokens_of_a_service"),
        ]


class IdentityProvider(Timed):
    """Where people of an organization sign in. The secret part of the configuration is sealed."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    type = models.CharField(max_length=32)
    name = models.CharField(max_length=200)
    config = models.JSONField(default=dict)
    sealed_secrets = models.BinaryField(null=True)
    secrets_version = models.IntegerField(default=0)
    sync_schedule = models.CharField(max_length=100, default="")
    status = models.CharField(max_length=16, default="active")
    deleted_at = models.DateTimeField(null=True)


class GroupMapping(models.Model):
    """An App Role value or a security group that gives a role at sign-in; both names are compared without regard to case."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    group_external_id = models.CharField(max_length=200)
    group_display_name = models.CharField(max_length=200)
    role = models.ForeignKey(Role, models.PROTECT, related_name="mappings")
    provider = models.ForeignKey(IdentityProvider, models.CASCADE, null=True, related_name="mappings")
    source = models.CharField(max_length=16, default="entra")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(
                Lower("group_external_id"), "role", "provider", nulls_distinct=False, name="one_mapping_of_a_group_to_a_role"
            )
        ]


class SignInAttempt(models.Model):
    """A sign-in that was sent to Entra and has not come back. Bound to one browser by the hash of a cookie; ends by one use."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    state_hash = models.CharField(max_length=64, unique=True)
    browser_hash = models.CharField(max_length=64)
    sealed_flow = models.BinaryField()
    address = models.CharField(max_length=64)
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [models.Index(fields=["address", "created_at"], name="sign_ins_begun_at_an_address")]


class EntraSession(models.Model):
    """What a session needs to reach Azure in its user's name: the sealed tokens of its sign-in. Ends with the session."""

    session = models.OneToOneField(Session, models.CASCADE, primary_key=True, related_name="entra")
    sealed_tokens = models.BinaryField()
    version = models.IntegerField(default=1)
    expires_at = models.DateTimeField()


class OboToken(models.Model):
    """A sealed token for one API on behalf of the user of one session."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    session = models.ForeignKey(EntraSession, models.CASCADE, related_name="tokens")
    resource = models.CharField(max_length=200)
    sealed_token = models.BinaryField()
    expires_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["session", "resource"], name="one_token_of_a_session_and_resource")]


class ConfigTemplate(Timed):
    """A template of an organization, for example its naming convention."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    organization = models.ForeignKey(Organization, models.CASCADE, related_name="config_templates")
    name = models.CharField(max_length=200)
    description = models.CharField(max_length=1000, default="")
    format = models.CharField(max_length=64, default="")
    template = models.TextField()
    variables = models.JSONField(default=dict)

    class Meta:
        constraints = [models.UniqueConstraint("organization", Lower("name"), name="one_template_of_a_name")]


class FailedSignIn(models.Model):
    """One refused password. Account and address only; the password is nowhere."""

    id = models.BigAutoField(primary_key=True)
    account = models.CharField(max_length=254)
    address = models.CharField(max_length=64)
    at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["account", "at"], name="failed_sign_ins_of_an_account")]


class RateCount(models.Model):
    """How often something was done in one minute. `key` is a hash; `minute` counts from 1970."""

    id = models.BigAutoField(primary_key=True)
    key = models.CharField(max_length=64)
    minute = models.BigIntegerField()
    count = models.BigIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["key", "minute"], name="one_count_of_a_minute")]
        indexes = [models.Index(fields=["minute"], name="counts_of_a_minute")]


class ClientSecretWatch(models.Model):
    """One row: when the client secret of the app registration ends, and who said so."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    ends_at = models.DateTimeField(null=True)
    source = models.CharField(max_length=16, default="")
    detail = models.CharField(max_length=300, default="")
    looked_at = models.DateTimeField()
