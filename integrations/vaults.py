"""Which gateway environment a vault belongs to, and which projects may use it (I13).

The first environment that names a vault has it; no other may name it then. A gateway reaches the vault with its own identity,
which sees everything in it: so a project may have it go there only when an administrator opened the vault to it (ADR 26).
"""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from accounts import changes
from accounts.access import EVERYWHERE
from accounts.changes import By
from accounts.models import Project
from accounts.roles import GATEWAY_ADMIN
from common import audit
from common.errors import Conflict, NotFound, PermissionRefused, ValidationFailed
from common.locks import transaction_lock
from integrations.azure.egress import read_vault_url
from integrations.models import Integration, SyncItem, Vault, VaultUse
from integrations.providers import AZURE_KEY_VAULT
from integrations.storing import holds_values


def bind(url: str, gateway_environment: str) -> None:
    """Take a vault for an environment; part of the transaction that stores an integration.

    Raises `Conflict` (VAULT_OF_OTHER_ENVIRONMENT) when it belongs to another one.
    """
    origin = origin_of(url)
    transaction_lock(f"vault:{origin}")
    found, _ = Vault.objects.get_or_create(origin=origin, defaults={"gateway_environment": gateway_environment})
    refuse_foreign(found.gateway_environment, gateway_environment, origin)


def open_for_naming(url: str, project: Project, by: By) -> None:
    """The right of a project to use a vault; an administrator who names the vault in an integration gives it by that.

    Raises `PermissionRefused` (VAULT_NOT_OPEN). Part of the transaction that stores the integration, after `bind`.
    """
    if not _is_open(origin_of(url), project.id):
        if not by.principal.may(GATEWAY_ADMIN, EVERYWHERE):
            raise _not_open(origin_of(url))
        _open(Vault.objects.get(origin=origin_of(url)), project, by)


def only_open(project: Project, gateway_environment: str) -> str:
    """The address of the vault that is open to a project in a gateway environment; empty where there is none, or a choice."""
    found = list(Vault.objects.filter(uses__project=project, gateway_environment=gateway_environment)[:2])
    return f"{found[0].origin}/" if len(found) == 1 else ""


def open_to(url: str, project_id: uuid.UUID, by: By, gateway_environment: str = "") -> None:
    """Let a project use a vault; opening it again changes nothing. A vault that nobody has named yet, or that another environment
    only named, is bound to the gateway environment. Raises `NotFound`, `ValidationFailed`, or `Conflict` as `bind`."""
    code = gateway_environment.upper()
    if code and code not in settings.MAZEVAULT.gateway_environments:
        raise ValidationFailed(f"gateway_environment: must be one of {', '.join(settings.MAZEVAULT.gateway_environments)}")
    with transaction.atomic():
        transaction_lock(f"vault:{origin_of(url)}")
        if code:
            _bind_for_administrator(origin_of(url), code, by)
        vault, project = _named(url), _project(project_id)
        if not _is_open(vault.origin, project.id):
            _open(vault, project, by)


def _bind_for_administrator(origin: str, gateway_environment: str, by: By) -> None:
    """As `bind`; a name that somebody gave and nothing came of does not keep the vault from who it belongs to."""
    before = environment_of(origin)
    if before not in ("", gateway_environment) and not _in_use(origin):
        found = _named(origin)
        found.gateway_environment = gateway_environment
        found.save(update_fields=["gateway_environment"])
        _tell(by, "vault.rebound", found, {"before": before})
    bind(origin, gateway_environment)


def _in_use(origin: str) -> bool:
    """Whether an administrator opened it, or a value or a sync was ever seen to arrive there: more than a name."""
    if VaultUse.objects.filter(vault=origin).exists():
        return True
    users = [row for row in _living() if origin_of(row.config["vault_url"]) == origin]
    synced = SyncItem.objects.filter(memory__rule__integration__in=users).exists()
    return synced or any(holds_values(row.project, row.environment_id) for row in users)


def close_to(url: str, project_id: uuid.UUID, by: By) -> None:
    """Take that back: from now on no run, no value and no test of the project goes there. Raises `NotFound`."""
    with transaction.atomic():
        vault, project = _named(url), _project(project_id)
        if not VaultUse.objects.filter(vault=vault, project=project).delete()[0]:
            raise NotFound("project_id: the vault is not open to this project")
        _tell(by, "vault.closed", vault, {"project_id": str(project.id)})
        changes.project_changed(project)


def refuse_unless_open(url: str, project_id: uuid.UUID) -> None:
    """Raises `PermissionRefused` (VAULT_NOT_OPEN)."""
    if not _is_open(origin_of(url), project_id):
        raise _not_open(origin_of(url))


def _is_open(origin: str, project: uuid.UUID) -> bool:
    return VaultUse.objects.filter(vault=origin, project=project).exists()


def _open(vault: Vault, project: Project, by: By) -> None:
    VaultUse.objects.create(vault=vault, project=project, opened_by=by.actor)
    _tell(by, "vault.opened", vault, {"project_id": str(project.id)})
    changes.project_changed(project)


def _not_open(origin: str) -> PermissionRefused:
    return PermissionRefused(
        f"config.vault_url: {origin} is not open to this project, and the gateway's identity would see everything in it; an "
        "administrator opens it with POST admin/vaults/open, or name an application of your own with auth_method client_secret",
        code="VAULT_NOT_OPEN",
    )


def _named(url: str) -> Vault:
    found = Vault.objects.filter(origin=origin_of(url)).first()
    if found is None:
        raise NotFound("origin: no integration has named this vault; to open it first, say its gateway_environment too")
    return found


def _project(identifier: uuid.UUID) -> Project:
    found = Project.objects.filter(id=identifier, deleted_at=None).first()
    if found is None:
        raise NotFound("project_id: there is no project with this id", code="PROJECT_NOT_FOUND")
    return found


def release(url: str, by: By) -> None:
    """Give a vault up, so that another environment can name it. Raises `NotFound` or `Conflict` (VAULT_IN_USE)."""
    origin = origin_of(url)
    with transaction.atomic():
        transaction_lock(f"vault:{origin}")
        found = _named(url)
        users = [row.name for row in _living() if origin_of(row.config["vault_url"]) == origin]
        if users:
            raise Conflict(
                f"origin: the vault is used by {', '.join(map(repr, users[:5]))}; delete them first", code="VAULT_IN_USE"
            )
        _tell(by, "vault.released", found, {})
        found.delete()


def all_vaults() -> QuerySet[Vault]:
    """Every vault that was named, with its environment."""
    return Vault.objects.order_by("gateway_environment", "origin").prefetch_related("uses")


def _tell(by: By, action: str, vault: Vault, details: dict[str, object]) -> None:
    audit.record(
        actor=by.actor, action=action, entity="vault", entity_id=vault.origin, environment=vault.gateway_environment,
        address=by.address, severity=audit.Severity.WARNING, details=details,
    )  # fmt: skip


def _living() -> QuerySet[Integration]:
    """Integrations that still use a vault; those of a deleted project went with it, and nobody could delete them any more."""
    rows = Integration.objects.filter(provider=AZURE_KEY_VAULT, deleted_at=None, project__deleted_at=None)
    return rows.order_by("created_at")


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
