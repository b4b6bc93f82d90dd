"""What the secrets API needs of the node it runs on. The Primary and a gateway each bring their own; the views know neither.

A change is the same thing everywhere: a person's request at the Primary, a request at a gateway, a queued write that arrives.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, LiteralString, Protocol

import msgspec
from django.http import HttpRequest
from msgspec import structs

from accounts.access import Principal
from accounts.models import Project
from common.errors import Conflict, MazeVaultError
from protocol.vocabulary import WriteOperation, WriteOutcome
from protocol.writes import WriteBody, body_text
from vault.models import Secret

_ASKED = ("value", "ttl_hours", "metadata", "type", "description", "tags", "rotation", "rollback_to", "reason",
          "external_version")  # fmt: skip
"""Fields of a body that are always part of a request's fingerprint; later ones are where they are set. Nodes of two releases
compare fingerprints, and answers are remembered over an upgrade: the form of what can be asked already never changes."""
_OURS = frozenset({"request", "value_hash"})


@dataclass(frozen=True)
class SecretChange:
    """One wish to change one secret. For a creation `secret` is the id the new one gets.

    `base_version` is the version the wish was made on; None means whatever is there. `generated`: nobody chose the value.
    `only_repeated`: the secret is not there any more for this wish, so it can only be the repetition of an answered one.
    `length`: the characters that were asked for of a generated value, where they are not the usual ones.
    """

    operation: WriteOperation
    secret: uuid.UUID
    project: uuid.UUID
    environment: uuid.UUID
    key: str
    base_version: int | None
    body: WriteBody = field(repr=False)
    generated: bool = False
    only_repeated: bool = False
    length: int | None = None

    def asked_for(self) -> str:
        """Everything the caller asked for, to know a repeated request by. The id of a new secret and a made up value are ours."""
        body = self.body if not self.generated else structs.replace(self.body, value=None)
        fresh = WriteBody()
        said = {
            name: value
            for name, value in structs.asdict(body).items()
            if name in _ASKED or (name not in _OURS and value != getattr(fresh, name))
        }
        length = [] if self.length is None else [f"length {self.length}"]
        return "\0".join([self._asked_for(msgspec.json.encode(said).decode()), *length])

    def formerly_asked_for(self) -> str:
        """`asked_for` in the form of releases before ADR 44."""
        return self._asked_for(body_text(structs.replace(self.body, value=None) if self.generated else self.body))

    def _asked_for(self, body: str) -> str:
        secret = "" if self.operation is WriteOperation.CREATE else str(self.secret)
        return "\0".join([
            self.operation.value, secret, str(self.project), str(self.environment), self.key, str(self.base_version), body
        ])  # fmt: skip

    def fingerprint(self) -> str:
        """SHA-256 (hex) of `asked_for`, the same at every node. It tells of the value to who can guess it: never in the open."""
        return hashlib.sha256(self.asked_for().encode()).hexdigest()


@dataclass(frozen=True)
class Origin:
    """Where a change came from. `node` is `primary` or `gateway:<id>`; `write` and `epoch` are those of a gateway's write."""

    actor: str
    address: str = ""
    node: str = "primary"
    write: uuid.UUID | None = None
    epoch: int | None = None


@dataclass(frozen=True)
class Asker:
    """Who asks for a value or a change. `credential` is what they showed: a node may act in their own name with it."""

    principal: Principal
    address: str = ""
    credential: object = field(default=None, repr=False)

    @property
    def actor(self) -> str:
        return self.principal.actor


@dataclass(frozen=True)
class Applied:
    """A change that was made: the secret after it. `changed` is False when the wish was fulfilled already."""

    secret: Secret
    version: int
    changed: bool = True


@dataclass(frozen=True)
class Written:
    """What a node says about a change: applied with the secret, or queued with the id of the write that can be followed.

    `secret_id` is given where the change does not name the secret: a creation that was repeated under its idempotency key.
    """

    outcome: WriteOutcome
    write: uuid.UUID | None
    secret: Secret | None
    version: int
    secret_id: uuid.UUID | None = None
    because: str | None = None
    """Why it is not applied yet, for people."""
    since: datetime | None = None


class AnsweredBefore(Exception):
    """The same request was carried out before, at another node. Not an error: this is its answer."""

    def __init__(self, secret: uuid.UUID, version: int) -> None:
        super().__init__(f"version {version} of {secret}")
        self.secret, self.version = secret, version


@dataclass(frozen=True)
class Freshness:
    """Since when what this node holds of a project is known to be complete, and whether that is too long ago to trust blindly."""

    as_of: datetime
    stale: bool


@dataclass(frozen=True)
class PendingCreation:
    """A secret that is promised and not there yet. `secret` is not saved: id, place and key only."""

    write: uuid.UUID
    secret: Secret


