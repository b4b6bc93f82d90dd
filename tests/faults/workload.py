"""Clients of the secrets API that note what they saw. They write and read at the Primary and at the gateways of one environment,
wherever somebody answers, as an application does that knows several addresses."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence

import httpx

from cli.demos.writers import client_of
from cli.stack.primary_client import PrimaryClient
from cli.stack.stack import Stack
from tests.faults.history import PRIMARY, End, Final, History, Operation

SURE_REFUSALS = frozenset({400, 401, 403, 404, 409, 413, 422, 429})
SURE_CODES = frozenset({"NOT_ACTIVE", "LEASE_NEEDED", "WRITE_QUEUE_FULL", "DRAINING", "SECRET_BUSY"})
"""The node answered and did nothing; any other 5xx may have come after the deed."""
PAUSE = (0.05, 0.25)
"""Seconds between two calls of one client: the machine has two cores."""
CALL_SECONDS = 12.0
MOVE_SECONDS = 300.0
"""Longest wait for a project's values to be moved into a vault, and for a copy to be up to date at the end."""


class Client(threading.Thread):
    """Writes to its own secrets and reads all of them, at addresses it takes in turn, until told to stop."""

    def __init__(self, name: str, stack: Stack, primary: PrimaryClient, gateways: Sequence[str], secrets: Sequence[str],
                 history: History, stop: threading.Event, seed: int) -> None:  # fmt: skip
        super().__init__(name=name, daemon=True)
        self._secrets, self._history, self._halt = list(secrets), history, stop
        self._dice = random.Random(f"{seed}-{name}")
        urls = {spec.name: spec.url for spec in stack.layout.gateways if spec.name in gateways}
        urls[PRIMARY] = stack.layout.primary_url
        self._clients = {node: client_of(url, stack.layout.ca_file, primary.token) for node, url in urls.items()}
        for http in self._clients.values():
            http.timeout = httpx.Timeout(CALL_SECONDS)
        self._number = 0

    def run(self) -> None:
        while not self._halt.wait(self._dice.uniform(*PAUSE)):
            node = self._dice.choice(sorted(self._clients))
            secret = self._dice.choice(self._secrets)
            if self._dice.random() < 0.5:
                self._write(node, secret)
            else:
                self._read(node, secret)
        for http in self._clients.values():
            http.close()

    def _write(self, node: str, secret: str) -> None:
        self._number += 1
        value, began = f"{self.name}-{self._number}", time.monotonic()
        try:
            answer = self._clients[node].put(f"secrets/{secret}", json={"value": value})
        except httpx.HTTPError:
            self._note(node, secret, value, began, End.UNKNOWN)
            return
        end = _end_of(answer)
        body = answer.json() if end in (End.APPLIED, End.QUEUED) else {}
        write = str(body.get("write_id") or body.get("id") or "")
        self._note(node, secret, value, began, end, version=int(body.get("version") or 0), write=write)

    def _read(self, node: str, secret: str) -> None:
        began = time.monotonic()
        try:
            answer = self._clients[node].get(f"secrets/{secret}")
        except httpx.HTTPError:
            return
        if answer.status_code == 200:
            body = answer.json()
            self._note(node, secret, body["value"], began, End.APPLIED, version=int(body["version"]), is_write=False)

    def _note(self, node: str, secret: str, value: str, began: float, end: End, *, version: int = 0, write: str = "",
              is_write: bool = True) -> None:  # fmt: skip
        self._history.add(Operation(node, secret, value, began, time.monotonic(), end, is_write, version, write))


def _end_of(answer: httpx.Response) -> End:
    if answer.status_code == 202:
        return End.QUEUED
    if answer.status_code in (200, 201):
        return End.APPLIED
    return End.FAILED if answer.status_code in SURE_REFUSALS or _code(answer) in SURE_CODES else End.UNKNOWN


def _code(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["code"])
    except (ValueError, KeyError, TypeError):
        return ""


def begin(primary: PrimaryClient, history: History, *, environment: str, count: int) -> list[str]:
    """A project of its own with so many secrets; their first values are part of the history."""
    organization = primary.post("organizations", {"name": f"nemesis {time.time():.3f}"})["id"]
    project = primary.post("projects", {"name": "payments", "organization_id": organization})["id"]
    return _made(primary, history, project, environment, count)


def begin_in_vault(primary: PrimaryClient, history: History, vault_url: str, *, environment: str, count: int) -> list[str]:
    """The same in a project whose values were moved into a vault, so that each change is an effect outside."""
    organization = primary.post("organizations", {"name": f"nemesis in a vault {time.time():.3f}"})["id"]
    project = primary.post("projects", {"name": "ledger", "organization_id": organization})["id"]
    config = {"vault_url": vault_url, "auth_method": "managed_identity"}
    wish = {"name": "vault", "type": "key_vault", "provider": "azure_key_vault", "environment": environment, "config": config}
    primary.post(f"projects/{project}/integrations", wish)
    made = _made(primary, history, project, environment, count)
    storage = f"projects/{project}/storage"
    primary.post(storage, {"to": "key_vault", "confirm": primary.post(storage, {"to": "key_vault"})["digest"]})
    deadline = time.monotonic() + MOVE_SECONDS
    while (move := primary.get(storage)[0])["state"] != "succeeded":
        assert move["state"] == "running" and time.monotonic() < deadline, move
        time.sleep(0.3)
    return made


def _made(primary: PrimaryClient, history: History, project: str, environment: str, count: int) -> list[str]:
    made = []
    for number in range(count):
        value, began = f"first-{project[:8]}-{number}", time.monotonic()
        wish = {"project_id": project, "environment": environment, "key": f"KEY_{number}", "value": value}
        secret = str(primary.post("secrets", wish)["id"])
        history.add(Operation(PRIMARY, secret, value, began, time.monotonic(), End.APPLIED, is_write=True, version=1))
        made.append(secret)
    return made


def final(primary: PrimaryClient, history: History, secrets: Sequence[str], gateway: PrimaryClient | None = None) -> Final:
    """What is stored at the Primary, and what became of each promised write. Values in a vault are read at the `gateway`."""
    versions = {
        secret: {
            row["version"]: _value_of(primary, gateway, f"secrets/{secret}/versions/{row['version']}")
            for row in primary.get(f"secrets/{secret}/versions")
        }
        for secret in secrets
    }
    outcomes = {}
    for one in history.operations:
        if one.end is End.QUEUED:
            answer = primary.raw("GET", f"writes/{one.write}")
            body = answer.json() if answer.status_code == 200 else {}
            outcomes[one.write] = str(body.get("outcome", f"unknown to the Primary ({answer.status_code})"))
    return Final(versions, outcomes)


def _value_of(primary: PrimaryClient, gateway: PrimaryClient | None, path: str) -> str:
    deadline = time.monotonic() + MOVE_SECONDS
    while True:
        answer = primary.raw("GET", path)
        if answer.status_code == 409 and gateway is not None and _code(answer) == "VALUE_AT_GATEWAY":
            answer = gateway.raw("GET", path)
        if answer.status_code == 200:
            return str(answer.json()["value"])
        assert time.monotonic() < deadline, f"{path}: {answer.status_code} {answer.text[:300]}"
        time.sleep(0.5)  # the gateway's copy may be a moment behind
