"""How the Primary reaches the vaults of projects as an application, in the background too (`integrations.keeping.Ways`).

It has no identity of its own in any vault. And it writes only where nobody else may: in environments without an active gateway.
What needs a signed-in person is beyond this module (`gateways.storage_ways`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from django.conf import settings
from django.db import connection

from accounts.models import Environment
from common.errors import Conflict, PermissionRefused, Unavailable
from gateways.generation import MARGIN_SECONDS
from gateways.models import Route
from integrations.access import OF_THE_GATEWAY, checked_access, connection_of, method_of
from integrations.azure.cloud import AuthMethod, Connection
from integrations.azure.credentials import Credential, Credentials
from integrations.azure.egress import CALL_SECONDS, Guard
from integrations.keeping import VaultKeeper
from integrations.models import Integration
from vault import elsewhere
from vault.node import desk_of
from vault.ports import Asker

_BLOCK_LEASES = """
UPDATE gateways_route
   SET lease_blocked_until = greatest(lease_blocked_until, clock_timestamp() + %s * interval '1 second'),
       lease_blocks = lease_blocks + 1
 WHERE environment_id = %s AND active_gateway_id IS NULL RETURNING epoch
"""


class OwnWays:
    """`integrations.keeping.Ways` of the Primary itself, without any person."""

    seconds = CALL_SECONDS

    def guard(self) -> Guard:
        return Guard(settings.MAZEVAULT.azure.cloud)

    def connect(self, integration: Integration, asker: Asker | None) -> tuple[Connection, Credential]:
        """Raises `Conflict` (VALUE_AT_GATEWAY) where only the environment's managed identity may go."""
        environment = integration.environment
        code = environment.gateway_environment if environment else ""
        checked_access(integration, code)
        method = method_of(integration)
        if method in OF_THE_GATEWAY:
            raise Conflict(
                f"the vault of this project is open to the managed identity of {code} only: ask {_where(code)}",
                code="VALUE_AT_GATEWAY",
            )
        way = connection_of(integration)
        if method is AuthMethod.CLIENT_SECRET:
            return way, Credentials(way, settings.MAZEVAULT.azure.cloud).own()
        return way, self._of_person(way, asker)

    def _of_person(self, way: Connection, asker: Asker | None) -> Credential:
        raise PermissionRefused("this vault is reached by people only, and nobody is signed in here", code="ENTRA_SESSION_NEEDED")

    def refuse_unless_writing(self, environment: Environment) -> None:
        """Raises `Conflict` (WRITE_AT_GATEWAY) where a gateway is active."""
        code = environment.gateway_environment
        route = Route.objects.select_related("active_gateway").filter(environment_id=code).first()
        if route is not None and route.active_gateway is not None:
            raise Conflict(
                f"changes of a vault of {code} are made by its active gateway: send this to {route.active_gateway.name}",
                code="WRITE_AT_GATEWAY",
            )

    @contextmanager
    def effect(self, environment: Environment) -> Iterator[int]:
        """Only while no gateway is active there. One that becomes so meanwhile gets its first lease when the call has ended."""
        code = environment.gateway_environment
        with connection.cursor() as cursor:
            cursor.execute(_BLOCK_LEASES, [self.seconds + MARGIN_SECONDS, code])
            row = cursor.fetchone()
        if row is None:
            self.refuse_unless_writing(environment)
            if Route.objects.filter(environment_id=code).exists():
                raise Unavailable(f"the active gateway of {code} is just being changed; try again", retry_after=5)
        yield row[0] if row else 0


def _where(code: str) -> str:
    route = Route.objects.select_related("active_gateway").filter(environment_id=code).first()
    active = route.active_gateway if route else None
    return active.name if active else f"the active gateway of {code}, once there is one"


def sweep_claims(now: datetime) -> int:
    """End the changes of vaults that were begun here by a process that is gone (ADR 30)."""
    return elsewhere.sweep(VaultKeeper(OwnWays()), lambda claim: desk_of(claim, now))
