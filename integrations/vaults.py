"""Which gateway environment a vault belongs to: the first that names it. No other environment may name it then (I13)."""

from __future__ import annotations

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from accounts.changes import By
from common import audit
from common.errors import Conflict, NotFound
from common.locks import transaction_lock
from integrations.azure.egress import read_vault_url
from integrations.models import Integration, Vault
from integrations.providers import AZURE_KEY_VAULT


def bind(url: str, gateway_environment: str) -> None:
    """Take a vault for an environment; part of the transaction that stores an integration.

    Raises `Conflict` (VAULT_OF_OTHER_ENVIRONMENT) when it belongs to another one.
    """
    origin = origin_of(url)
    transaction_lock(f"vault:{origin}")
    found, _ = Vault.objects.get_or_create(origin=origin, defaults={"gateway_environment": gateway_environment})
    refuse_foreign(found.gateway_environment, gateway_environment, origin)


def release(url: str, by: By) -> None:
    """Give a vault up, so that another environment can name it. Raises `NotFound` or `Conflict` (VAULT_IN_USE)."""
    origin = origin_of(url)
    with transaction.atomic():
        transaction_lock(f"vault:{origin}")
        found = Vault.objects.filter(origin=origin).first()
        if found is None:
            raise NotFound("origin: no integration has named this vault")
        users = [row.name for row in _living() if origin_of(row.config["vault_url"]) == origin]
        if users:
            raise Conflict(
                f"origin: the vault is used by {', '.join(map(repr, users[:5]))}; delete them first", code="VAULT_IN_USE"
            )
        audit.record(
            actor=by.actor, action="vault.released", entity="vault", entity_id=origin, environment=found.gateway_environment,
            address=by.address,
        )  # fmt: skip
        found.delete()


def all_vaults() -> QuerySet[Vault]:
    """Every vault that was named, with its environment."""
    return Vault.objects.order_by("gateway_environment", "origin")


def _living() -> QuerySet[Integration]:
    return Integration.objects.filter(provider=AZURE_KEY_VAULT, deleted_at=None).order_by("created_at")


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
