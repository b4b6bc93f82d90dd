"""Names beside ids: who stands behind the actors that rows and audit entries keep."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from accounts.models import ServiceIdentity, User


def names_of(actors: Iterable[str | None]) -> dict[str, str]:
    """The address of a person, the name of a service identity, by actor (`user:…`, `service:…`), also of those that are gone.

    Asks only about kinds that are there, so rows of the product itself cost nothing.
    """
    wanted = {actor for actor in actors if actor}
    people, services = _ids_of("user", wanted), _ids_of("service", wanted)
    names = {f"user:{row.id}": row.email for row in User.objects.filter(id__in=people).only("id", "email")} if people else {}
    if services:
        found = ServiceIdentity.objects.filter(id__in=services).only("id", "display_name")
        names |= {f"service:{row.id}": row.display_name for row in found}
    return names


def _ids_of(kind: str, actors: Iterable[str]) -> list[uuid.UUID]:
    found = []
    for actor in actors:
        word, _, text = actor.partition(":")
        if word == kind:
            try:
                found.append(uuid.UUID(text))
            except ValueError:
                continue  # an actor of a test, or of a former release
    return found
