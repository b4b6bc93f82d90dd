"""A sign-in that a gateway carried out with Entra, and the session the Primary opens for it, of that environment only."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from protocol.messages import NO_NUL, Identifier, Message
from protocol.replica import ReplicaPrincipal

Address = Annotated[str, Meta(max_length=64)]


class EntraProof(Message, frozen=True):
    """Entra's id_token, which the Primary verifies anew, and the nonce it was asked for with.

    `access_token` is there only for people with too many groups to be in the id_token: the Primary reads them from Graph itself.
    `address` is the browser's, for the audit.
    """

    id_token: Annotated[str, Meta(min_length=1, max_length=65536)]
    nonce: Annotated[str, Meta(min_length=1, max_length=512)]
    address: Address
    access_token: Annotated[str, Meta(max_length=65536)] = ""


class SessionOpened(Message, frozen=True):
    """The session's token, and its holder as far as this gateway environment goes.

    `generation` is that of the Primary's database.
    """

    token: str
    expires_at: str
    email: str
    full_name: str
    role: str
    created_at: str
    principal: ReplicaPrincipal
    generation: Identifier


class EndSession(Message, frozen=True):
    """End the session of this token. Whoever presents it may."""

    token: Annotated[str, Meta(min_length=1, max_length=4096, pattern=NO_NUL)]
    address: Address
