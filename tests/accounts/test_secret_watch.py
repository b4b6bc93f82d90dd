"""The end of Entra's client secret: who says so, how it is told, and that nobody is guessed at."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from accounts import secret_end, secret_watch
from accounts.entra import Entra
from accounts.entra_settings import EntraSettings
from accounts.models import ClientSecretWatch
from cli.doctor import Primary, State, examine
from common.clock import now
from sandbox.azure.server import Sandbox
from tests.conftest import Person

pytestmark = pytest.mark.usefixtures("primary")


def days(own: EntraSettings) -> float | None:
    ends, _, _ = secret_end.ending(own, Entra(own), now())
    return (ends - now()).total_seconds() / 86_400 if ends else None


def test_graph_says_when_the_secret_in_use_ends(entra_settings: EntraSettings, control: httpx.Client) -> None:
    control.post("/faults", json={"secret_days_left": 45.0})
    assert days(entra_settings) == pytest.approx(45, abs=0.01)


def test_the_operators_word_counts_more(entra_settings: EntraSettings) -> None:
    said = datetime(2030, 1, 1, tzinfo=UTC)
    assert secret_end.ending(replace(entra_settings, client_secret_expires=said), Entra(entra_settings), now())[:2] == (
        said, "setting",
    )  # fmt: skip


def test_an_application_that_may_not_look_at_itself_leaves_it_open(entra_settings: EntraSettings, sandbox: Sandbox) -> None:
    sandbox.world.directory.registration.application_permissions = {}
    ends, _, why = secret_end.ending(entra_settings, Entra(entra_settings), now())
    assert ends is None and why
    row = {one.check: one for one in examine(entra_settings, Primary("", None))}["end of the client secret"]
    assert row.state is State.SKIPPED and "ENTRA_CLIENT_SECRET_EXPIRES" in row.sentence


def test_it_is_looked_at_twice_a_day_told_in_the_log_and_shown_as_a_metric(
    admin: Person, entra_settings: EntraSettings, with_entra: Callable[..., Any], control: httpx.Client,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    control.post("/faults", json={"secret_days_left": 12.0})
    with with_entra(entra_settings), caplog.at_level(logging.WARNING, logger=secret_watch.log.name):
        assert secret_watch.METRIC not in metrics(admin)
        assert (secret_watch.look(now()), secret_watch.look(now())) == (1, 0)
        assert secret_watch.look(now() + timedelta(hours=13)) == 1
    assert "make a new one" in caplog.text and entra_settings.client_secret not in caplog.text
    assert ClientSecretWatch.objects.get().source == "graph"
    shown = next(line for line in metrics(admin).splitlines() if line.startswith(f"{secret_watch.METRIC} "))
    assert 11 < float(shown.split()[1]) < 12.1


def test_the_doctor_warns_in_time(entra_settings: EntraSettings, control: httpx.Client) -> None:
    control.post("/faults", json={"secret_days_left": 12.0})
    row = {one.check: one for one in examine(entra_settings, Primary("", None))}["end of the client secret"]
    assert (row.state, row.code) == (State.FAILED, "CLIENT_SECRET_ENDS") and row.fix


def test_without_entra_nobody_is_asked() -> None:
    assert secret_watch.look(now()) == 0 and not ClientSecretWatch.objects.exists()


def metrics(admin: Person) -> str:
    return str(admin.client.get("/metrics", headers=admin.headers).content.decode())
