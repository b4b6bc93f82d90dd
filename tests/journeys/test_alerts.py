"""A real Prometheus watches a real stack: a gateway dies, and the alert is at a real Alertmanager in time (seed §10)."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.stack.stack import Stack, free_port_base, throwaway
from protocol.timing import SHORT, STANDARD
from tests.deploy.test_observability import RULES, expressions
from tests.deploy.tools import tool

SCRAPE_SECONDS = 3
KILLED = "gw-npr-primary"
ALERT = "MazeVaultGatewaySilent"


class Watch:
    """Prometheus and Alertmanager on ports of their own, beside a stack."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self._stack, self._folder = stack, folder
        base = free_port_base(2)
        self.prometheus, self.alertmanager = f"127.0.0.1:{base}", f"127.0.0.1:{base + 1}"

    @contextmanager
    def running(self, prometheus: str, alertmanager: str) -> Iterator[Watch]:
        (self._folder / "alertmanager.yaml").write_text("route: {receiver: none, group_wait: 0s}\nreceivers: [{name: none}]\n")
        (self._folder / "prometheus.yaml").write_text(yaml.safe_dump(self._configuration()))
        commands = (
            [alertmanager, f"--config.file={self._folder}/alertmanager.yaml", f"--storage.path={self._folder}/a",
             f"--web.listen-address={self.alertmanager}", "--cluster.listen-address="],
            [prometheus, f"--config.file={self._folder}/prometheus.yaml", f"--storage.tsdb.path={self._folder}/p",
             f"--web.listen-address={self.prometheus}"],
        )  # fmt: skip
        with (self._folder / "watch.log").open("wb") as log:
            running = [subprocess.Popen(command, stdout=log, stderr=log) for command in commands]
            try:
                yield self
            finally:
                for process in running:
                    process.terminate()
                for process in running:
                    process.wait(20)

    def alerts(self) -> list[str]:
        """Names and gateways of what has reached the Alertmanager."""
        found = self._get(self.alertmanager, "/api/v2/alerts")
        return [
            f"{one['labels']['alertname']} {one['labels'].get('gateway', one['labels'].get('instance', ''))}" for one in found
        ]

    def up(self) -> int:
        """How many nodes answer their scrapes."""
        return len(self.query('up{job=~"mazevault-.*"} == 1'))

    def query(self, expression: str) -> list[Any]:
        told = self._get(self.prometheus, f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        assert told["status"] == "success", (expression, told)
        return list(told["data"]["result"])

    def _get(self, where: str, path: str) -> Any:
        with urllib.request.urlopen(f"http://{where}{path}", timeout=10) as answer:
            return json.load(answer)

    def _configuration(self) -> dict[str, Any]:
        """The short profile's limit stands for the standard one; everything else is what operators get."""
        rules = next(RULES.glob("*.yaml")).read_text()
        shortened = rules.replace(f"> {STANDARD.heartbeat_zero_age:g}\n", f"> {SHORT.heartbeat_zero_age:g}\n")
        assert shortened != rules
        (self._folder / "rules.yaml").write_text(shortened)
        layout = self._stack.layout
        nodes = [("mazevault-primary", "primary", layout.primary_url)]
        nodes += [("mazevault-gateway", spec.name, spec.url) for spec in layout.gateways]
        return {
            "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"},
            "rule_files": [str(self._folder / "rules.yaml")],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [self.alertmanager]}]}]},
            "scrape_configs": [{
                "job_name": name, "scheme": "https", "tls_config": {"ca_file": str(layout.ca_file)},
                "authorization": {"credentials_file": str(layout.node(name) / "metrics.token")},
                "static_configs": [{"targets": [url.removeprefix("https://")], "labels": {"job": job}}],
            } for job, name, url in nodes],
        }  # fmt: skip


def wait(what: str, true: Callable[[], Any], seconds: float) -> float:
    """Seconds until it was true."""
    begun, last = time.monotonic(), "no answer"
    while time.monotonic() - begun < seconds:
        try:
            found = true()
            if found:
                return time.monotonic() - begun
            last = repr(found)
        except OSError as error:
            last = str(error)
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come true within {seconds:g} s; last: {last}")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_killed_gateway_is_an_alert_in_time_and_a_stack_that_is_well_is_none(tmp_path: Path) -> None:
    programs = tool("prometheus"), tool("alertmanager", "prometheus-alertmanager")
    with throwaway(environ={"LOG_FORMAT": "json"}) as stack, Watch(stack, tmp_path).running(*programs) as watch:
        wait("all nodes scraped", lambda: watch.up() == 5, 60)
        time.sleep(4 * SCRAPE_SECONDS)
        assert watch.alerts() == []
        for where, expression in expressions():
            filled = expression.replace("$instance", "127.0.0.1").replace("$gateway", KILLED).replace("$environment", "NPR")
            assert isinstance(watch.query(filled), list), where
        stack.kill(KILLED)
        limit = SHORT.heartbeat_zero_age + 2 * SCRAPE_SECONDS
        seconds = wait(f"{ALERT} at the Alertmanager", lambda: f"{ALERT} {KILLED}" in watch.alerts(), 60)
        print(f"{ALERT}: at the Alertmanager after {seconds:.1f} s, {limit:g} s are allowed")
        assert seconds <= limit
        wait("the Primary's line of heartbeats", lambda: told(stack, "primary", r"^heartbeats: \d of 4 gateways heard"), 70)
        for spec in stack.layout.gateways:
            assert told(stack, spec.name, "^heartbeat answered by the Primary")
            assert {entry["gateway"] for entry in entries(stack, spec.name) if "heartbeat" in entry["message"]} == {spec.name}
        for name in ("worker", "beat"):
            entries(stack, name)


def entries(stack: Stack, name: str) -> list[dict[str, Any]]:
    """Every line of a node's log is one JSON object; Celery ends its start with an empty one."""
    lines = (stack.layout.logs / f"{name}.log").read_text().splitlines()
    return [dict(json.loads(line)) for line in lines if line]


def told(stack: Stack, name: str, pattern: str) -> bool:
    return any(re.search(pattern, entry["message"]) for entry in entries(stack, name))
