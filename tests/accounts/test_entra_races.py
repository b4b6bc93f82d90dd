"""Many at once, on real connections: a sign-in comes back once, a newcomer gets one account."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie
from typing import Any

import pytest

from accounts.attempts import MOST_OF_A_BROWSER
from accounts.entra_settings import EntraSettings
from accounts.models import EntraSession, RoleGrant, Session, User
from tests.accounts.conftest import Node, mapped
from tests.fakes.browser import Browser, values_of
from tests.gateways.test_races import at_once

RACERS = 12
pytestmark = [pytest.mark.xdist_group("races")]


@pytest.fixture
def committed_node(committed_primary: None, entra_settings: EntraSettings, with_entra: Callable[..., Any]) -> Iterator[Node]:
    with with_entra(entra_settings):
        yield Node()


def racers_of(node: Node, count: int) -> list[Node]:
    """The same browser, several times."""
    made = [Node() for _ in range(count)]
    for one in made:
        one.client.cookies = SimpleCookie(node.client.cookies.output(header="", sep=";"))
    return made


def test_one_way_back_is_used_by_one_of_many(committed_node: Node, browser: Browser) -> None:
    values = values_of(browser.pick(committed_node.begin(), "ada.admin@bank.example"))
    racers = racers_of(committed_node, RACERS)
    answers = at_once(*(lambda one=one: one.come_back(values) for one in racers))
    assert Counter(answer.status_code for answer in answers) == {200: 1, 401: RACERS - 1}
    assert {answer.json()["code"] for answer in answers if answer.status_code == 401} == {"SSO_REPLAYED"}
    assert Session.objects.count() == EntraSession.objects.count() == 1


def test_a_newcomer_with_many_tabs_gets_one_account(committed_node: Node, browser: Browser) -> None:
    mapped("secret_manager", "APP_MZV_PRO_ADMIN")
    ways = [values_of(browser.pick(committed_node.begin(), "ada.admin@bank.example")) for _ in range(MOST_OF_A_BROWSER)]
    racers = racers_of(committed_node, MOST_OF_A_BROWSER)
    answers = at_once(*(lambda one=one, way=way: one.come_back(way) for one, way in zip(racers, ways, strict=True)))
    assert {answer.status_code for answer in answers} == {200}, [answer.content for answer in answers]
    assert User.objects.filter(email="ada.admin@bank.example").count() == 1
    assert RoleGrant.objects.filter(user__email="ada.admin@bank.example", assigned_by_sso=True).count() == 1
    assert Session.objects.count() == MOST_OF_A_BROWSER
