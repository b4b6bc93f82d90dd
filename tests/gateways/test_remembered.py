"""A database that was put back, and that neither identifier nor timeline shows: what nodes remember tells of it (I1, I4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.db.models import F
from django.db.models.functions import Now

from common.models import AuditEntry
from gateways import generation, remembered
from gateways.models import PrimaryNode, Route
from gateways.remembered import Memory, Seen, has_gone_back
from orchestrator import loops
from tests.fakes.gateway import FakeGateway

Pair = tuple[FakeGateway, FakeGateway]
Back = Callable[[], None]


@pytest.fixture
def snapshot(npr: Pair) -> Back:
    """Puts the database back to where it was: fewer looks, and no word of the leases that were granted since."""
    generation.keep_watch()
    row = PrimaryNode.objects.values("generation", "since", "looks").get(id=1)
    generation.keep_watch()

    def put_back() -> None:
        PrimaryNode.objects.update(**row)
        Route.objects.update(lease_until=Now() - timedelta(days=1))

    return put_back


def test_one_that_was_put_back_blocks_leases_like_any_other_restore(npr: Pair, snapshot: Back) -> None:
    assert npr[0].renew_lease().verdict == "granted"
    snapshot()
    assert generation.look()
    assert npr[0].renew_lease().verdict == "held"
    told = AuditEntry.objects.get(action="primary.database.changed").details
    assert told["looks"] < told["looks_before"] and told["timeline"] == told["timeline_before"]
    assert not generation.look(), "once"


def test_nodes_that_notice_the_same_begin_one_new_life(snapshot: Back, monkeypatch: pytest.MonkeyPatch) -> None:
    second = Memory()
    PrimaryNode.objects.update(since=F("since") + timedelta(hours=1))  # the clock was an hour ahead in that life
    generation.memory.forget()
    generation.keep_watch()
    seen = generation.memory.seen()
    assert seen is not None
    second.keep(seen)
    snapshot()
    assert generation.look()
    life = PrimaryNode.objects.get(id=1).generation
    monkeypatch.setattr(generation, "memory", second)
    assert not generation.look() and PrimaryNode.objects.get(id=1).generation == life


def test_one_from_before_a_life_that_was_known_is_noticed_however_often_it_was_looked_at(npr: Pair) -> None:
    """A dump of the time before the last restore, read back into the same server."""
    generation.look()
    before = PrimaryNode.objects.values("generation", "since").get(id=1)
    PrimaryNode.objects.update(timeline=99)
    assert generation.look()
    PrimaryNode.objects.update(**before, looks=1_000_000)
    assert generation.look()


def test_a_node_that_was_stopped_for_it_knows_it_from_its_folder(
    snapshot: Back, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "MAZEVAULT", replace(settings.MAZEVAULT, tls_directory=tmp_path))
    generation.keep_watch()
    assert (tmp_path / remembered.NAME).stat().st_mode & 0o777 == 0o600
    generation.memory.forget()
    assert not generation.look(), "a restart alone is none"
    generation.memory.forget()
    snapshot()
    assert generation.look()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"life": 1}'])
def test_a_file_that_says_nothing_is_nothing(npr: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(settings, "MAZEVAULT", replace(settings.MAZEVAULT, tls_directory=tmp_path))
    (tmp_path / remembered.NAME).write_text(text)
    assert not generation.look()


def test_a_folder_that_is_not_there_is_not_made(npr: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "MAZEVAULT", replace(settings.MAZEVAULT, tls_directory=tmp_path / "none"))
    generation.keep_watch()
    assert not (tmp_path / "none").exists()


def test_other_nodes_that_count_too_show_nothing(npr: Pair) -> None:
    for _ in range(3):
        assert not generation.keep_watch()
        PrimaryNode.objects.update(looks=F("looks") + 2)
    assert generation.keep_watch in [use_case for _, use_case, _ in loops.LOOPS]


@pytest.mark.parametrize(
    ("found", "gone_back"),
    [(Seen("a", 10, 7), False), (Seen("a", 10, 8), False), (Seen("a", 10, 6), True), (Seen("b", 11, 0), False),
     (Seen("b", 9, 99), True), (Seen("b", 10, 99), True)],
)  # fmt: skip
def test_fewer_looks_or_an_earlier_life_show_it(found: Seen, gone_back: bool) -> None:
    assert has_gone_back(Seen("a", 10, 7), found) is gone_back
    assert not has_gone_back(None, found)
