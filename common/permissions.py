"""Deny by default: an operation that names nobody is open to nobody (I20)."""

from __future__ import annotations

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from common.errors import AuthenticationRequired, MethodNotAllowed, PermissionRefused

SIGNED_IN = "signed-in"
"""Declares an operation that needs a signed-in caller and no particular permission."""


class DenyUnlessDeclared(BasePermission):
    """A view declares `public`, or `permissions` by method; whatever is not declared is refused.

    A `scoped` view lets everybody pass who has the permission somewhere; its use case asks again for the very place.
    """

    def has_permission(self, request: Request, view: object) -> bool:
        if getattr(view, "public", False):
            return True
        if request.user is None:
            raise AuthenticationRequired("send an Authorization: Bearer header with a token from POST /api/v1/auth/login")
        method = "GET" if request.method == "HEAD" else str(request.method)
        declared = getattr(view, "permissions", {})
        if declared and method not in declared:
            raise MethodNotAllowed(f"this path takes {', '.join(declared)}")
        needed = declared.get(method, "")
        if needed == SIGNED_IN:
            return True
        held = "permissions_anywhere" if getattr(view, "scoped", False) else "permissions"
        if not needed or needed not in getattr(request.user, held, ()):
            raise PermissionRefused(f"this needs the permission {needed or 'nobody has'}")
        return True
