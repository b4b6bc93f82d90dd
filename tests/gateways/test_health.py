"""The health score and its label, checked against numbers worked out by hand from reliability §4.6.

Proven here: each part with its weight, each cap, scaling when a part is not configured; that the score is always in 0..1, is
never NaN and never rises with age or with any fault; that labels move only after the agreed number of judgements.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateways.health import WEIGHTS, Health, HealthFacts, LabelMemory, age_factor, next_label, score
from protocol.timing import SHORT, STANDARD
from protocol.vocabulary import HealthLabel

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
WELL = HealthFacts(
    age_seconds=0.0, database=True, gateway_key_vault=True, project_key_vaults=(True, True, True), cache=True,
    write_queue_depth=0, tasks_succeeded=10, tasks_failed=0, latency_p95_ms=50.0, clock_skew_seconds=0.0,
    certificate_days_left=60.0,
)  # fmt: skip
BARE = HealthFacts(age_seconds=0.0)
"""A gateway of which only queue, tasks and latency are known: weights 0.15, 0.10 and 0.10."""


def of(facts: HealthFacts = WELL, **other: Any) -> Health:
    return score(replace(facts, **other), STANDARD)


class TestScore:
    def test_the_weights_are_those_of_the_specification_and_sum_to_one(self) -> None:
        assert dict(WEIGHTS) == {
            "database": 0.20, "gateway_key_vault": 0.15, "project_key_vaults": 0.15, "write_queue": 0.15, "tasks": 0.10,
            "latency_and_clock": 0.10, "certificate": 0.10, "cache": 0.05,
        }  # fmt: skip
        assert math.fsum(WEIGHTS.values()) == pytest.approx(1.0)

    def test_a_gateway_that_is_well_in_everything_scores_one_and_has_no_complaints(self) -> None:
        assert (of().score, of().caps, of().why) == (1.0, (), ())

    def test_a_gateway_that_was_never_heard_scores_nothing(self) -> None:
        assert of(age_seconds=None) == Health(0.0, {"age": 0.0}, (), ("never heard from",))

    @pytest.mark.parametrize(
        ("facts", "expected"),
        [
            ({"write_queue_depth": 400}, 0.94),  # 1 - 0.15 x 0.4
            ({"write_queue_depth": 1000}, 0.85),
            ({"write_queue_depth": 10_000}, 0.85),
            ({"project_key_vaults": (True, True, False)}, 0.95),  # 1 - 0.15 / 3
            ({"project_key_vaults": (False,)}, 0.85),
            ({"tasks_succeeded": 8, "tasks_failed": 2}, 0.98),  # 1 - 0.10 x 0.2
            ({"tasks_succeeded": 0, "tasks_failed": 5}, 0.90),
            ({"tasks_succeeded": 0, "tasks_failed": 4}, 1.0),  # under five tasks say nothing
            ({"latency_p95_ms": 200.0}, 1.0),
            ({"latency_p95_ms": 1100.0}, 0.95),  # half way from 200 to 2000 ms
            ({"latency_p95_ms": 9000.0}, 0.90),
            ({"latency_p95_ms": None}, 1.0),
            ({"clock_skew_seconds": 30.0}, 1.0),
            ({"clock_skew_seconds": 165.0}, 0.95),  # half way from 30 to 300 s
            ({"clock_skew_seconds": -165.0}, 0.95),
            ({"clock_skew_seconds": 165.0, "latency_p95_ms": 1100.0}, 0.95),  # the worse of the two, not both
            ({"clock_skew_seconds": 300.0, "latency_p95_ms": 1100.0}, 0.90),
            ({"certificate_days_left": 30.0}, 1.0),
            ({"certificate_days_left": 15.0}, 0.95),
            ({"certificate_days_left": 6.0}, 0.92),  # 1 - 0.10 x 0.8
            ({"cache": False}, 0.95),
            ({"age_seconds": 75.0}, 1.0),
            ({"age_seconds": 76.2}, 0.99),  # (195 - 76.2) / 120
            ({"age_seconds": 135.0}, 0.50),
            ({"age_seconds": 193.8}, 0.01),
            ({"age_seconds": 195.0}, 0.0),
            ({"age_seconds": 86_400.0}, 0.0),
            ({"age_seconds": -5.0}, 1.0),
            ({"age_seconds": 165.0, "write_queue_depth": 1000}, 0.21),  # 0.25 x 0.85
            ({"age_seconds": 135.0, "cache": False, "tasks_succeeded": 3, "tasks_failed": 7}, 0.44),  # 0.5 x (1 - 0.05 - 0.07)
        ],
        ids=str,
    )
    def test_each_part_weighs_what_the_specification_says(self, facts: dict[str, Any], expected: float) -> None:
        assert of(**facts).score == expected

    @pytest.mark.parametrize(
        ("facts", "expected", "cap"),
        [
            ({"certificate_days_left": 0.0}, 0.0, "certificate_expired"),
            ({"certificate_days_left": -1.0}, 0.0, "certificate_expired"),
            ({"acts_on_wrong_epoch": True}, 0.1, "wrong_epoch"),
            ({"database": False}, 0.2, "database_down"),
            ({"gateway_key_vault": False}, 0.3, "gateway_key_vault_down"),
            ({"breaker": "open"}, 0.5, "breaker_open"),
            ({"version_supported": False}, 0.5, "version_unsupported"),
        ],
        ids=lambda value: value if isinstance(value, str) else None,
    )
    def test_each_hard_fault_is_a_cap_that_no_average_hides(self, facts: dict[str, Any], expected: float, cap: str) -> None:
        judged = of(**facts)
        assert (judged.score, judged.caps) == (expected, (cap,))
        assert judged.why, "a fault is explained"

    @pytest.mark.parametrize(
        ("facts", "expected", "caps"),
        [
            ({"database": False, "gateway_key_vault": False}, 0.2, ("database_down", "gateway_key_vault_down")),
            ({"breaker": "open", "acts_on_wrong_epoch": True}, 0.1, ("wrong_epoch", "breaker_open")),
            ({"breaker": "open", "age_seconds": 171.0}, 0.2, ("breaker_open",)),  # age alone is below the cap: 24 / 120
            ({"database": False, "age_seconds": 189.0}, 0.04, ("database_down",)),  # 0.05 x 0.8
        ],
    )
    def test_the_lowest_of_score_and_caps_counts(self, facts: dict[str, Any], expected: float, caps: tuple[str, ...]) -> None:
        assert (of(**facts).score, of(**facts).caps) == (expected, caps)

    @pytest.mark.parametrize("breaker", ["closed", "half-open"])
    def test_a_breaker_that_is_not_open_is_no_fault(self, breaker: str) -> None:
        assert of(breaker=breaker).score == 1.0

    @pytest.mark.parametrize(
        ("facts", "expected"),
        [
            ({}, 1.0),
            ({"write_queue_depth": 1000}, 0.57),  # 0.20 / 0.35
            ({"write_queue_depth": 1000, "database": True}, 0.73),  # 0.40 / 0.55
            ({"write_queue_depth": 1000, "database": True, "certificate_days_left": 90.0}, 0.77),  # 0.50 / 0.65
            ({"write_queue_depth": 1000, "cache": False}, 0.5),  # 0.20 / 0.40
        ],
        ids=str,
    )
    def test_what_is_not_configured_is_left_out_and_the_rest_is_scaled(self, facts: dict[str, Any], expected: float) -> None:
        judged = of(BARE, **facts)
        assert judged.score == expected
        assert set(judged.parts) == {"age", "write_queue", "tasks", "latency_and_clock"} | ({*facts} & {"database", "cache"}) | (
            {"certificate"} if "certificate_days_left" in facts else set()
        )

    def test_nothing_cosmetic_alone_makes_a_gateway_unhealthy(self) -> None:
        """Tasks, latency, certificate and cache all at their worst, the data path well: 0.65."""
        assert of(tasks_failed=90, tasks_succeeded=0, latency_p95_ms=9e9, certificate_days_left=1e-9, cache=False).score == 0.65

    def test_the_answer_shows_its_parts_before_weighting(self) -> None:
        judged = of(age_seconds=135.0, write_queue_depth=250, project_key_vaults=(True, False, False), cache=False)
        assert judged.parts == {
            "age": 0.5, "database": 1.0, "gateway_key_vault": 1.0, "project_key_vaults": 0.33, "write_queue": 0.75, "tasks": 1.0,
            "latency_and_clock": 1.0, "certificate": 1.0, "cache": 0.0,
        }  # fmt: skip
        assert judged.why == (
            "last heartbeat 135 s ago", "some project Key Vaults do not answer", "250 writes wait in its queue",
            "its cache does not answer",
        )  # fmt: skip


MAYBE = st.none() | st.booleans()
ANY_NUMBER = st.floats(allow_nan=True, allow_infinity=True)
FACTS = st.builds(
    HealthFacts,
    age_seconds=st.none() | st.floats(0, 400) | ANY_NUMBER,
    database=MAYBE,
    gateway_key_vault=MAYBE,
    project_key_vaults=st.lists(st.booleans(), max_size=5).map(tuple),
    cache=MAYBE,
    write_queue_depth=st.integers(0, 20_000),
    tasks_succeeded=st.integers(0, 1000),
    tasks_failed=st.integers(0, 1000),
    latency_p95_ms=st.none() | st.floats(0, 5000) | ANY_NUMBER,
    clock_skew_seconds=st.floats(-600, 600) | ANY_NUMBER,
    certificate_days_left=st.none() | st.floats(-10, 90) | ANY_NUMBER,
    breaker=st.sampled_from(["closed", "half-open", "open", "unheard of"]),
    acts_on_wrong_epoch=st.booleans(),
    version_supported=st.booleans(),
)


class TestProperties:
    @given(FACTS)
    def test_the_score_and_every_part_are_between_nothing_and_one_and_never_nan(self, facts: HealthFacts) -> None:
        judged = score(facts, STANDARD)
        assert all(0.0 <= value <= 1.0 for value in (judged.score, *judged.parts.values()))

    @given(facts=FACTS, age=st.floats(0, 400), older=st.floats(0, 400))
    def test_the_score_never_rises_with_age(self, facts: HealthFacts, age: float, older: float) -> None:
        assert of(facts, age_seconds=age + older).score <= of(facts, age_seconds=age).score

    @given(
        facts=FACTS.filter(lambda facts: facts.tasks_succeeded + facts.tasks_failed >= 5),
        fault=st.sampled_from(
            ["database", "gateway_key_vault", "cache", "breaker", "epoch", "version", "queue", "tasks", "certificate"]
        ),
    )
    def test_no_fault_ever_raises_the_score(self, facts: HealthFacts, fault: str) -> None:
        """Each part from configured and good to bad, everything else as it is."""
        good, bad = {
            "database": ({"database": True}, {"database": False}),
            "gateway_key_vault": ({"gateway_key_vault": True}, {"gateway_key_vault": False}),
            "cache": ({"cache": True}, {"cache": False}),
            "breaker": ({"breaker": "closed"}, {"breaker": "open"}),
            "epoch": ({"acts_on_wrong_epoch": False}, {"acts_on_wrong_epoch": True}),
            "version": ({"version_supported": True}, {"version_supported": False}),
            "queue": ({}, {"write_queue_depth": facts.write_queue_depth + 100}),
            "tasks": ({}, {"tasks_failed": facts.tasks_failed + 10}),
            "certificate": ({"certificate_days_left": 20.0}, {"certificate_days_left": 10.0}),
        }[fault]
        assert of(facts, **bad).score <= of(facts, **good).score

    @given(facts=FACTS, one=st.floats(0, 5000), more=st.floats(0, 5000), skew=st.floats(0, 600), drift=st.floats(0, 600))
    def test_slower_answers_and_a_worse_clock_never_raise_the_score(
        self, facts: HealthFacts, one: float, more: float, skew: float, drift: float
    ) -> None:
        better = of(facts, latency_p95_ms=one, clock_skew_seconds=skew)
        assert of(facts, latency_p95_ms=one + more, clock_skew_seconds=-(skew + drift)).score <= better.score

    @pytest.mark.parametrize("nothing", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("field", ["latency_p95_ms", "clock_skew_seconds"])
    def test_a_measure_that_is_no_number_counts_as_bad(self, field: str, nothing: float) -> None:
        assert of(**{field: nothing}).score == 0.9


class TestAge:
    @pytest.mark.parametrize(
        ("profile", "age", "factor"),
        [(STANDARD, 0, 1), (STANDARD, 75, 1), (STANDARD, 105, 0.75), (STANDARD, 195, 0), (STANDARD, 196, 0),
         (SHORT, 3.5, 1), (SHORT, 5.75, 0.5), (SHORT, 8, 0)],
    )  # fmt: skip
    def test_an_old_report_proves_less_and_less(self, profile: Any, age: float, factor: float) -> None:
        assert age_factor(age, profile) == pytest.approx(factor)

    def test_an_age_that_is_no_number_proves_nothing(self) -> None:
        assert age_factor(math.nan, STANDARD) == 0.0


HEALTHY, DEGRADED, UNHEALTHY, SILENT = HealthLabel.HEALTHY, HealthLabel.DEGRADED, HealthLabel.UNHEALTHY, HealthLabel.SILENT


def labels(start: HealthLabel, *looks: tuple[float, float]) -> list[HealthLabel]:
    """The label after each look of (second, score), each heartbeat being fresh."""
    memory, seen = LabelMemory(start), []
    for second, value in looks:
        memory = next_label(memory, value, 1.0, NOW + timedelta(seconds=second), STANDARD)
        memory = LabelMemory.from_json(memory.label.value, memory.to_json())  # as it is stored in between
        seen.append(memory.label)
    return seen


def every(interval: float, *values: float) -> list[tuple[float, float]]:
    return [(index * interval, value) for index, value in enumerate(values)]


class TestLabels:
    @pytest.mark.parametrize(
        ("start", "looks", "seen"),
        [
            (HEALTHY, every(60, 0.70, 0.70, 0.70), [HEALTHY] * 3),
            (HEALTHY, every(60, 0.69, 0.69), [HEALTHY, DEGRADED]),
            (HEALTHY, every(60, 0.69, 0.70, 0.69, 0.70), [HEALTHY] * 4),
            (HEALTHY, every(60, 0.0, 0.0), [HEALTHY, DEGRADED]),
            (DEGRADED, every(60, 0.39, 0.39, 0.39), [DEGRADED, DEGRADED, UNHEALTHY]),
            (DEGRADED, every(59, 0.39, 0.39, 0.39, 0.39), [DEGRADED, DEGRADED, DEGRADED, UNHEALTHY]),
            (DEGRADED, every(120, 0.39, 0.39, 0.39), [DEGRADED, DEGRADED, UNHEALTHY]),
            (DEGRADED, every(60, 0.40, 0.40, 0.40, 0.40), [DEGRADED] * 4),
            (DEGRADED, every(60, 0.39, 0.39, 0.40, 0.39, 0.39, 0.39), [DEGRADED] * 5 + [UNHEALTHY]),
            (HEALTHY, every(60, 0.1, 0.1, 0.1, 0.1, 0.1), [HEALTHY, DEGRADED, DEGRADED, DEGRADED, UNHEALTHY]),
            (DEGRADED, every(60, 0.85, 0.85, 0.85, 0.85, 0.85), [DEGRADED] * 4 + [HEALTHY]),
            (DEGRADED, every(60, 0.84, 0.84, 0.84, 0.84, 0.84, 0.84), [DEGRADED] * 6),
            (DEGRADED, every(60, 0.9, 0.9, 0.9, 0.9, 0.84, 0.9), [DEGRADED] * 6),
            (UNHEALTHY, every(60, 1, 1, 1, 1, 1), [UNHEALTHY] * 4 + [HEALTHY]),
            (UNHEALTHY, every(60, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6), [UNHEALTHY] * 6),
            (SILENT, every(60, 0.70), [HEALTHY]),
            (SILENT, every(60, 0.69), [DEGRADED]),
            (SILENT, every(60, 0.1), [DEGRADED]),
        ],
        ids=["0.70 is healthy", "two low looks degrade", "one low look does not", "never two steps at once",
             "three very low ones over two minutes", "three in less than two minutes are too few minutes",
             "two in two minutes are too few looks", "0.40 is not unhealthy", "a pause begins the count anew",
             "all the way down", "five good looks recover", "0.84 is not recovered", "four good looks do not recover",
             "from unhealthy too", "better is not yet good", "back and well", "back and so-so", "back and bad"],
    )  # fmt: skip
    def test_move_only_after_the_agreed_number_of_looks(
        self, start: HealthLabel, looks: list[tuple[float, float]], seen: list[HealthLabel]
    ) -> None:
        assert labels(start, *looks) == seen

    @pytest.mark.parametrize(("age", "label"), [(None, SILENT), (195.0, SILENT), (1e9, SILENT), (194.9, HEALTHY)])
    def test_say_silent_exactly_from_the_age_at_which_nothing_is_known(self, age: float | None, label: HealthLabel) -> None:
        assert next_label(LabelMemory(HEALTHY), 1.0, age, NOW, STANDARD).label is label

    def test_silence_forgets_what_was_counted_before(self) -> None:
        counted = LabelMemory(DEGRADED, below_degraded=9, below_unhealthy=2, above_recovered=0, low_since=0.0)
        assert next_label(counted, 0.0, None, NOW, STANDARD) == LabelMemory(SILENT)

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
    def test_a_healthy_gateway_never_becomes_unhealthy_without_being_degraded_first(self, values: list[float]) -> None:
        seen = [HEALTHY, *labels(HEALTHY, *every(60, *values))]
        assert (HEALTHY, UNHEALTHY) not in pairwise(seen)

    @given(st.lists(st.floats(0.70, 1), max_size=40))
    def test_scores_that_never_fall_below_the_line_never_move_a_healthy_label(self, values: list[float]) -> None:
        assert set(labels(HEALTHY, *every(60, *values))) <= {HEALTHY}


@pytest.mark.parametrize(
    ("skew", "latency", "told"),
    [(0.1, 900.0, "slowest answers of the Primary 900 ms"), (-50.0, 20.0, "clock off by 50.0 s"),
     (50.0, 900.0, "clock off by 50.0 s, slowest answers of the Primary 900 ms"), (float("nan"), 20.0, "clock off by nan s")],
)  # fmt: skip
def test_a_complaint_names_only_what_is_not_good(skew: float, latency: float, told: str) -> None:
    found = of(clock_skew_seconds=skew, latency_p95_ms=latency)
    assert found.why == (told,)


def test_one_that_was_stopped_in_order_scores_nothing_at_once() -> None:
    found = of(stopped=True)
    assert (found.score, found.caps) == (0.0, ("stopped",))
