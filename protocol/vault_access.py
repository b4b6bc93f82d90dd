"""The way to a vault, as the Primary gives it to the active gateway of the environment the vault belongs to."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from protocol.messages import Count, Identifier, Message

LONGEST_EXPIRY_DAYS = 3650


class VaultAccess(Message, frozen=True, omit_defaults=True):
    """How a gateway reaches one vault of its environment. `auth_method` is one of `integrations.azure.cloud.AuthMethod`.

    `content_type` and `expires_days` are what is set in the vault gets (`integrations.azure.cloud.Connection`).
    """

    hidden: ClassVar[frozenset[str]] = frozenset({"client_secret"})

    integration: Identifier
    vault_url: Annotated[str, Meta(max_length=300)]
    auth_method: Annotated[str, Meta(max_length=32)]
    tenant_id: Annotated[str, Meta(max_length=64)] = ""
    client_id: Annotated[str, Meta(max_length=64)] = ""
    client_secret: Annotated[str, Meta(max_length=4096)] = ""
    vault_id: Annotated[str, Meta(max_length=400)] = ""
    content_type: Annotated[str, Meta(max_length=255)] = ""
    expires_days: Annotated[int, Meta(ge=0, le=LONGEST_EXPIRY_DAYS)] = 0


class AskAccess(Message, frozen=True):
    """Ask for the way to the vault of an integration; refused for one of another gateway environment (I13)."""

    integration: Identifier
    epoch: Count
