"""A gateway's state file under a new master key."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from gateway_runtime.identity import Identity, Keys, StateFileBroken, load, store

OLD, NEW, OTHER = b"1" * 32, b"2" * 32, b"3" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    identity = Identity(
        gateway_id="g", name="gw-npr-primary", environment="NPR", role="primary", generation=uuid.uuid4(), token_id="t",
        urls=("https://localhost",), pin="p", root="r", certificate="c", chain="h", server_certificate="s", keys=Keys.generate(),
    )  # fmt: skip
    store(tmp_path / "state.json", identity, OLD)
    return tmp_path / "state.json"


def signing(identity: Identity | None) -> bytes:
    assert identity is not None
    return identity.keys.signing.private_bytes_raw()


def test_a_file_of_the_former_key_opens_and_is_written_under_the_new_one(path: Path) -> None:
    before = signing(load(path, OLD))
    assert signing(load(path, NEW, OLD)) == before
    assert signing(load(path, NEW)) == before
    with pytest.raises(StateFileBroken):
        load(path, OLD)


def test_a_file_that_is_under_the_new_key_already_stays_as_it_is(path: Path) -> None:
    text = path.read_text()
    load(path, OLD, OTHER)
    assert path.read_text() == text


def test_a_file_of_neither_key_is_refused_and_left_alone(path: Path) -> None:
    text = path.read_text()
    with pytest.raises(StateFileBroken):
        load(path, NEW, OTHER)
    assert path.read_text() == text
