"""msal as the sandbox's client."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import msal
import pytest
import requests
from azure.core.credentials import AccessToken

from sandbox.azure.directory import CLIENT_ID, DEFAULT_REDIRECT_URI, TENANT_ID
from sandbox.azure.server import Sandbox
from tests.fakes.browser import Browser, values_of


@pytest.fixture
def application(sandbox: Sandbox, secret: str) -> Callable[..., msal.ConfidentialClientApplication]:
    """The product's app registration as msal sees it; unmodified msal, but for where it looks."""

    def make(**more: Any) -> msal.ConfidentialClientApplication:
        settings = {
            "client_id": CLIENT_ID,
            "client_credential": secret,
            "authority": f"{sandbox.base_url}/{TENANT_ID}",
            "instance_discovery": False,
            "http_client": session(sandbox),
        }
        return msal.ConfidentialClientApplication(**{**settings, **more})

    return make


@pytest.fixture
def signed_in(application: Callable[..., Any], browser: Browser) -> Callable[..., dict[str, Any]]:
    """A whole sign-in: msal's flow, the page, the code, the tokens."""

    def make(user: str = "ada.admin", scopes: tuple[str, ...] = (f"{CLIENT_ID}/.default",), app: Any = None) -> dict[str, Any]:
        used = app or application()
        flow = used.initiate_auth_code_flow(list(scopes), redirect_uri=DEFAULT_REDIRECT_URI, response_mode="query")
        back = browser.pick(flow["auth_uri"], f"{user}@bank.example")
        return used.acquire_token_by_auth_code_flow(flow, values_of(back))

    return make


def session(sandbox: Sandbox) -> requests.Session:
    made = requests.Session()
    made.verify = str(sandbox.ca_file)
    made.trust_env = False
    return made


@pytest.fixture
def local_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names below `localhost` mean this machine (RFC 6761), also on systems whose resolver does not know that."""
    original = socket.getaddrinfo

    def resolve(host: Any, *arguments: Any, **more: Any) -> Any:
        inside = isinstance(host, str) and host.lower().endswith(".localhost")
        return original("127.0.0.1" if inside else host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


class Token:
    """A credential of the Azure SDKs' own shape: a function that gets a token for a scope."""

    def __init__(self, acquire: Callable[[str], dict[str, Any]]) -> None:
        self._acquire = acquire

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        result = self._acquire(scopes[0])
        return AccessToken(result["access_token"], int(time.time()) + int(result["expires_in"]))


@pytest.fixture
def as_identity(sandbox: Sandbox) -> Callable[[str], Token]:
    """The credential of a managed identity on its own machine: `as_identity("npr")`."""

    def make(code: str) -> Token:
        url = f"{sandbox.plain_url}/hosts/{code}/metadata/identity/oauth2/token"

        def acquire(scope: str) -> dict[str, Any]:
            query = {"api-version": "2018-02-01", "resource": scope.removesuffix("/.default")}
            return httpx.get(url, params=query, headers={"Metadata": "true"}).json()

        return Token(acquire)

    return make


@pytest.fixture
def as_user(application: Callable[..., Any], signed_in: Callable[..., Any]) -> Callable[[str], Token]:
    """The credential of a user on whose behalf the product acts."""

    def make(user: str) -> Token:
        mine = signed_in(user)["access_token"]
        return Token(lambda scope: application().acquire_token_on_behalf_of(mine, [scope]))

    return make


def vault_url(sandbox: Sandbox, name: str) -> str:
    return f"https://{name}.{sandbox.world.vault_domain}"
