"""The state of one running sandbox: directory, keys, faults, given codes and refresh tokens, and its clock."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from sandbox.azure.certificates import write_private
from sandbox.azure.directory import Directory, User, seeded
from sandbox.azure.faults import Faults
from sandbox.azure.seeds import seeded_access
from sandbox.azure.tokens import SigningKeys
from sandbox.azure.vaults import Vaults

CODE_SECONDS = 600
REFRESH_SECONDS = 24 * 3600
ACCESS_SECONDS = 3600


@dataclass(frozen=True)
class Grant:
    """What a user allowed: behind an authorization code or a refresh token. `challenge` and `redirect_uri` are the code's."""

    client_id: str
    oid: str
    scope: str
    expires_at: float
    nonce: str = ""
    challenge: str = ""
    redirect_uri: str = ""
    used: bool = False


@dataclass(frozen=True)
class Seen:
    """One request as the log keeps it: no field, token or secret of it. `caller` is the object id of its bearer token."""

    method: str
    path: str
    grant: str
    status: int
    host: str = ""
    caller: str = ""


class World:
    """Everything the handlers know. Requests come in threads; `lock` guards what they change."""

    def __init__(self, base_url: str, folder: Path, redirect_uris: Iterable[str]) -> None:
        self.base_url = base_url
        self.lock = threading.RLock()
        self.keys = SigningKeys(folder / "signing-key.pem")
        self.cluster_keys = SigningKeys(folder / "cluster-key.pem")
        self._secret, self._redirect_uris = _client_secret(folder / "client-secret"), tuple(redirect_uris)
        self.seen: deque[Seen] = deque(maxlen=5000)
        self.vaults = Vaults(folder / "vault-journal.jsonl")
        self._start()

    def reset(self) -> None:
        """Back to the seeded directory and empty vaults, without faults and without any grant. Keys and the secret stay."""
        with self.lock:
            self.vaults.reset()
            self._start()

    def _start(self) -> None:
        with self.lock:
            self.directory: Directory = seeded(self._secret, self._redirect_uris, self.vault_resource)
            self.access = seeded_access(self.directory, self.vaults)
            self.faults = Faults()
            self.codes: dict[str, Grant] = {}
            self.refresh_tokens: dict[str, Grant] = {}
            self.seen.clear()

    def now(self) -> float:
        """Seconds since 1970 by the sandbox's clock, which may be told to go wrong."""
        return time.time() + self.faults.clock_offset_seconds

    @property
    def vault_domain(self) -> str:
        """What follows a vault's name in its address, port included."""
        return f"vault.{self.base_url.removeprefix('https://')}"

    @property
    def vault_resource(self) -> str:
        """What the vaults ask tokens for. As in every Azure cloud their addresses end in it, so clients can check that."""
        return f"https://{self.vault_domain}"

    @property
    def issuer(self) -> str:
        return f"{self.base_url}/{self.directory.tenant_id}/v2.0"

    @property
    def cluster_issuer(self) -> str:
        """The OpenID issuer of the pretended Kubernetes cluster, for workload identity."""
        return f"{self.base_url}/_cluster"

    def give_code(self, grant: Grant) -> str:
        code = secrets.token_urlsafe(48)
        with self.lock:
            self.codes[code] = grant
        return code

    def give_refresh_token(self, client_id: str, user: User, scope: str) -> str:
        token = secrets.token_urlsafe(48)
        with self.lock:
            self.refresh_tokens[token] = Grant(client_id, user.oid, scope, self.now() + REFRESH_SECONDS)
        return token

    def take_code(self, code: str) -> Grant | None:
        """The grant behind a code as it was before, and the code is used from now on."""
        with self.lock:
            grant = self.codes.get(code)
            if grant:
                self.codes[code] = replace(grant, used=True)
            return grant

    def count_down(self, name: str) -> bool:
        """Whether a counted fault hits this request; then it has one less to hit."""
        with self.lock:
            left: int = getattr(self.faults, name)
            if left:
                self.faults = replace(self.faults, **{name: left - 1})  # type: ignore[arg-type]
            return left > 0


def _client_secret(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        write_private(path, secrets.token_urlsafe(30).encode() + b"\n")
        return path.read_text().strip()
