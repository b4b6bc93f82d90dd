"""Somebody who may do everything, for good: no change takes the last one, or nobody could give a right away any more.

Nor does one take the last whose account and role are our own while there is one: the others hold them for as long as Entra says
so, and Entra asks nobody here before it ends them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.db.models import Exists, OuterRef, Q

from accounts.models import RoleGrant, User
from accounts.roles import ADMIN
from common.errors import Conflict
from common.locks import transaction_lock


@contextmanager
def somebody_stays() -> Iterator[None]:
    """A change of who may do everything, alone among such changes. Before other locks of its transaction.

    Raises `Conflict` (LAST_ADMINISTRATOR) when there is nobody left after it and was somebody before, of all and of our own.
    """
    transaction_lock("administrators")
    before = _there_is()
    yield
    after = _there_is()
    if before.own and not after.own and after.anybody:
        raise Conflict(
            "this would leave nobody who holds the role admin everywhere and without an end but by accounts or roles of Entra, "
            f"which can end there at any time; {_GIVE.format('another living account that signs in with a password here')}",
            code="LAST_ADMINISTRATOR",
        )
    if before.anybody and not after.anybody:
        raise Conflict(
            "this would leave nobody who holds the role admin everywhere and without an end; "
            + _GIVE.format("another living account"),
            code="LAST_ADMINISTRATOR",
        )


_GIVE = "give it to {} first, with POST rbac/users/{{id}}/roles, and let them take it from this one"


@dataclass(frozen=True)
class _Found:
    """Whether there is an administrator at all, and one whom Entra cannot take away."""

    anybody: bool
    own: bool


def _there_is() -> _Found:
    everywhere = RoleGrant.objects.filter(
        user=OuterRef("pk"), role__name=ADMIN, organization=None, project=None, environment="", expires_at=None
    )
    living = User.objects.filter(is_active=True, deleted_at=None)
    own = living.filter(Q(role=ADMIN) | Exists(everywhere.filter(assigned_by_sso=False)), sso_provider="").exists()
    return _Found(own or living.filter(Exists(everywhere)).exists(), own)
