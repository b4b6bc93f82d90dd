"""How the suite is run: `make test-fast` has a part of every package's tests, and a group of tests stays on one worker."""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadGroupScheduling  # type: ignore[import-untyped]

from cli.stack.layout import ROOT
from tests.plugin import name_groups

TESTS = ROOT / "tests"
WHOLE = {
    "deploy": "needs Terraform's binary",
    "fakes": "holds no tests",
    "journeys": "real processes, which take minutes",
}
"""Folders that only `make test` runs."""


def named() -> list[str]:
    return (TESTS / "fast.txt").read_text().splitlines()


def test_what_is_named_exists_once() -> None:
    missing = [line for line in named() if not (ROOT / line.split("::")[0]).exists()]
    assert not missing and len(set(named())) == len(named())


def test_every_folder_of_tests_has_a_part_in_it() -> None:
    folders = {path.name for path in TESTS.iterdir() if (path / "__init__.py").exists()}
    assert {line.split("/")[1] for line in named()} == folders - set(WHOLE)


def test_a_group_is_kept_on_one_worker(request: pytest.FixtureRequest) -> None:
    """Journeys share a stack and the machine; pytest-xdist finds the group behind the name of each test."""
    own = request.node._id
    request.node.add_marker(pytest.mark.xdist_group("journeys"))
    try:
        name_groups([request.node])
        name_groups([request.node])
        assert LoadGroupScheduling._split_scope(None, request.node.nodeid) == "journeys"
    finally:
        request.node._id = own
