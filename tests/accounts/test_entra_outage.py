"""When Entra cannot be reached: people hear so at once, and the threads of the node stay free for everything else."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from accounts import entra as adapter
from accounts.entra import Entra, EntraError
from accounts.entra_settings import EntraSettings
from common.clock import now


class Network:
    """A network on which nothing is reached: calls fail at once, or hang until they are let go."""

    def __init__(self) -> None:
        self.calls = 0
        self.hangs = threading.Event()
        self.hangs.set()
        self.called = threading.Event()

    def get(self, url: str, **more: Any) -> Any:
        self.calls += 1
        self.called.set()
        self.hangs.wait(20)
        raise requests.ConnectionError(url)

    post = get


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def entra(network: Network) -> Entra:
    own = EntraSettings(
        enabled=True, tenant_id="a0000000-0000-4000-8000-000000000001", client_id="c0000000-0000-4000-8000-000000000001",
        client_secret="s", redirect_uri="https://localhost/x", scopes=("openid",), auto_create_users=True, default_role="viewer",
        authority_host="https://localhost:1", instance_discovery=False, graph_endpoint="https://localhost:1", ca_bundle=None,
        frontend_url="/ui/",
    )  # fmt: skip
    made = Entra(own)
    made._http = network  # type: ignore[assignment]
    return made


def refused(call: Any) -> EntraError:
    with pytest.raises(EntraError) as caught:
        call()
    return caught.value


def test_a_failure_is_remembered_for_a_while_and_then_tried_again(
    entra: Entra, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = refused(entra.begin)
    asked = network.calls
    assert (first.status, first.code) == (503, "ENTRA_UNREACHABLE") and asked
    for call in (entra.begin, entra.configuration, lambda: entra.keys(now())):
        again = refused(call)
        assert (again.status, again.code, again.retry_after) == (503, "ENTRA_UNREACHABLE", 60)
    assert network.calls == asked
    monkeypatch.setattr(adapter, "FAILURE_RESTS_SECONDS", 0.0)
    refused(entra.begin)
    assert network.calls > asked


def test_while_one_sign_in_waits_for_a_silent_entra_the_others_wait_a_moment_only(
    entra: Entra, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "WAIT_SECONDS", 0.2)
    network.hangs.clear()
    with ThreadPoolExecutor(5) as threads:
        stuck = threads.submit(refused, entra.begin)
        assert network.called.wait(10)
        begun = time.monotonic()
        others = [threads.submit(refused, entra.begin) for _ in range(4)]
        assert [one.result(10).status for one in others] == [503] * 4
        assert time.monotonic() - begun < 3 and network.calls == 1
        network.hangs.set()
        assert stuck.result(10).code == "ENTRA_UNREACHABLE"
