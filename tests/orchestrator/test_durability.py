"""A node does not start in production on a database that forgets what it confirmed (I7)."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from common.direct import open_connection
from orchestrator.node import preparing
from orchestrator.node.preparing import CannotServe

pytestmark = pytest.mark.django_db


def careless(monkeypatch: Any, value: str) -> None:
    """The database as it is, with this setting in the session that looks; it counts for every session in real life."""

    def connect() -> psycopg.Connection:
        connection = open_connection()
        connection.execute(f"SET synchronous_commit = {value}")
        return connection

    monkeypatch.setattr(preparing, "open_connection", connect)
    monkeypatch.setattr(preparing, "DURABLE", ("synchronous_commit",))


def node(*, production: bool) -> Any:
    return SimpleNamespace(production=production)


def test_production_refuses_and_says_what_to_set(monkeypatch: Any) -> None:
    careless(monkeypatch, "off")
    with pytest.raises(CannotServe, match=r"synchronous_commit=off .* set synchronous_commit to on"):
        preparing.require_durability(node(production=True))


def test_elsewhere_it_warns_and_starts(monkeypatch: Any, caplog: pytest.LogCaptureFixture) -> None:
    careless(monkeypatch, "off")
    with caplog.at_level(logging.WARNING, logger="mazevault.server"):
        preparing.require_durability(node(production=False))
    assert "synchronous_commit=off" in caplog.text


def test_a_database_that_keeps_its_word_is_taken(monkeypatch: Any) -> None:
    careless(monkeypatch, "on")
    preparing.require_durability(node(production=True))


def test_both_settings_are_looked_at() -> None:
    assert preparing.DURABLE == ("fsync", "synchronous_commit")
