"""How a node is, is said within a second: also when what is asked never answers."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from django.test import Client

from common import health
from common.health import Prober, found


def test_an_answer_is_given_and_a_failure_is_a_no() -> None:
    assert found(Prober("well", lambda: True), Prober("ill", lambda: False), Prober("broken", lambda: bool(1 / 0))) == [
        True,
        False,
        False,
    ]


def test_what_never_answers_costs_the_one_who_asks_a_bounded_time_and_one_thread() -> None:
    over = threading.Event()
    silent, well = Prober("silent", lambda: over.wait(30)), Prober("well", lambda: True)
    before, began = threading.active_count(), time.monotonic()
    for _ in range(3):
        assert found(silent, well) == [False, True]
    assert time.monotonic() - began < 3 * (health.WITHIN_SECONDS + 0.3)
    assert threading.active_count() <= before + 1
    over.set()
    time.sleep(0.2)
    assert found(silent) == [True]


def test_a_flood_of_questions_is_one_question() -> None:
    asked: list[int] = []
    prober = Prober("counted", lambda: not asked.append(1))
    for _ in range(20):
        assert found(prober) == [True]
    assert len(asked) <= 3


@pytest.mark.django_db
def test_a_node_with_its_database_and_migrations_is_ready() -> None:
    answer = Client().get("/api/v1/health/ready")
    assert (answer.status_code, answer.json()["status"], answer.json()["reasons"]) == (200, "ok", [])
    assert Client().get("/api/v1/health/live/").json()["status"] == "ok"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("missing", "reason"),
    [("database", "the database does not answer"), ("migrations", "the database lacks migrations of this version")],
)
def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, missing: str, reason: str) -> None:
    monkeypatch.setattr(health, missing, Prober(missing, lambda: False))
    answer = Client().get("/api/v1/health/ready")
    assert answer.status_code == 503 and answer.json()["status"] == "error"
    assert [text[: len(reason)] for text in answer.json()["reasons"]] == [reason]


@pytest.mark.django_db
def test_a_migration_that_was_not_made_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    class More:
        disk_migrations = {("vault", "9999_of_tomorrow"): None}

    monkeypatch.setattr(health, "MigrationLoader", lambda _connection: More)
    assert not health._Migrations().are_made()


@pytest.mark.django_db
def test_health_says_in_its_old_words_what_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def body() -> tuple[int, Any]:
        answer = Client().get("/api/v1/health")
        return answer.status_code, {name: value for name, value in answer.json().items() if name not in ("version", "mode")}

    assert body() == (200, {"status": "ok", "database": "ok", "cache": "ok"})
    monkeypatch.setattr(health, "cache_server", Prober("cache", lambda: False))
    assert body() == (200, {"status": "ok", "database": "ok", "cache": "unreachable"})
    monkeypatch.setattr(health, "database", Prober("database", lambda: False))
    assert body() == (503, {"status": "error", "database": "unreachable", "cache": "unreachable"})
