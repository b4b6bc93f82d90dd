"""How the Primary reaches the vaults of projects: in a person's own name, or as an application (`integrations.keeping.Ways`).

It has no identity of its own in any vault. And it writes only where nobody else may: in environments without an active gateway.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.db import connection

from accounts.models import Environment, Session
from common.clock import now
from common.errors import Conflict
from gateways.models import Route
from gateways.vault_ways import credential_of_person
from integrations.access import OF_THE_GATEWAY, checked_access, connection_of, method_of
from integrations.azure.cloud import AuthMethod, Connection
from integrations.azure.credentials import Credential, Credentials
from integrations.azure.egress import CALL_SECONDS, Guard
from integrations.models import Integration
from vault.ports import Asker


class PrimaryWays:
    """`integrations.keeping.Ways` at the Primary."""

    seconds = CALL_SECONDS

    def guard(self) -> Guard:
        return Guard(settings.MAZEVAULT.azure.cloud)

    def connect(self, integration: Integration, asker: Asker) -> tuple[Connection, Credential]:
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
        session = asker.credential if isinstance(asker.credential, Session) else None
        return way, credential_of_person(way, session, now())

    @contextmanager
    def effect(self, environment: Environment) -> Iterator[int]:
        """Only while no gateway is active there, and none can become so before the change is over."""
        code = environment.gateway_environment
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM gateways_route WHERE environment_id = %s FOR SHARE", [code])
        route = Route.objects.select_related("active_gateway").filter(environment_id=code).first()
        if route is not None and route.active_gateway is not None:
            raise Conflict(
                f"changes of a vault of {code} are made by its active gateway: send this to {route.active_gateway.name}",
                code="WRITE_AT_GATEWAY",
            )
        yield route.epoch if route else 0


def _where(code: str) -> str:
    route = Route.objects.select_related("active_gateway").filter(environment_id=code).first()
    active = route.active_gateway if route else None
    return active.name if active else f"the active gateway of {code}, once there is one"
