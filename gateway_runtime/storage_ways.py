"""How a gateway reaches the vaults of projects: with the environment's identity, as an application, or in a person's own name.

Reading goes on while the Primary is away, from the copy of what it said. Writing needs the lease (`integrations.keeping.Ways`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings

from accounts.models import Environment
from common.clock import now
from common.errors import Unavailable
from gateway_runtime import current, personal, vaults
from gateway_runtime.frames import minded
from gateway_runtime.node import MayNotAct
from integrations.access import connection_of, method_of, vault_access
from integrations.azure.cloud import AuthMethod, Connection
from integrations.azure.credentials import Credential, Credentials
from integrations.azure.egress import CALL_SECONDS, Guard
from integrations.models import Integration
from vault.ports import Asker


class GatewayWays:
    """`integrations.keeping.Ways` at a gateway."""

    @property
    def seconds(self) -> float:
        return min(CALL_SECONDS, settings.MAZEVAULT.timing.effect_deadline)

    def guard(self) -> Guard:
        return vaults.guard()

    def connect(self, integration: Integration, asker: Asker | None) -> tuple[Connection, Credential]:
        """Raises `PermissionRefused` (VAULT_NOT_ALLOWED) for a vault that is none of this gateway's, whoever asks (I13)."""
        own = vaults.connection_of(vault_access(integration))
        if method_of(integration) is not AuthMethod.ON_BEHALF_OF:
            return own, vaults.credential_of(own)
        way = connection_of(integration)
        assertion = personal.assertion_of(str(asker.credential) if asker else "", now())
        return way, Credentials(way, settings.MAZEVAULT.azure.cloud).of_user(assertion)

    def refuse_unless_writing(self, environment: Environment) -> None:
        """Raises `Unavailable` (LEASE_NEEDED) without the lease."""
        with self.effect(environment):
            return

    @contextmanager
    def effect(self, environment: Environment) -> Iterator[int]:
        """Raises `Unavailable` (LEASE_NEEDED) without the lease: what a vault might refuse later is not promised now."""
        try:
            with minded(current.registered().node) as epoch:
                yield epoch
        except MayNotAct as refused:
            raise Unavailable(
                f"a change of a vault needs the lease of the environment: {refused}; try again when the Primary is reachable",
                code="LEASE_NEEDED", retry_after=5,
            ) from refused  # fmt: skip
