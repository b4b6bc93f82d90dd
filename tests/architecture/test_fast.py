"""`make test-fast` runs a part of every package's tests, and what it names is there."""

from __future__ import annotations

from cli.stack.layout import ROOT

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
