"""A secret as one statement found it, for the paths that do without the ORM. The names are those of the rows."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class FoundProject:
    organization_id: uuid.UUID
    storage: str


@dataclass(frozen=True, slots=True)
class FoundEnvironment:
    slug: str
    gateway_environment: str


@dataclass(frozen=True, slots=True)
class Found:
    """What `vault.models.Secret` tells with its project and environment, but for what nobody is shown."""

    id: uuid.UUID
    project_id: uuid.UUID
    environment_id: uuid.UUID
    key: str
    type: str
    description: str
    tags: list[str]
    metadata: dict[str, str]
    ttl_hours: int
    rotation: dict[str, Any] | None
    status: str
    version: int
    created_by: str
    created_at: datetime
    updated_at: datetime
    project: FoundProject
    environment: FoundEnvironment


@dataclass(frozen=True, slots=True)
class FoundValue:
    """The version that holds the value the secret has now; `sealed` None: it rests elsewhere, or there is none."""

    version: int | None
    sealed: bytes | None
    retired_at: datetime | None
