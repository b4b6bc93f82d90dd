"""Service identities: software that signs in with a client id and a client secret. The secret is kept as a hash."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from accounts import changes, sessions
from accounts.access import EVERYWHERE
from accounts.changes import By
from accounts.granting import require_above
from accounts.models import ServiceIdentity
from accounts.principals import principal_of_service
from accounts.roles import USERS_READ, USERS_WRITE
from accounts.scoping import absent, require
from accounts.sessions import hash_token

ACTIVE, DISABLED = "active", "disabled"


def create(wish: Mapping[str, Any], by: By) -> tuple[ServiceIdentity, str]:
    """A new identity without any rights, and its secret."""
    require(by.principal, USERS_WRITE, EVERYWHERE, readable=USERS_READ)
    secret = _new_secret()
    with transaction.atomic():
        service = ServiceIdentity.objects.create(**wish, client_id=f"mzs_{secrets.token_hex(12)}", secret_hash=hash_token(secret))
        _record(by, "service.created", service)
    service.refresh_from_db()
    return service, secret


def replace(identifier: uuid.UUID, wish: Mapping[str, Any], by: By, now: datetime) -> ServiceIdentity:
    """Change what is said of it, or its status; the secret stays. The same wish again changes nothing."""
    with transaction.atomic():
        service = _managed(identifier, by, now)
        names = changes.altered(service, {"description": "", **wish})
        if names:
            service.updated_at = Now()
            service.save(update_fields=[*names, "updated_at"])
            if service.status != ACTIVE:
                sessions.end_all(service, now)
            _record(by, "service.updated", service)
    service.refresh_from_db()
    return service


def rotate_secret(identifier: uuid.UUID, by: By, now: datetime) -> tuple[ServiceIdentity, str]:
    """A new secret; the old one and every session end at once."""
    secret = _new_secret()
    with transaction.atomic():
        service = _managed(identifier, by, now)
        ServiceIdentity.objects.filter(id=service.id).update(secret_hash=hash_token(secret), updated_at=Now())
        sessions.end_all(service, now)
        _record(by, "service.secret.rotated", service)
    service.refresh_from_db()
    return service, secret


def delete(identifier: uuid.UUID, by: By, now: datetime) -> None:
    with transaction.atomic():
        service = _managed(identifier, by, now)
        ServiceIdentity.objects.filter(id=service.id).update(deleted_at=now)
        sessions.end_all(service, now)
        _record(by, "service.deleted", service)


def living() -> QuerySet[ServiceIdentity]:
    return ServiceIdentity.objects.filter(deleted_at=None).order_by("created_at", "id")


def service_seen(identifier: uuid.UUID) -> ServiceIdentity:
    """A living identity. Raises `NotFound`."""
    found = living().filter(id=identifier).first()
    if found is None:
        raise absent("service identity")
    return found


def _managed(identifier: uuid.UUID, by: By, now: datetime) -> ServiceIdentity:
    require(by.principal, USERS_WRITE, EVERYWHERE, readable=USERS_READ)
    service = living().select_for_update().filter(id=identifier).first()
    if service is None:
        raise absent("service identity")
    require_above(by.principal, principal_of_service(service, now))
    return service


def _new_secret() -> str:
    return f"mzsecret_{secrets.token_urlsafe(32)}"


def _record(by: By, action: str, service: ServiceIdentity) -> None:
    changes.record(by, action, "service", service.id, {"name": service.display_name, "status": service.status})
    changes.principal_changed(service)
