"""The first administrator, made when the Primary starts for the first time."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

from django.db import IntegrityError, transaction

from accounts import changes
from accounts.addresses import folded
from accounts.models import Role, RoleGrant, User
from accounts.roles import SYSTEM_ROLES
from common import audit
from common.files import write_private
from common.locks import transaction_lock

log = logging.getLogger("mazevault.accounts")


def ensure_system_roles() -> None:
    """A row for each system role of `accounts.roles`, with the permissions it has in this release. Safe to repeat."""
    with transaction.atomic():
        transaction_lock("system-roles")
        former = dict(Role.objects.filter(is_system_role=True).values_list("name", "permissions"))
        for name, permissions in SYSTEM_ROLES.items():
            wanted = {"permissions": sorted(permissions), "is_system_role": True, "display_name": _title(name)}
            Role.objects.update_or_create(name=name, defaults=wanted)
            if former.get(name, wanted["permissions"]) != wanted["permissions"]:
                _say_to_gateways(name)


def ensure_admin(email: str, password_file: Path | None) -> bool:
    """Create the administrator unless there is any account. The generated password goes to a file readable by its owner only.

    Returns True when an account was created. Raises `ValueError` when one is needed and there is no file for its password.
    """
    with transaction.atomic():
        transaction_lock("first-administrator")
        if User.objects.exists():
            return False
        if password_file is None:
            raise ValueError("MAZEVAULT_ADMIN_PASSWORD_FILE is missing; it is where the first password is written")
        password = secrets.token_urlsafe(18)
        user = User(email=email, full_name="Administrator", role="admin")
        user.set_password(password)
        user.save()
        audit.record(actor="system", action="user.created", entity="user", entity_id=str(user.id), details={"role": "admin"})
        changes.principal_changed(user)
        write_private(password_file, password + "\n")
    return True


def ensure_folded_addresses() -> int:
    """Look whether every address is stored under its own folded form, and mend what is not: rows that were written past us, or
    folded by another release of Unicode. Returns how many were wrong; one that cannot be mended is told in the log."""
    rows = User.objects.filter(deleted_at=None).values_list("id", "email", "email_folded")
    wrong = [(identifier, folded(email)) for identifier, email, form in rows if form != folded(email) and "#" not in form]
    for identifier, form in wrong:
        try:
            with transaction.atomic():
                User.objects.filter(id=identifier).update(email_folded=form)
        except IntegrityError:
            log.error("account %s has the same address as another one and is not found by it; rename or delete one", identifier)
    return len(wrong)


def _say_to_gateways(role: str) -> None:
    """A new release gave a system role other permissions: everybody who holds it changed."""
    for user in User.objects.filter(role=role, deleted_at=None):
        changes.principal_changed(user)
    for user_id, service_id in RoleGrant.objects.filter(role__name=role).values_list("user_id", "service_id"):
        changes.principal_changed(user_id or service_id)


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()
