"""Would a gateway's change be made now, and was it made before? Asked before a vault hears of it (ADR 24, 44).

So neither a refused change nor a repeated one is set there.
"""

from __future__ import annotations

import uuid
from datetime import datetime

from django.db import transaction

from accounts.principals import principal_named
from common.errors import NotFound, PermissionRefused, ValidationFailed
from gateways import authors, dispatch, write_firsts
from gateways.models import Gateway
from gateways.write_scene import place_of_write
from protocol.vocabulary import WriteOperation
from protocol.writes import WriteCheck, WriteKnown
from vault import rules
from vault.models import Secret
from vault.ports import Origin, SecretChange
from vault.secrets import check_change


@transaction.atomic
def check(gateway: Gateway, body: WriteCheck, now: datetime) -> WriteKnown:
    """Raises what the change would meet here, and leaves nothing behind. What was made before is not judged again."""
    dispatch.refuse_unless_active(gateway, body.epoch)
    if body.body.value is not None:
        raise ValidationFailed("body.value: a check is asked without the value")
    project, environment, secret = (uuid.UUID(text) for text in (body.project, body.project_environment, body.secret))
    place = place_of_write(gateway.environment_id, project, environment)
    if place is None:
        raise NotFound(rules.PROJECT_ABSENT, code="PROJECT_NOT_FOUND")
    elsewhere = Secret.objects.filter(id=secret).exclude(project=project, environment=environment).exists()
    if elsewhere and body.operation is not WriteOperation.CREATE:
        raise NotFound(rules.ABSENT)
    if elsewhere:  # a creation under an id that is taken is answered as one under a free id, which it gets (I13)
        secret = uuid.uuid4()
    caller = principal_named(body.actor, now)
    claim = authors.Claim(gateway.id, body.actor, now, now, body.epoch, gateway.id, gateway.generation)
    if not authors.believed(gateway.environment_id, [claim]):
        raise PermissionRefused("nobody of whom this gateway was told makes this change", code="AUTHOR_NOT_BELIEVED")
    if caller is None:
        raise PermissionRefused("who makes this change may not make it any more", code="ACTOR_NOT_ALLOWED")
    change = SecretChange(body.operation, secret, project, environment, body.key, body.base_version, body.body)
    rules.refuse_unless_allowed(caller, change.operation, rules.place_of(*place))
    first = write_firsts.of_check(gateway.environment_id, body, change, now)
    if first is not None:
        return WriteKnown(str(first.secret), first.version)
    check_change(change, Origin(body.actor, node=f"gateway:{gateway.id}", epoch=body.epoch), caller, now)
    return WriteKnown()
