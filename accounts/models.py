"""People, their sessions and their failed sign-ins."""

from __future__ import annotations

import uuid

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models
from django.db.models.functions import Lower, Now

from accounts.roles import SYSTEM_ROLES, permissions_of


class UserManager(BaseUserManager["User"]):
    def by_email(self, email: str) -> User | None:
        """The living account with this address, in any case of letters."""
        return self.filter(email__iexact=email, deleted_at__isnull=True).first()


class User(AbstractBaseUser):
    """A person who signs in. The address is unique without regard to case among living accounts."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    email = models.EmailField(max_length=254)
    full_name = models.CharField(max_length=200, default="")
    role = models.CharField(max_length=32, choices=[(name, name) for name in SYSTEM_ROLES], default="viewer")
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(db_default=Now())
    deleted_at = models.DateTimeField(null=True)

    USERNAME_FIELD = "email"
    objects = UserManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(Lower("email"), condition=models.Q(deleted_at__isnull=True), name="one_account_of_an_address")
        ]

    @property
    def permissions(self) -> frozenset[str]:
        return permissions_of([self.role])


class Session(models.Model):
    """A bearer token that was given out. Only its hash is kept."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    user = models.ForeignKey(User, models.CASCADE, related_name="sessions")
    token_hash = models.CharField(max_length=64, unique=True)
    address = models.CharField(max_length=64, default="")
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)


class FailedSignIn(models.Model):
    """One refused password. Account and address only; the password is nowhere."""

    id = models.BigAutoField(primary_key=True)
    account = models.CharField(max_length=254)
    address = models.CharField(max_length=64)
    at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["account", "at"], name="failed_sign_ins_of_an_account")]
