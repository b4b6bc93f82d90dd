"""Moving the values of a project into a vault or out of it: what waits to be moved, and what became of it.

A secret moves as a whole, its versions from the oldest to the newest, so that the vault's newest is the secret's.
"""

from __future__ import annotations

import hashlib
import hmac
from enum import StrEnum
from typing import Annotated, ClassVar

from msgspec import Meta

from protocol.messages import Count, Identifier, Message
from protocol.sync import Key, Name, Sentence, VaultVersion, Word
from protocol.vault_access import VaultAccess

MOST_VERSIONS = 20
"""Versions of a secret that move with it; older values end with the move."""
MOST_ENDED = 20
"""Secrets told of in one message; a gateway tells of one."""
MOST_SEEN = 1000
"""Versions of one secret told of after one look: those of one move, however many moves there were."""


class MovedVersion(Message, frozen=True):
    """Where one version is now: in the vault under `external_version`, or here with its value."""

    hidden: ClassVar[frozenset[str]] = frozenset({"value"})

    version: Count
    external_version: VaultVersion = ""
    value: str | None = None


class MovingSecret(Message, frozen=True):
    """A secret to be moved. `deleted`: its name in the vault is to be left soft-deleted."""

    secret: Identifier
    key: Key
    name: Name
    deleted: bool
    versions: list[MovedVersion]
    at: Count = 0
    """The secret's version when it was handed out."""


class MovedSecret(Message, frozen=True):
    """How the move of a secret ended; `code` and `detail` say why it failed. What failed stays where it was."""

    secret: Identifier
    versions: Annotated[list[MovedVersion], Meta(max_length=MOST_VERSIONS)] = []
    at: Count = 0
    code: Word = ""
    detail: Sentence = ""


class MoveProgress(Message, frozen=True):
    """How secrets ended; the answer brings the next one. Saying it again changes nothing."""

    move: Identifier
    claim: Identifier
    epoch: Count
    ended: Annotated[list[MovedSecret], Meta(max_length=MOST_ENDED)] = []


class MoveAnswer(Message, frozen=True):
    """The next secret with its vault; None when nothing is left. `owner` is the tag of its name (`keeping.owner_of`).

    `takes_over` are the tags of the project's own sync rules: names they brought to the vault become the project's.
    """

    to_vault: bool
    owner: Annotated[str, Meta(max_length=100)] = ""
    access: VaultAccess | None = None
    secret: MovingSecret | None = None
    takes_over: Annotated[list[Word], Meta(max_length=1000)] = []


class EndMove(Message, frozen=True):
    """The task is over. `paused`: there is more, for another task. `code`: it broke off."""

    move: Identifier
    claim: Identifier
    epoch: Count
    paused: bool = False
    code: Word = ""
    detail: Sentence = ""


class Sight(StrEnum):
    """What a look at one version in a vault found."""

    READ = "read"
    GONE = "gone"
    """The vault has no such version, and none that could be recovered."""
    UNREADABLE = "unreadable"
    """It may be there: switched off, deleted so that it can be recovered, or not to be read now."""


class VersionSeen(Message, frozen=True):
    """One version as it was found in the vault. `digest` is `seen_digest` of its value, for what was read only."""

    version: Count
    sight: Sight
    digest: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    detail: Sentence = ""


class LookReport(Message, frozen=True):
    """What was found of the secret that was asked about, if any; the answer asks about the next one.

    `code` and `detail`: the vault let nobody look, so this task ends.
    """

    move: Identifier
    claim: Identifier
    epoch: Count
    secret: Word = ""
    seen: Annotated[list[VersionSeen], Meta(max_length=MOST_SEEN)] = []
    code: Word = ""
    detail: Sentence = ""


class LookAnswer(Message, frozen=True):
    """The secret whose versions are to be read in the vault now; None when nothing is due. `nonce` is of this question alone."""

    access: VaultAccess | None = None
    secret: MovingSecret | None = None
    nonce: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""


def seen_digest(nonce: str, secret: str, version: int, external_version: str, value: str) -> str:
    """What proves that the value was held when the question came: nobody could have made it before the nonce was drawn."""
    said = "\0".join([secret, str(version), external_version, value]).encode()
    return hmac.new(bytes.fromhex(nonce), said, hashlib.sha256).hexdigest()
