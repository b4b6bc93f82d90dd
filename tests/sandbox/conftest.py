"""msal as the sandbox's client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msal
import pytest
import requests

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
