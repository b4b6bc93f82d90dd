"""Entra for the accounts: the sandbox, and a node whose settings point at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.conf import settings
from django.test import Client, override_settings

from accounts.entra_settings import CALLBACK_PATH, EntraSettings
from accounts.models import GroupMapping, Role
from sandbox.azure.directory import CLIENT_ID, DEFAULT_REDIRECT_URI, TENANT_ID
from sandbox.azure.server import Sandbox
from tests.fakes.azure import browser, control, one_sandbox, sandbox, secret  # noqa: F401
from tests.fakes.browser import Browser, values_of

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
def entra_settings(sandbox: Sandbox, secret: str) -> EntraSettings:
    return EntraSettings(
        enabled=True,
        tenant_id=TENANT_ID,
        client_id=CLIENT_ID,
        client_secret=secret,
        redirect_uri=DEFAULT_REDIRECT_URI,
        scopes=("openid", "profile", "email", f"{CLIENT_ID}/.default"),
        auto_create_users=True,
        default_role="viewer",
        authority_host=sandbox.base_url,
        instance_discovery=False,
        graph_endpoint=sandbox.base_url,
        ca_bundle=sandbox.ca_file,
        frontend_url="https://localhost:8443/ui/",
    )


@pytest.fixture
def with_entra() -> Callable[..., Any]:
    """Settings of a node with this Entra group."""
    return lambda own: override_settings(MAZEVAULT=replace(settings.MAZEVAULT, entra=own))


@pytest.fixture
def node(primary: None, entra_settings: EntraSettings, with_entra: Callable[..., Any]) -> Iterator[Node]:
    """A Primary whose Entra is the sandbox, and a browser in front of both."""
    with with_entra(entra_settings):
        yield Node()


class Node:
    """Our side of a sign-in, with the cookie jar of one browser."""

    def __init__(self) -> None:
        self.client = Client(raise_request_exception=False)

    def begin(self, **headers: str) -> str:
        """Entra's address, out of our redirect."""
        answer = self.client.get("/api/v1/auth/sso/entra/login", headers=headers or HTML, secure=True)
        assert answer.status_code == 302, answer.content
        return answer["Location"]

    def come_back(self, values: dict[str, str], **headers: str) -> Any:
        return self.client.get(CALLBACK_PATH, values, headers=headers, secure=True)

    def sign_in(self, browser: Browser, user: str, **headers: str) -> Any:
        return self.come_back(values_of(browser.pick(self.begin(), f"{user}@bank.example")), **headers)


def mapped(role: str, external_id: str, display_name: str = "") -> GroupMapping:
    return GroupMapping.objects.create(
        group_external_id=external_id, group_display_name=display_name or external_id, role=Role.objects.get(name=role)
    )
