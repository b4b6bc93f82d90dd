"""A Primary of several nodes: how a gateway is told where they are, and how the launcher lays them out."""

from __future__ import annotations

import pytest

from cli.stack.layout import StackError, layout_from
from orchestrator.environment import MOST_PRIMARIES, EnvironmentMistake, load
from tests.orchestrator.test_entra_environment import NODE

GATEWAY = {**NODE, "MAZEVAULT_MODE": "gateway"}


def urls(text: str) -> tuple[str, ...]:
    return load({**GATEWAY, "PRIMARY_BACKEND_URL": text}).own_gateway.primary_urls


@pytest.mark.parametrize(
    ("text", "found"),
    [("", ()), ("https://a:8443/", ("https://a:8443",)), (" https://a , https://b/,", ("https://a", "https://b")),
     ("https://a,https://a/", ("https://a",))],
)  # fmt: skip
def test_a_gateway_is_told_every_node_of_the_primary(text: str, found: tuple[str, ...]) -> None:
    assert urls(text) == found


@pytest.mark.parametrize("text", ["http://a", "https://a,b", "https://a http://b,ftp://c"])
def test_an_address_that_is_not_https_is_named(text: str) -> None:
    with pytest.raises(EnvironmentMistake, match=r"^PRIMARY_BACKEND_URL is .*https://"):
        urls(text)


def test_more_addresses_than_are_tried_are_refused() -> None:
    with pytest.raises(EnvironmentMistake, match=f"at most {MOST_PRIMARIES}"):
        urls(",".join(f"https://node-{number}" for number in range(MOST_PRIMARIES + 1)))


def test_the_nodes_of_a_stack_have_names_and_ports_of_their_own() -> None:
    layout = layout_from({"MAZEVAULT_PRIMARIES": "3", "MAZEVAULT_PORT_BASE": "18443"})
    assert [(node.name, node.url) for node in layout.primaries] == [
        ("primary", "https://localhost:18443"), ("primary-2", "https://localhost:18449"), ("primary-3", "https://localhost:18450"),
    ]  # fmt: skip
    taken = [layout.sandbox_port, *(node.port for node in layout.primaries), *(spec.port for spec in layout.gateways)]
    assert len(set(taken)) == len(taken)
    assert [node.port for node in layout_from({}).primaries] == [8443]


@pytest.mark.parametrize("text", ["0", "4", "two", "-1", "1.5", "²"])
def test_a_number_of_nodes_that_cannot_be_is_named(text: str) -> None:
    with pytest.raises(StackError, match=r"^MAZEVAULT_PRIMARIES is"):
        layout_from({"MAZEVAULT_PRIMARIES": text})
