"""The base of this app's views. (Not in `authentication`: the framework imports that one while it is being imported itself.)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.http import HttpResponse

from accounts import refusals
from accounts.authentication import principal_in
from accounts.changes import By
from common import api
from common.api import Operation, client_address
from common.clock import now
from common.errors import PermissionRefused


class Signed(Operation):
    """An operation of signed-in callers whose use case asks for the permission in the very place."""

    scoped = True

    @property
    def by(self) -> By:
        """Who calls, and from where."""
        return By(principal_in(self.request), self.address)


def exception_handler(error: Exception, context: Mapping[str, Any]) -> HttpResponse:
    """Django REST framework's hook: the error shape, and a line in the audit when somebody tried what they may not."""
    request = context.get("request")
    actor = getattr(getattr(request, "_user", None), "actor", "")  # not `user`, which would ask for the credentials again
    if actor and request is not None and isinstance(error, PermissionRefused):
        details, address = {"method": request.method, "path": request.path[:200], "code": error.code}, client_address(request)
        refusals.note("rbac.permission.denied", actor, "operation", request.path, address=address, now=now(), details=details)
    return api.exception_handler(error, context)
