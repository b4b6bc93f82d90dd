"""Watches from outside which gateways say that they serve, and judges it: gaps, and above all two at once."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

import httpx

from cli.stack.layout import GatewaySpec, Layout

PAUSE = 0.04
"""Seconds between two looks at one gateway."""


@dataclass(frozen=True)
class Sighting:
    """One answer of a gateway. It served at some instant between `asked` and `answered` (monotonic seconds)."""

    name: str
    asked: float
    answered: float
    serving: bool
    epoch: int


class Observer:
    """Looks at some gateways of one environment for as long as the block lasts."""

    def __init__(self, layout: Layout, gateways: Iterable[GatewaySpec]) -> None:
        self._context = ssl.create_default_context(cafile=str(layout.ca_file))
        self._gateways = list(gateways)
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._seen: list[Sighting] = []

    def __enter__(self) -> Observer:
        for spec in self._gateways:
            thread = threading.Thread(target=self._watch, args=(spec,), name=f"observer-{spec.name}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(5)

    @property
    def sightings(self) -> list[Sighting]:
        """Everything seen so far, in the order of the answers."""
        with self._lock:
            return sorted(self._seen, key=lambda one: one.answered)

    def add(self, others: Iterable[Sighting]) -> None:
        """What another observer saw, to be judged together with this one's."""
        with self._lock:
            self._seen.extend(others)

    def wait_until_serving(self, name: str, seconds: float, since: float = 0.0) -> float:
        """The moment (monotonic) at which this gateway was first seen serving after `since`. Raises `TimeoutError`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = next((one for one in self.sightings if one.name == name and one.serving and one.asked >= since), None)
            if found:
                return found.answered
            time.sleep(PAUSE)
        raise TimeoutError(f"{name} was not seen serving within {seconds:g} s")

    def last_serving(self, name: str, before: float) -> float | None:
        """The latest moment before `before` at which this gateway was seen serving."""
        times = [one.answered for one in self.sightings if one.name == name and one.serving and one.answered <= before]
        return times[-1] if times else None

    def two_at_once(self) -> list[tuple[Sighting, Sighting]]:
        """Pairs that break the promise of one writer (I1): an older epoch served after a newer one was seen serving,
        or one epoch was served by two."""
        broken, serving = [], [one for one in self.sightings if one.serving]
        newest: Sighting | None = None
        for one in serving:
            if newest and one.name != newest.name:
                later = one.asked > newest.answered
                if one.epoch == newest.epoch or (later and one.epoch < newest.epoch):
                    broken.append((newest, one))
            if newest is None or one.epoch >= newest.epoch:
                newest = one
        return broken

    def _watch(self, spec: GatewaySpec) -> None:
        with httpx.Client(verify=self._context, timeout=2, trust_env=False) as http:
            while not self._ended.wait(PAUSE):
                asked = time.monotonic()
                try:
                    body = http.get(f"{spec.url}/api/v1/health").json()
                except (httpx.HTTPError, ValueError):
                    body = {"serving": False, "epoch": 0}
                sighting = Sighting(spec.name, asked, time.monotonic(), bool(body["serving"]), int(body["epoch"]))
                with self._lock:
                    self._seen.append(sighting)
