"""Setting a gateway aside because its identity or its history is in doubt, until an administrator has looked (DESIGN §2, §6).

The columns are `held_*` for historical reasons. `held_code` names the reasons that change what the gateway may still do.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from django.db import transaction
from django.db.models import Q

from common import audit
from gateways import routes
from gateways.models import Gateway, Route

log = logging.getLogger("mazevault.gateways.quarantine")


class Reason(StrEnum):
    """Values are stored in `Gateway.held_code`; empty for every other reason."""

    TWO_LIVES = routes.TWO_LIVES
    """No lease, no task, no value and no word that counts: nobody knows which of the two is the right one."""
    PUT_BACK = "put_back"
    """It goes on reading and finishes what it has; its writes wait."""
    TWO_PASTS = "two_pasts"
    """Its audit chain says something else than what was uploaded under its identity before. As `PUT_BACK`."""


def set_aside(gateway: Gateway, reason: Reason, sentence: str, seen: Mapping[str, Any], *, address: str, now: datetime) -> bool:
    """Quarantine and tell, once. False when it was for this reason already, or for a graver one."""
    with transaction.atomic():
        Route.objects.select_for_update().filter(
            environment_id=gateway.environment_id
        ).first()  # before the gateway, as everywhere
        open_to_it = ~Q(held_code=Reason.TWO_LIVES) if reason is Reason.TWO_LIVES else Q(held_at=None)
        changed = Gateway.objects.filter(open_to_it, pk=gateway.pk, generation=gateway.generation).update(
            held_at=now, held_code=reason.value, held_reason=sentence
        )
        if not changed:
            return False
        audit.record(
            actor=f"gateway:{gateway.id}", action="gateway.quarantined", entity="gateway", entity_id=str(gateway.id),
            severity=audit.Severity.CRITICAL, environment=gateway.environment_id, address=address,
            details={"name": gateway.name, "reason": sentence, **seen},
        )  # fmt: skip
        routes.wake(gateway.environment_id)
    log.error("gateway %s is quarantined: %s", gateway.name, sentence)
    return True


def has_two_lives(gateway: Gateway) -> bool:
    return gateway.held_code == Reason.TWO_LIVES
