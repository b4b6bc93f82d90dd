"""Azure's vaults in this process: the real clients and the sandbox's own answers, without sockets, TLS or tokens from afar."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
from azure.core.credentials import AccessToken

from common import outside
from integrations.azure import egress, keyvault
from integrations.azure.cloud import AuthMethod, Cloud, Connection
from integrations.azure.credentials import Answer, Credential
from integrations.azure.egress import Deadline, Guard, Target
from sandbox.azure import routes
from sandbox.azure.vaults import Item, Vault
from sandbox.azure.web import LOST, Request
from sandbox.azure.world import World

PORT = 9447
"""Nothing listens there: it is only part of names."""
NPR = "kv-mazevault-npr"
SECONDS = 0.25
"""Longest call, and so how long the adapter waits for what Azure has agreed to."""


class VaultHere:
    """A world of vaults, and the ways of a node to one of them."""

    def __init__(self, folder: Path) -> None:
        self.world = World(f"https://localhost:{PORT}", folder, ())
        self.cloud = Cloud(sandbox_domain=self.world.vault_domain)
        self.url = f"https://{NPR}.{self.world.vault_domain}"
        asked = Request("GET", "/hosts/npr/metadata/identity/oauth2/token", {"api-version": "2018-02-01", "resource": "https://vault.azure.net"},
                        {"metadata": "true"}, secure=False)  # fmt: skip
        self.after: tuple[str, dict[str, str]] | None = None
        self.token = str(routes.answer(self.world, asked).body.decode().split('"access_token": "')[1].split('"')[0])

    @property
    def vault(self) -> Vault:
        found = self.world.vaults.named(NPR)
        assert found is not None
        return found

    def item(self, name: str) -> Item | None:
        return self.vault.items.get(("secrets", name.lower()))

    def faults(self, **wishes: Any) -> None:
        self.world.faults = self.world.faults.changed(wishes)

    def seen(self, path: str) -> None:
        """Once a request for a path that ends so was answered, the faults that follow on it begin (`after`)."""
        if self.after is not None and path.endswith(self.after[0]):
            self.faults(vault_fails=self.after[1])
            self.after = None

    def healthy(self) -> None:
        self.after = None
        self.faults(vault_fails={}, vault_settle_seconds=0.0, vault_throttled=0)
        for item in self.vault.items.values():
            item.settles_at = 0.0
        self.vault.purge_protection = False

    # `integrations.keeping.Ways`

    seconds = SECONDS

    def guard(self) -> Guard:
        return Guard(self.cloud)

    def connect(self, integration: Any, asker: Any) -> tuple[Connection, Credential]:
        return Connection(self.url, AuthMethod.MANAGED_IDENTITY), _Known(self.cloud, self.token)

    def refuse_unless_writing(self, environment: Any) -> None:
        return None

    @contextmanager
    def effect(self, environment: Any) -> Iterator[int]:
        yield 1


class _Known(Credential):
    def __init__(self, cloud: Cloud, token: str) -> None:
        super().__init__(cloud, "")
        self._token = token

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        return AccessToken(self._token, 2**40)

    def _acquire(self, scope: str, claims: str | None) -> Answer:
        raise AssertionError("it has one")


class _Raw(io.BytesIO):
    """The vendor's transport sets attributes on what it reads from."""


def adapter_of(here: VaultHere) -> type:
    class Adapter(requests.adapters.BaseAdapter):
        def __init__(self, guard: Guard, target: Target, deadline: Callable[[], Deadline | None]) -> None:
            super().__init__()
            self._deadline = deadline

        def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
            outside.begins("a vault in this process")
            parts, deadline = urlsplit(str(request.url)), self._deadline()
            headers = {name.lower(): str(text) for name, text in request.headers.items()} | {"host": parts.netloc}
            if deadline is not None and "authorization" in headers:
                deadline.sent = True
            body = request.body.encode() if isinstance(request.body, str) else bytes(request.body or b"")
            asked = Request(str(request.method), parts.path, dict(parse_qsl(parts.query)), headers, body)
            answer = routes.answer(here.world, asked)
            if "authorization" in headers:
                here.seen(parts.path)
            if answer.status == LOST:
                raise requests.exceptions.ConnectionError("the connection was closed")
            given = requests.Response()
            given.status_code, given.url, given.request = answer.status, str(request.url), request
            given.headers.update({"Content-Type": answer.content_type, **answer.headers})
            given.raw, given._content, given._content_consumed = _Raw(answer.body), answer.body, True
            return given

        def close(self) -> None:
            return None

    return Adapter


@pytest.fixture
def vault_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VaultHere:
    found = VaultHere(tmp_path)
    monkeypatch.setattr(egress, "_Adapter", adapter_of(found))
    monkeypatch.setattr(keyvault, "SETTLE_SECONDS", 0.02)
    return found
