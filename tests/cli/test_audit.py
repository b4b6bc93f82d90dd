"""`./mazevault audit export` goes where it is told, by an option or not, and says what to do when it is not told."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import audit


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were written to."""
    found: list[Path] = []
    monkeypatch.setattr(audit, "_running_nodes", lambda: {"primary": {}})
    monkeypatch.setattr(audit, "_export", lambda _environment, out, _form: found.append(out) or "written")
    return found


@pytest.mark.parametrize("words", [["there"], ["--out", "there"], ["there", "--out", "there"]])
def test_the_folder_is_named_either_way(exported: list[Path], words: list[str]) -> None:
    told = CliRunner().invoke(audit.app, ["export", *words])
    assert (told.exit_code, exported) == (0, [Path("there")]), told.output


def test_without_a_folder_it_says_what_to_do(exported: list[Path]) -> None:
    told = CliRunner().invoke(audit.app, ["export"])
    assert told.exit_code == 1 and exported == []
    assert "./mazevault audit export FOLDER" in told.output and "standard output" in told.output
    assert CliRunner().invoke(audit.app, ["export", "here", "--out", "there"]).exit_code == 1
