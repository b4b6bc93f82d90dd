"""Rules and dashboards ask for what nodes expose, each alert has a page, and Prometheus' own tools agree."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from accounts.models import ClientSecretWatch
from cli.stack.layout import ROOT
from common.clock import now
from common.retention import note_removed
from gateway_runtime import api
from gateway_runtime.models import WriteTally as OwnTally
from gateways import metrics as metrics_of_fleet
from gateways.dispatch import DURATION_BUCKETS
from gateways.models import DurationTally, Gateway, TaskTally, WriteTally
from integrations import tallies
from integrations.models import OperationTally
from orchestrator import metrics, workers_seen
from protocol.timing import STANDARD
from tests.deploy.promql import names_of
from tests.deploy.tools import tool
from tests.gateway_runtime.conftest import Site, as_gateway, site  # noqa: F401  fixtures

FOLDER = ROOT / "deploy" / "observability"
RULES, TESTS, DASHBOARDS = FOLDER / "rules", FOLDER / "tests", FOLDER / "dashboards"
PAGE = ROOT / "docs" / "operations" / "monitoring.md"
SEVERITIES = {"critical", "warning", "info"}
OF_THE_SCRAPER = {"job", "instance"}
IN_DAYS = 'use base unit "seconds" instead of "days"'
"""Of the three names that end in `days_left`: their thresholds are days."""
Series = dict[str, set[str]]
"""Names of series with all labels they have."""


def alerts() -> list[dict[str, Any]]:
    files = [yaml.safe_load(path.read_text()) for path in sorted(RULES.glob("*.yaml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def dashboards() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def expressions() -> Iterator[tuple[str, str]]:
    """(where, expression) of every query of ours."""
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for name, board in dashboards().items():
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}", target["expr"]
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
                assert asked, variable
                yield f"{name}: ${variable['name']}", f"sum by ({asked[2]}) ({asked[1]})"


def series_of(text: str) -> Series:
    found: Series = {}
    for family in text_string_to_metric_families(text):
        assert family.samples, f"{family.name} has no series here, so nobody knows its labels; fill it in this test"
        for one in family.samples:
            found.setdefault(one.name, set()).update(one.labels)
    return found


def fill() -> None:
    """One row of each thing that is counted, so that every family has a series."""
    Gateway.objects.filter(role="dr-standby").update(standby_mode="cold")
    gateway = Gateway.objects.get(role="primary")
    TaskTally.objects.update_or_create(environment_id="NPR", status="succeeded", defaults={"total": 1})
    WriteTally.objects.update_or_create(environment_id="NPR", outcome="applied", defaults={"total": 1})
    DurationTally.objects.create(gateway=gateway, upper_bound=str(float(DURATION_BUCKETS[0])), total=1, seconds=1)
    OperationTally.objects.create(operation=tallies.SYNC, kind="put", result="done", total=1)
    OperationTally.objects.create(operation="rotation", kind="", result="done", total=1)
    ClientSecretWatch.objects.create(id=1, ends_at=now() + timedelta(days=90), source="", detail="", looked_at=now())
    note_removed("gateways_task", 1)
    OwnTally.objects.create(outcome="applied", total=1)


@pytest.fixture
def scrapes(npr: object, site: Site, monkeypatch: pytest.MonkeyPatch) -> tuple[Series, Series]:  # noqa: F811
    """What a Primary and what a gateway expose."""
    fill()
    kept: dict[str, Any] = {}
    redis = SimpleNamespace(get=kept.get, set=lambda key, value, _: kept.update({key: value}))
    monkeypatch.setattr(workers_seen, "cache", redis)
    monkeypatch.setattr(workers_seen, "_own", lambda: redis)
    monkeypatch.setattr(workers_seen, "_prober", workers_seen.health.Prober("workers", workers_seen._look))
    workers_seen.leave_word()
    monkeypatch.setattr(site.supervisor, "certificate_expires_at", lambda: now() + timedelta(days=60))
    return series_of(metrics.exposition().decode()), series_of(api.exposition().decode())


def merged(*scrapes: Series) -> Series:
    return {name: set().union(*(one.get(name, set()) for one in scrapes)) for name in set().union(*scrapes)}


def strange(expression: str, exposed: Mapping[str, set[str]]) -> set[str]:
    """What an expression names and nobody exposes."""
    names, labels = names_of(expression)
    known = OF_THE_SCRAPER.union(*(exposed.get(name, set()) for name in names))
    return {name for name in names if name not in exposed and name != "up"} | (labels - known)


def test_every_query_names_metrics_and_labels_that_nodes_expose(scrapes: tuple[Series, Series]) -> None:
    exposed, asked = merged(*scrapes), list(expressions())
    assert len(asked) > 60
    assert [(where, found) for where, expression in asked if (found := strange(expression, exposed))] == []
    assert strange('sum by (gatway) (mazevault_gateway_heath_score{role="x"})', exposed) == {
        "mazevault_gateway_heath_score", "gatway", "role",
    }  # fmt: skip


def test_annotations_name_labels_that_the_alert_has(scrapes: tuple[Series, Series]) -> None:
    exposed = merged(*scrapes)
    for rule in alerts():
        names, _ = names_of(rule["expr"])
        named = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        assert named <= OF_THE_SCRAPER.union(*(exposed.get(name, set()) for name in names)), rule["alert"]


def test_the_page_lists_every_metric_with_its_labels(scrapes: tuple[Series, Series]) -> None:
    table: dict[str, set[str]] = {}
    row = re.compile(r"^\| `(mazevault_\w+)` \|([^|]*)\|", re.MULTILINE)
    last: set[str] = set()
    for name, labels in row.findall(PAGE.read_text()):
        last = last if labels.strip() == "the same" else set(re.findall(r"`(\w+)`", labels))
        table.setdefault(name, set()).update(last)
    exposed: dict[str, set[str]] = {}
    for name, labels in merged(*scrapes).items():
        exposed.setdefault(re.sub(r"_(bucket|count|sum)$", "", name), set()).update(labels)
    assert table == exposed


def test_every_alert_says_how_bad_it_is_what_to_do_and_where_it_is_explained() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE.read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names) >= 26
    for rule in alerts():
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert rule["labels"]["severity"] in SEVERITIES, rule["alert"]
        assert rule["annotations"]["summary"] and "Next: " in rule["annotations"]["description"], rule["alert"]
        assert ROOT / page == PAGE and anchor in anchors, rule["alert"]


def test_the_five_thresholds_of_the_product_s_page_are_rules() -> None:
    texts = {rule["alert"]: (rule["expr"], rule.get("for")) for rule in alerts()}
    assert texts["MazeVaultHeartbeatFailures"] == ("mazevault_gateway_heartbeat_failures > 3", None)
    assert texts["MazeVaultWriteQueueLarge"] == ("mazevault_gateway_write_queue_size > 1000", None)
    assert texts["MazeVaultCircuitBreakerOpen"][0].endswith("circuit_breaker_state[1m]) == 2")
    assert "keyvault_denied_total[10m]) > 0" in texts["MazeVaultKeyVaultDenied"][0]
    assert texts["MazeVaultGatewaySilent"][0].startswith(f"{metrics_of_fleet.HEARTBEAT_AGE} > {STANDARD.heartbeat_zero_age:g}\n")
    assert texts["MazeVaultCertificateEnding"][0] == "mazevault_gateway_certificate_days_left < 30"


def test_every_alert_has_a_case_where_it_fires_and_one_where_it_does_not() -> None:
    fires, rests = set[str](), set[str]()
    for path in TESTS.glob("*.yaml"):
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test["alert_rule_test"]:
                (fires if case["exp_alerts"] else rests).add(case["alertname"])
    assert fires == rests == {rule["alert"] for rule in alerts()}


def test_dashboards_can_be_imported_side_by_side() -> None:
    boards = dashboards()
    assert set(boards) == {"fleet", "gateway", "failover", "writes", "key-vault", "certificates"}
    assert len({board["uid"] for board in boards.values()}) == len({board["title"] for board in boards.values()}) == len(boards)
    for board in boards.values():
        names = {variable["name"] for variable in board["templating"]["list"]}
        used = set(re.findall(r"\$\{?(\w+)", json.dumps([panel["targets"] for panel in board["panels"]])))
        assert "datasource" in names and used <= names
        identifiers = [panel["id"] for panel in board["panels"]]
        assert len(set(identifiers)) == len(identifiers) and all(panel["title"] for panel in board["panels"])
        assert {json.dumps(panel["datasource"]) for panel in board["panels"]} == {
            json.dumps({"type": "prometheus", "uid": "${datasource}"})
        }


@pytest.fixture
def promtool() -> str:
    return tool("promtool")


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_rules_and_they_fire_when_they_should(promtool: str) -> None:
    run(promtool, "check", "rules", *map(str, RULES.glob("*.yaml")))
    run(promtool, "test", "rules", *map(str, TESTS.glob("*.yaml")))


def test_prometheus_takes_every_query_of_the_dashboards(promtool: str, tmp_path: Path) -> None:
    """As recording rules, with the dashboards' variables filled in."""
    rules = [
        {"record": f"query:{number}", "expr": re.sub(r"\$(\w+)", r"\1", expression)}
        for number, (_, expression) in enumerate(expressions())
    ]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    run(promtool, "check", "rules", str(tmp_path / "queries.yaml"))


def test_prometheus_takes_what_nodes_expose(promtool: str, scrapes: tuple[Series, Series]) -> None:
    for text in (metrics.exposition(), api.exposition()):
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=60, check=False)
        other = [line for line in (done.stdout + done.stderr).decode().splitlines() if not line.endswith(IN_DAYS)]
        assert other == []
