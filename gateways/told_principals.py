"""Of whom gateways were told, and telling it again when what they are told depends on a setting that was changed."""

from __future__ import annotations

from django.conf import settings
from django.db import transaction

from common import feed
from gateways.models import PrimaryNode, ToldPrincipal
from protocol.replica import ReplicaKind


def tell_again_after_a_change() -> bool:
    """Whether credentials without an audience count at gateways is a setting of the Primary (`accounts.audiences`). After it was
    changed everybody a gateway knows is told anew; True when that was so. Safe to repeat and to race."""
    refused = settings.MAZEVAULT.production
    with transaction.atomic():
        if not PrimaryNode.objects.filter(id=1, everywhere_refused=not refused).update(everywhere_refused=refused):
            return False
        told = ToldPrincipal.objects.order_by("environment_id", "principal").values_list("environment_id", "principal")
        feed.note_all((code, ReplicaKind.PRINCIPAL, principal) for code, principal in told)
    return True
