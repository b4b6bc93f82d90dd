"""The ratios that are promised: judged from one run, shown as table and chart, and a peer that is absent fails nothing."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from benchmarks import __main__ as bench
from benchmarks import report
from benchmarks.goals import GOALS, NOT_MEASURED, number_at, outcomes


def results(lease: float, keepalive: float | str) -> dict[str, Any]:
    etcd = keepalive if isinstance(keepalive, str) else {"version": "3.5", "lease_keepalive": {"per_second": keepalive}}
    return {"lane": {"primary": {"lease": {"per_second": lease, "p99_ms": 3.0}}, "peers": {"etcd": etcd}}}


@pytest.mark.parametrize(
    ("lease", "verdict", "status"), [(2000.0, "moonshot", 0), (700.0, "holds", 0), (400.0, "below", 0), (290.0, "below", 1)]
)
def test_a_ratio_is_judged_against_what_must_be_and_the_check_leaves_a_margin(lease: float, verdict: str, status: int) -> None:
    run = results(lease, 2000.0)
    found = next(one for one in outcomes(run) if one.goal.other.endswith("lease_keepalive"))
    assert (found.ratio, found.verdict) == (lease / 2000.0, verdict)
    assert bench.judged(run) == status


def test_an_absent_peer_is_named_and_fails_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.judged(results(1.0, "not measured: etcd is not on the PATH")) == 0
    assert "| not measured |" in capsys.readouterr().err
    assert {one.verdict for one in outcomes({})} == {NOT_MEASURED}


def test_every_goal_asks_for_less_in_the_check_than_it_must_reach() -> None:
    assert all(0 < goal.check < goal.must < goal.moonshot for goal in GOALS)
    assert len({(goal.ours, goal.other) for goal in GOALS}) == len(GOALS)


@pytest.mark.parametrize(("path", "number"), [("a.b", 3.0), ("a", None), ("a.c", None), ("a.b.c", None), ("x", 5.0), ("t", None)])
def test_a_figure_is_found_by_its_path_or_not_at_all(path: str, number: float | None) -> None:
    assert number_at({"a": {"b": {"per_second": 3}}, "x": 5, "t": "text"}, path) == number


def test_the_chart_is_an_image_with_a_row_for_each_goal() -> None:
    image = ElementTree.fromstring(report.chart(outcomes(results(700.0, 2000.0))))  # noqa: S314  made here
    texts = [one.text for one in image.iter("{http://www.w3.org/2000/svg}text")]
    assert all(goal.title in texts for goal in GOALS)
    assert len(list(image.iter("{http://www.w3.org/2000/svg}rect"))) == 1 and texts.count("not measured") == len(GOALS) - 1
