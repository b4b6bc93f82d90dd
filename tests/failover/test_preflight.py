"""May this environment be moved? Every check at its boundary, with its level, and what a move would cost (reliability §4.5).

Proven here: each fact fails exactly its own check; a dead primary stops no failover, but an unwell one stops a failback; a plan's
digest changes exactly when an outcome that matters does, so that a stale plan is noticed (DESIGN §8).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.preflight import (
    Check,
    Level,
    MoveFacts,
    SideFacts,
    as_rows,
    digest,
    estimate,
    failback_checks,
    failed,
    failover_checks,
)
from integrations.sync.copy_state import CopyState
from protocol.timing import SHORT, STANDARD

TARGET = SideFacts(
    name="gw-npr-dr", banned=False, held=False, age=12.0, score=0.98, good_beats=9, stable_for=900.0, certificate_days=60.0,
    version="1.4.0", queue_depth=0, queue_oldest=0.0, key_vault=True, copy_age=1.0,
)  # fmt: skip
SOURCE = replace(TARGET, name="gw-npr-primary")
FACTS = MoveFacts(source=SOURCE, target=TARGET, target_role="dr-standby", since_switch=86_400.0, lease_seconds=30.0)
HARD, WAIVABLE, INFO = Level.HARD, Level.WAIVABLE, Level.INFO
BOTH_WAYS = pytest.mark.parametrize("checks_of", [failover_checks, failback_checks], ids=["failover", "failback"])
CHECKS_OF = {"failover": failover_checks, "failback": failback_checks}


def facts(target: dict[str, Any] | None = None, source: dict[str, Any] | None = None, **other: Any) -> MoveFacts:
    return replace(FACTS, target=replace(TARGET, **target or {}), source=replace(SOURCE, **source or {}), **other)


def not_passed(checks: list[Check]) -> list[tuple[str, Level]]:
    return [(check.name, check.level) for check in checks if not check.passed]


class TestChecks:
    @BOTH_WAYS
    def test_all_pass_when_all_is_well(self, checks_of: Any) -> None:
        assert not_passed(checks_of(FACTS, STANDARD)) == []

    def test_a_failover_and_a_failback_look_at_these_things(self) -> None:
        """The names are what plans, waivers and runbooks refer to."""
        shared = {
            ("target_enrolled", HARD), ("target_allowed", HARD), ("target_heartbeat", HARD), ("target_certificate", HARD),
            ("same_version", WAIVABLE), ("cooldown", WAIVABLE), ("source_queue", WAIVABLE),
        }  # fmt: skip
        over = {(check.name, check.level) for check in failover_checks(FACTS, STANDARD)}
        back = {(check.name, check.level) for check in failback_checks(FACTS, STANDARD)}
        assert over == shared | {("target_score", WAIVABLE), ("target_key_vault", WAIVABLE), ("target_copy", WAIVABLE)}
        assert back == shared | {
            ("target_score", HARD), ("target_queue", HARD), ("target_dead_letters", WAIVABLE), ("target_stable", WAIVABLE),
            ("target_copy", HARD), ("target_conflicts", WAIVABLE),
        }  # fmt: skip

    @BOTH_WAYS
    @pytest.mark.parametrize(
        ("moved", "check"),
        [
            (facts({"banned": True}), ("target_allowed", HARD)),
            (facts({"held": True}), ("target_allowed", HARD)),
            (facts({"age": None}), ("target_heartbeat", HARD)),
            (facts({"age": 90.0}), ("target_heartbeat", HARD)),
            (facts({"certificate_days": None}), ("target_certificate", HARD)),
            (facts({"certificate_days": 1.0}), ("target_certificate", HARD)),
            (facts({"certificate_days": -3.0}), ("target_certificate", HARD)),
            (facts({"version": "1.5.0"}), ("same_version", WAIVABLE)),
            (facts({"version": "2.4.0"}), ("same_version", WAIVABLE)),
            (facts(since_switch=899.9), ("cooldown", WAIVABLE)),
            (facts(source={"queue_depth": 1, "queue_oldest": 30.0}), ("source_queue", WAIVABLE)),
            (facts({"answers": False}), ("target_answers", HARD)),
        ],
        ids=["banned", "held", "never heard", "heard too long ago", "no certificate", "a day of certificate", "ended certificate",
             "other minor version", "other major version", "moved lately", "writes wait at the source", "no sign of life"],
    )  # fmt: skip
    def test_each_fact_fails_exactly_its_own_check(self, checks_of: Any, moved: MoveFacts, check: tuple[str, Level]) -> None:
        assert not_passed(checks_of(moved, STANDARD)) == [check]

    @pytest.mark.parametrize(
        ("way", "moved", "check"),
        [
            ("failover", facts({"score": 0.69}), ("target_score", WAIVABLE)),
            ("failback", facts({"score": 0.69}), ("target_score", HARD)),
            ("failover", facts({"key_vault": False}), ("target_key_vault", WAIVABLE)),
            ("failback", facts({"queue_depth": 1}), ("target_queue", HARD)),
            ("failover", facts({"copy_age": None}), ("target_copy", WAIVABLE)),
            ("failover", facts({"copy_age": 75.1}), ("target_copy", WAIVABLE)),
            ("failback", facts({"copy_age": None}), ("target_copy", HARD)),
            ("failback", facts({"unapplied_writes": 1}), ("target_queue", HARD)),
            ("failback", facts({"undecided_writes": 1}), ("target_conflicts", WAIVABLE)),
            ("failback", facts({"recent_dead_letters": 1}), ("target_dead_letters", WAIVABLE)),
            ("failback", facts({"good_beats": 4}), ("target_stable", WAIVABLE)),
            ("failback", facts({"stable_for": 299.9}), ("target_stable", WAIVABLE)),
        ],
    )
    def test_what_only_one_way_asks_for(self, way: str, moved: MoveFacts, check: tuple[str, Level]) -> None:
        assert not_passed(CHECKS_OF[way](moved, STANDARD)) == [check]

    @BOTH_WAYS
    @pytest.mark.parametrize(
        "moved",
        [
            facts({"age": 89.9}),
            facts({"score": 0.70}),
            facts({"certificate_days": 1.01}),
            facts({"version": "1.4.9"}),
            facts({"good_beats": 5, "stable_for": 300.0}),
            facts({"key_vault": None}),
            facts(since_switch=900.0),
            facts(since_switch=None),
        ],
        ids=["heard just in time", "just well enough", "just over a day", "other patch version", "just stable", "no vault",
             "just cooled down", "never moved"],
    )  # fmt: skip
    def test_a_fact_on_the_good_side_of_its_line_stops_nothing(self, checks_of: Any, moved: MoveFacts) -> None:
        assert not_passed(checks_of(moved, STANDARD)) == []

    @pytest.mark.parametrize(
        "source",
        [
            {"age": None, "score": 0.0, "good_beats": 0},
            {"age": 1e9, "score": 0.0},
            {"banned": True, "held": True},
            {"certificate_days": -1.0},
            {"key_vault": False},
        ],
        ids=["never heard", "silent for years", "banned and held", "certificate ended", "vault gone"],
    )
    def test_a_dead_primary_stops_no_failover(self, source: dict[str, Any]) -> None:
        assert not_passed(failover_checks(facts(source=source), STANDARD)) == []

    @BOTH_WAYS
    def test_an_environment_without_an_active_gateway_can_still_move(self, checks_of: Any) -> None:
        checks = checks_of(replace(FACTS, source=None), STANDARD)
        assert not_passed(checks) == []
        assert "source_queue" not in {check.name for check in checks}

    @BOTH_WAYS
    def test_without_a_target_there_is_one_hard_check_that_says_what_to_do(self, checks_of: Any) -> None:
        (check,) = checks_of(replace(FACTS, target=None), STANDARD)
        assert (check.name, check.level, check.passed) == ("target_enrolled", HARD, False)
        assert "dr-standby" in check.sentence and "bootstrap token" in check.fix

    @BOTH_WAYS
    def test_the_lines_are_those_of_the_time_profile(self, checks_of: Any) -> None:
        fresh_by_standard = facts({"age": 12.0})
        assert ("target_heartbeat", HARD) in not_passed(checks_of(fresh_by_standard, SHORT))
        assert not_passed(checks_of(facts({"age": 5.9}, since_switch=10.0), SHORT)) == []

    @BOTH_WAYS
    def test_every_check_that_can_stop_a_move_says_how_to_make_it_pass(self, checks_of: Any) -> None:
        worst = facts({"banned": True, "age": None, "certificate_days": None, "score": 0.0, "version": "9.9", "key_vault": False,
                       "queue_depth": 7, "good_beats": 0}, {"queue_depth": 3}, since_switch=0.0)  # fmt: skip
        for check in checks_of(worst, STANDARD):
            assert check.sentence
            assert check.fix or check.passed or check.level is INFO, check.name


class TestSentences:
    """Each says one thing, and not the opposite beside it."""

    def test_a_copy_that_was_not_complete_is_not_given_an_age(self) -> None:
        check = next(one for one in failover_checks(facts({"copy_age": None}), STANDARD) if one.name == "target_copy")
        assert check.sentence == "the copy of gw-npr-dr was not complete when it last spoke"

    def test_a_vault_copy_that_was_never_complete_is_not_given_an_age(self) -> None:
        copy = CopyState(rule="r", target="kv-dr", allowed=300.0, lag=None, left_out=0, pushes=True, paused=False)
        check = next(one for one in failover_checks(facts(vault_copies=(copy,)), STANDARD) if one.name.startswith("vault_copy"))
        assert check.sentence == "the copy in kv-dr was never complete"

    def test_a_queue_is_told_with_its_count_its_age_and_what_the_move_does(self) -> None:
        late = facts(source={"queue_depth": 5, "queue_oldest": 340.0})
        check = next(one for one in failover_checks(late, STANDARD) if one.name == "source_queue")
        assert check.sentence == "5 accepted writes of gw-npr-primary have not arrived here, the oldest 340 s old"
        assert "at most 60 s" in check.fix and "waive source_queue" in check.fix

    def test_undecided_writes_are_told_with_what_happens_to_them(self) -> None:
        check = next(one for one in failback_checks(facts({"undecided_writes": 3}), STANDARD) if one.name == "target_conflicts")
        assert "3 writes" in check.sentence and "stay where they are" in check.sentence


class TestFailed:
    CHECKS = [Check(f"{level.value}-{passed}", level, passed, "…") for level in Level for passed in (True, False)]

    @pytest.mark.parametrize("level", Level)
    def test_picks_what_did_not_pass_at_one_level(self, level: Level) -> None:
        assert [check.name for check in failed(self.CHECKS, level)] == [f"{level.value}-False"]

    def test_rows_for_history_hold_every_field(self) -> None:
        assert as_rows([Check("cooldown", WAIVABLE, False, "moved lately", "wait")]) == [
            {"name": "cooldown", "level": "waivable", "passed": False, "sentence": "moved lately", "fix": "wait"}
        ]


class TestEstimate:
    @pytest.mark.parametrize(
        ("source", "lease_seconds", "seconds", "way"),
        [
            ({"age": 5.0}, 30.0, 2.0, "the active gateway confirms"),
            ({"age": 75.0}, 30.0, 2.0, "the active gateway confirms"),
            ({"age": 75.1}, 30.0, 32.5, "the lease of the active gateway runs out"),  # 30 + 1.45 + 1, to a tenth
            ({"age": None}, 45.0, 47.5, "the lease of the active gateway runs out"),
            ({"age": 5.0, "banned": True}, 45.0, 47.5, "the lease of the active gateway runs out"),
            ({"age": 500.0}, -400.0, 2.5, "the lease of the active gateway runs out"),
            ({"age": 20.0, "answers": False}, 30.0, 32.5, "the lease of the active gateway runs out"),
            ({"age": 80.0, "answers": True}, 30.0, 2.0, "the active gateway confirms"),
        ],
        ids=[
            "fresh",
            "just fresh",
            "just silent",
            "never heard",
            "banned",
            "lease long gone",
            "killed a moment ago",
            "late with its heartbeat and alive",
        ],
    )
    def test_tells_how_long_nobody_would_be_active(
        self, source: dict[str, Any], lease_seconds: float, seconds: float, way: str
    ) -> None:
        made = estimate(facts(source=source, lease_seconds=lease_seconds), STANDARD)
        assert made.seconds_to_serve == pytest.approx(seconds, abs=0.051)
        assert made.way == way

    def test_tells_what_exists_only_at_the_source(self) -> None:
        made = estimate(facts(source={"queue_depth": 12, "queue_oldest": 340.5}), STANDARD)
        assert (made.writes_at_risk, made.oldest_write_seconds) == (12, 340.5)

    def test_without_a_source_nothing_is_at_risk(self) -> None:
        made = estimate(replace(FACTS, source=None, lease_seconds=0.0), STANDARD)
        assert (made.writes_at_risk, made.oldest_write_seconds) == (0, 0.0)


class TestDigest:
    def of(self, moved: MoveFacts, epoch: int = 7) -> str:
        return digest(moved, failover_checks(moved, STANDARD), epoch)

    @pytest.mark.parametrize(
        "moved",
        [facts({"age": 13.0}), facts({"score": 0.8}), facts(since_switch=90_000.0), facts(source={"queue_depth": 500}),
         facts(lease_seconds=1.0), facts({"answers": True})],
        ids=["a second later", "a little worse", "later still", "writes that are waited for", "lease runs down", "asked again"],
    )  # fmt: skip
    def test_stays_while_no_outcome_changes(self, moved: MoveFacts) -> None:
        assert self.of(moved) == self.of(FACTS)

    @pytest.mark.parametrize(
        "moved",
        [facts({"name": "gw-npr-dr-2"}), facts(source={"name": "gw-npr-other"}), replace(FACTS, source=None),
         replace(FACTS, target=None), facts({"age": 90.0}), facts({"score": 0.5}), facts({"held": True}),
         facts(since_switch=1.0)],
        ids=["other target", "other source", "no source", "no target", "silent target", "unwell target", "held target",
             "moved meanwhile"],
    )  # fmt: skip
    def test_changes_when_the_world_moved(self, moved: MoveFacts) -> None:
        assert self.of(moved) != self.of(FACTS)

    @given(one=st.integers(0, 2**40), other=st.integers(0, 2**40))
    def test_belongs_to_one_epoch(self, one: int, other: int) -> None:
        assert (self.of(FACTS, one) == self.of(FACTS, other)) is (one == other)