class VersionConflict(Conflict):
    """The secret is not in the version the change was made on."""

    default_code = "VERSION_CONFLICT"

    def __init__(self, current: int, base: int) -> None:
        sentence = f"base_version: the secret is in version {current}, not {base}; read it again and repeat the change"
        super().__init__(sentence, extra={"current_version": current})
        self.current = current


@dataclass(frozen=True)
class Shown:
    """A value as it was found. `external_version` is the vault's name of the version it came from, empty for our own store.

    `secret` is the one it belongs to as it was read together with it; `changed` says that somebody set it past us.
    """

    value: str = field(repr=False)
    external_version: str = ""
    secret: Secret | None = None
    changed: bool = False


class Hold(Protocol):
    """The right to touch one name in a vault. `operation` is the tag of what is set under it, `since` when it was given,
    `recovering_since` when a recovery of the name was begun under it, if one was."""

    operation: str
    since: datetime

    @property
    def recovering_since(self) -> datetime | None: ...

    def prolong(self, seconds: float) -> None:
        """Before a call that ends within these seconds. Raises `Unavailable` when the right was lost."""

    def recovering(self) -> None:
        """Before a name that lies deleted is recovered: whoever ends this then knows. Raises as `prolong`."""


@dataclass(frozen=True)
class Done:
    """What was done in a vault. `version` holds the value then, empty where none was set.

    `instead`: only this came about, and `trouble` says why the rest did not; it is recorded all the same.
    """

    version: str = ""
    instead: WriteOperation | None = None
    trouble: MazeVaultError | None = None


class ValueKeeper(Protocol):
    """The vault of a project whose values rest there. Raises the errors of the vault: a denial is final (DESIGN §10).

    All of it outside of any transaction, since a vault may be slow. `asker` None is the system itself.
    """

    @property
    def seconds(self) -> float:
        """The longest call."""

    def read(self, secret: Secret, recorded: str, asker: Asker, *, newest: bool) -> Shown:
        """The value of the recorded version; of the newest one when that was set by somebody else than us (ADR 24, 30)."""

    def place_to_write(self, secret: Secret) -> str:
        """Which vault a change of the secret goes to. Raises when this node may not write there now, before any call."""

    def carry_out(self, change: SecretChange, secret: Secret, asker: Asker | None, hold: Hold) -> Done:
        """Do in the vault what the change means for it."""

    def look_into(self, change: SecretChange, secret: Secret, asker: Asker | None, operation: str) -> Done | None:
        """Whether what an operation wanted is what the vault has now; None when it is not, or not yet."""

    def put_back(self, change: SecretChange, secret: Secret, asker: Asker | None, hold: Hold, version: str) -> bool:
        """Make the recorded state count again after a change that was not recorded. False when somebody changed it since."""


@dataclass(frozen=True)
class HotPart:
    """What a node wants to know of itself when a secret is read, as part of that one statement (`vault.hot`)."""

    columns: LiteralString = ""
    sources: LiteralString = ""


class SecretNode(Protocol):
    """The node behind the secrets API. `keeper` reaches the vaults of projects whose values rest there."""

    keeper: ValueKeeper
    hot_part: HotPart | None
    """None: every read goes the whole way."""
    applies_changes: bool
    """False: changes wait here for somebody else to apply them."""

    def hot_caller(self, token: str, request: HttpRequest, moment: datetime, needed: str) -> Principal | None:
        """Who holds this token, if they have this permission somewhere; counts the call. None or any refusal: go the whole
        way."""

    def hot_standing(
        self, told: Sequence[Any], longest_age: int | None, moment: datetime
    ) -> tuple[Freshness | None, uuid.UUID | None]:
        """From the columns of `hot_part`: how fresh this node's copy is, and what write waits. Raises where it gives nothing."""

    def admit(self) -> None:
        """Raise `Unavailable` with code NOT_ACTIVE when this node serves no secrets now (a standby, a fenced gateway)."""

    def freshness(self, project: Project) -> Freshness | None:
        """None where this node is the source. Raises `Unavailable` (STALE) beyond the project's maximum staleness."""

    def pending(self, secret: uuid.UUID) -> uuid.UUID | None:
        """Id of the newest write to this secret that is accepted here and not applied yet."""

    def pending_of(self, secrets: Iterable[uuid.UUID]) -> Mapping[uuid.UUID, uuid.UUID]:
        """`pending` of many at once; a secret without such a write is left out."""

    def creation_of(self, secret: uuid.UUID) -> PendingCreation | None:
        """The write that creates this secret, while it is accepted here and not applied yet."""

    def write(self, change: SecretChange, asker: Asker, *, idempotency_key: str, now: datetime) -> Written:
        """Make the change or promise it. Raises the errors of `vault.secrets.apply_change`; what it raised is not promised."""
