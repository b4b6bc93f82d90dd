"""A Primary that is slow to show its keys keeps no thread waiting behind another one (docs/adr/0033)."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from gateway_runtime import client
from gateway_runtime.client import Channel, Known, PrimaryUnreachable
from gateway_runtime.identity import Keys
from gateway_runtime.state import Sequences
from protocol import paths
from protocol.messages import AskDirective, Directive


@pytest.fixture
def channel() -> Channel:
    return Channel(
        urls=("https://one.example", "https://two.example"), known=Known(("a-pin",)), keys=Keys.generate(),
        generation=uuid.uuid4(), instance=uuid.uuid4(), sequences=Sequences(),
        sender="a-gateway", environment="NPR", identity=None, tls_file=None,
        master_key=b"0" * 32,
    )  # fmt: skip


def calls(channel: Channel, number: int) -> tuple[list[threading.Thread], list[float]]:
    """So many loops that need the Primary at once, and how long each waited for a no."""
    waited: list[float] = []

    def run() -> None:
        began = time.monotonic()
        with pytest.raises(PrimaryUnreachable):
            channel.call(paths.DIRECTIVE, AskDirective(), Directive, timeout=5)
        waited.append(time.monotonic() - began)

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    return threads, waited


def slow(seconds: float, asked: list[str]) -> Callable[..., Any]:
    def fetch(url: str, *_: Any) -> Any:
        asked.append(url)
        time.sleep(seconds)
        raise PrimaryUnreachable(f"{url} gave no trust document")

    return fetch


def test_loops_that_wait_for_the_same_keys_wait_for_one_try_together(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(client, "fetch_trust", slow(0.5, asked))
    threads, waited = calls(channel, 6)
    for thread in threads:
        thread.join(20)
    assert len(waited) == 6 and max(waited) < 2, "six tries one after the other take three seconds"
    assert len(asked) <= 2


def test_nobody_waits_longer_for_somebody_elses_try_than_for_a_connection(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(client, "fetch_trust", slow(3.0, asked))
    monkeypatch.setattr(client, "CONNECT_SECONDS", 0.3)
    threads, waited = calls(channel, 4)
    time.sleep(0.2)
    began = time.monotonic()
    channel.forget_trust()
    assert time.monotonic() - began < 1, "what is in memory is free meanwhile"
    for thread in threads:
        thread.join(20)
    assert sorted(waited)[2] < 2.5, "three of four did not wait for the slow one"
