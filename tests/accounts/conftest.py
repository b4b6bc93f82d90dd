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
from tests.fakes.browser import Browser, values_of

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


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
