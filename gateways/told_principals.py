"""What gateways are told of people and services, told again when what it is made of has changed.

A copy holds what was true when somebody was told: permissions of the product's roles, ends by the ages that were set, credentials
that counted then. None of that changes a row of theirs, so a fingerprint of it is kept and compared at each start.
"""

from __future__ import annotations

import hashlib
import json

import msgspec
from django.conf import settings
from django.db import transaction

from accounts import entra_bounds
from accounts.models import ApiToken, Session
from accounts.roles import SYSTEM_ROLES
from common.statements import run
from gateways.models import PrimaryNode
from gateways.replica_records import SECRET_PERMISSIONS, TOLD_FORM
from protocol.replica import ReplicaKind, ReplicaPrincipal

_TELL_ALL = """
INSERT INTO common_change (scope, kind, entity_id)
SELECT scope, kind, entity_id FROM common_change WHERE kind = %(kind)s
UNION
SELECT environment_id, %(kind)s, principal FROM gateways_toldprincipal
"""
"""Who was ever named to an environment, also those of whom nothing counted there: now it may."""


def told_form() -> str:
    """SHA-256 (hex) of all that the told form of a principal depends on, beside rows that say so when they change."""
    facts = {
        "form": TOLD_FORM,
        "fields": msgspec.json.schema(ReplicaPrincipal),
        "production": settings.MAZEVAULT.production,
        "session_age": entra_bounds.longest(Session).total_seconds(),
        "token_age": entra_bounds.longest(ApiToken).total_seconds(),
        "roles": {name: sorted(one for one in held if one.startswith(SECRET_PERMISSIONS)) for name, held in SYSTEM_ROLES.items()},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def tell_again_after_a_change() -> bool:
    """Tell all anew whom gateways may know, if they were told in another form; True when that was so. Safe to repeat and to
    race."""
    form, refused = told_form(), settings.MAZEVAULT.production
    with transaction.atomic():
        known = PrimaryNode.objects.filter(id=1).exclude(told_form=form)
        if not known.update(told_form=form, everywhere_refused=refused):
            return False
        run(_TELL_ALL, {"kind": ReplicaKind.PRINCIPAL.value})
    return True
