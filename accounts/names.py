"""Names beside ids: who stands behind the actors that rows and audit entries keep."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import LiteralString

from common.statements import fetch

_NAMES: LiteralString = """
SELECT 'user:' || id, email FROM accounts_user WHERE id = ANY(%(people)s::uuid[])
UNION ALL
SELECT 'service:' || id, display_name FROM accounts_serviceidentity WHERE id = ANY(%(services)s::uuid[])
"""


def names_of(actors: Iterable[str | None]) -> dict[str, str]:
    """The address of a person, the name of a service identity, by actor (`user:…`, `service:…`), also of those that are gone.

    One statement, and none where only the product itself acted.
    """
    wanted = {actor for actor in actors if actor}
    people, services = _ids_of("user", wanted), _ids_of("service", wanted)
    return dict(fetch(_NAMES, {"people": people, "services": services})) if people or services else {}


def _ids_of(kind: str, actors: Iterable[str]) -> list[uuid.UUID]:
    found = []
    for actor in actors:
        word, _, text = actor.partition(":")
        if word == kind:
            try:
                found.append(uuid.UUID(text))
            except ValueError:
                continue  # an actor of a former release
    return found
