"""docs/invariants.md names places and tests that exist, and every number that code cites stands in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli.stack.layout import ROOT

TEXT = (ROOT / "docs" / "invariants.md").read_text()
PACKAGES = ("accounts", "common", "failover", "gateway_runtime", "gateways", "integrations", "orchestrator", "protocol", "tests",
            "vault")  # fmt: skip
ENTRIES = dict(re.findall(r"^\*\*(I\d+)\*\* (.*?)(?=^\*\*I|^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))


def named(entry: str) -> list[str]:
    return re.findall(r"`([\w/]+\.py(?:::\w+)?)`", entry)


def test_there_are_twenty() -> None:
    assert list(ENTRIES) == [f"I{number}" for number in range(1, 21)]


@pytest.mark.parametrize("number", ENTRIES)
def test_each_names_code_that_holds_it_and_tests_that_exist(number: str) -> None:
    places = named(ENTRIES[number])
    tests = [place for place in places if place.startswith("tests/")]
    assert tests and len(tests) < len(places)
    for place in places:
        path, _, test = place.partition("::")
        assert (ROOT / path).is_file(), place
        assert not test or re.search(rf"def {test}\b", (ROOT / path).read_text()), place


def test_what_code_and_tests_cite_is_described() -> None:
    cited = set[str]()
    for folder in (
        "accounts",
        "common",
        "failover",
        "gateway_runtime",
        "gateways",
        "integrations",
        "orchestrator",
        "protocol",
        "tests",
        "vault",
    ):
        for path in Path(ROOT / folder).rglob("*.py"):
            cited |= set(re.findall(r"\bI(?:1?\d|20)\b", path.read_text()))
    assert cited and cited <= ENTRIES.keys()
