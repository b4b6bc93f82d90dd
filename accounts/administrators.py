"""Somebody who may do everything, for good: no change takes the last one, or nobody could give a right away any more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db.models import Exists, OuterRef, Q

from accounts.models import RoleGrant, User
from accounts.roles import ADMIN
from common.errors import Conflict
from common.locks import transaction_lock


@contextmanager
def somebody_stays() -> Iterator[None]:
    """A change of who may do everything, alone among such changes. Before other locks of its transaction.

    Raises `Conflict` (LAST_ADMINISTRATOR) when there is nobody left after it and was somebody before.
    """
    transaction_lock("administrators")
    before = _there_is_one()
    yield
    if before and not _there_is_one():
        raise Conflict(
            "this would leave nobody who holds the role admin everywhere and without an end; give it to another living account "
            "first, with POST rbac/users/{id}/roles, and let them take it from this one",
            code="LAST_ADMINISTRATOR",
        )


def _there_is_one() -> bool:
    everywhere = RoleGrant.objects.filter(
        user=OuterRef("pk"), role__name=ADMIN, organization=None, project=None, environment="", expires_at=None
    )
    own = Q(sso_provider="", role=ADMIN)
    return User.objects.filter(own | Exists(everywhere), is_active=True, deleted_at=None).exists()
