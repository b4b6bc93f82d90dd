"""Where the master key and the one before it come from, and what is said about a wrong one."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from orchestrator.environment import EnvironmentMistake, Settings, load

ONE, OTHER = base64.b64encode(b"1" * 32).decode(), base64.b64encode(b"2" * 32).decode()
BASE = {"DATABASE_URL": "postgresql://u@/d", "MAZEVAULT_SESSION_SECRET": "s" * 40, "MAZEVAULT_MASTER_KEY": ONE}


def test_there_is_no_previous_key_unless_it_is_told() -> None:
    assert load(BASE).previous_master_key is None
    assert load(BASE).former_master_keys == ()


@pytest.mark.parametrize("text", [OTHER, f"base64:{OTHER}"])
def test_the_previous_key_comes_from_a_variable_or_a_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "previous"
    file.write_text(text + "\n")
    for more in ({"MAZEVAULT_MASTER_KEY_PREVIOUS": text}, {"MAZEVAULT_MASTER_KEY_PREVIOUS_FILE": str(file)}):
        assert load({**BASE, **more}).previous_master_key == b"2" * 32


@pytest.mark.parametrize("text", ["x", base64.b64encode(b"short").decode(), "base64:"])
@pytest.mark.parametrize("name", ["MAZEVAULT_MASTER_KEY", "MAZEVAULT_MASTER_KEY_PREVIOUS"])
def test_a_wrong_key_is_named_and_not_shown(name: str, text: str) -> None:
    with pytest.raises(EnvironmentMistake, match=name) as caught:
        load({**BASE, name: text})
    assert len(text) < 3 or text not in str(caught.value)


def test_no_key_is_in_what_a_node_prints_of_itself() -> None:
    node = load({**BASE, "MAZEVAULT_MASTER_KEY_PREVIOUS": OTHER})
    assert isinstance(node, Settings)
    assert "1111" not in repr(node) and "2222" not in repr(node)
