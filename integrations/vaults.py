"""Which gateway environment a vault belongs to: the first that names it. No other environment may name it then (I13)."""

from __future__ import annotations

from django.conf import settings

from common.errors import Conflict
from common.locks import transaction_lock
from integrations.azure.egress import read_vault_url
from integrations.models import Vault


def bind(url: str, gateway_environment: str) -> None:
    """Take a vault for an environment; part of the transaction that stores an integration.

    Raises `Conflict` (VAULT_OF_OTHER_ENVIRONMENT) when it belongs to another one.
    """
    origin = origin_of(url)
    transaction_lock(f"vault:{origin}")
    found, _ = Vault.objects.get_or_create(origin=origin, defaults={"gateway_environment": gateway_environment})
    refuse_foreign(found.gateway_environment, gateway_environment, origin)


def environment_of(url: str) -> str:
    """The environment a vault belongs to, empty when none has named it."""
    return Vault.objects.filter(origin=origin_of(url)).values_list("gateway_environment", flat=True).first() or ""


def refuse_foreign(belongs_to: str, wanted_by: str, origin: str) -> None:
    """Raises `Conflict` when a vault of one environment is wanted by another."""
    if belongs_to != wanted_by:
        raise Conflict(
            f"config.vault_url: {origin} belongs to {belongs_to or 'no environment'}; {wanted_by} needs a vault of its own",
            code="VAULT_OF_OTHER_ENVIRONMENT",
        )


def origin_of(url: str) -> str:
    """The one way to write the address of a vault."""
    return read_vault_url(url, settings.MAZEVAULT.azure.cloud).origin
