"""Sealing what processes of a former release leave in plain beside this one, or left before: at each start, and hourly after it.

The migrations sealed what there was when they ran. While nodes are updated one after the other, an old one may still store a
configuration, or webhooks, as it always did.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from accounts import changes, directory, projects, resting, sealed_config
from accounts.models import IdentityProvider, Project
from integrations.models import Integration

log = logging.getLogger("mazevault.integrations.plain_configurations")


def seal(since: datetime | None = None) -> int:
    """Seal all of them, or those of rows that were changed since then; how many there were. Each in a transaction of its own."""
    done = _each(_changed(IdentityProvider.objects.all(), since), "config", _is_plain, _seal_provider)
    done += _each(_changed(Integration.objects.all(), since), "config", _is_plain, _seal_integration)
    with_webhooks = Project.objects.filter(settings__has_key=projects.WEBHOOKS)
    done += _each(with_webhooks, "settings", lambda _: True, _seal_webhooks)
    if done:
        log.warning("%s configurations that rested in plain were sealed; a node of a former release may still run", done)
    return done


def _each(
    rows: QuerySet[Any], column: str, rests_plain: Callable[[Any], bool], mend: Callable[[UUID], None]
) -> int:  # fmt: skip
    found = [pk for pk, held in rows.values_list("pk", column).iterator() if rests_plain(held)]
    for pk in found:
        with transaction.atomic():
            mend(pk)
    return len(found)


def _changed(rows: QuerySet[Any], since: datetime | None) -> QuerySet[Any]:
    return rows if since is None else rows.filter(updated_at__gte=since)


def _is_plain(config: Any) -> bool:
    return bool(sealed_config.split(config)[0] != config)


def _seal_provider(identifier: UUID) -> None:
    row = IdentityProvider.objects.select_for_update().get(pk=identifier)
    _seal_row(row, directory.SEALED_UNDER)


def _seal_integration(identifier: UUID) -> None:
    row = Integration.objects.select_for_update().get(pk=identifier)
    _seal_row(row, row.sealed_under)
    changes.project_changed(row.project)  # copies name the version of its secrets


def _seal_row(row: Any, scope: str) -> None:
    if row.deleted_at is not None:
        row.config, _ = sealed_config.split(row.config)
    else:
        sealed_config.seal_what_rests_plain(row, scope)
    row.save(update_fields=["config", "sealed_secrets", "secrets_version"])


def _seal_webhooks(identifier: UUID) -> None:
    """An old process replaces the settings as a whole, so what it stored is what counts."""
    row = Project.objects.select_for_update().get(pk=identifier)
    hooks = row.settings.pop(projects.WEBHOOKS, None)
    if hooks is not None:
        row.webhooks_version += 1
        row.sealed_webhooks = resting.sealed(resting.webhooks(row), json.dumps(hooks))
    row.save(update_fields=["settings", "sealed_webhooks", "webhooks_version"])
