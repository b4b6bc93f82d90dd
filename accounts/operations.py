"""The base of this app's views. (Not in `authentication`: the framework imports that one while it is being imported itself.)"""

from __future__ import annotations

from accounts.authentication import principal_in
from accounts.changes import By
from common.api import Operation


class Signed(Operation):
    """An operation of signed-in callers whose use case asks for the permission in the very place."""

    scoped = True

    @property
    def by(self) -> By:
        """Who calls, and from where."""
        return By(principal_in(self.request), self.address)
