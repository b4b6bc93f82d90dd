"""The staged test of a connection: each fault stops at its stage with one cause, one fix and one owner."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from integrations.azure.cloud import AuthMethod, Cloud, Connection
from integrations.azure.connection_test import PROBE, Outcome, Result, Stage, test_connection
from integrations.azure.credentials import Credential, Credentials
from integrations.azure.egress import Guard
from integrations.azure.keyvault import Marks
from sandbox.azure.server import Sandbox
from tests.integrations.azure.conftest import NPR, PRO

Connect = Callable[..., Connection]
MARKS = Marks(7, "op-1", "mazevault/connection-test")
ALL_OK = dict.fromkeys(Stage, Outcome.OK)


@pytest.fixture
def tried(
    cloud: Cloud, guard: Guard, connection: Connect, on_machine: Callable[[str], None]
) -> Callable[..., tuple[Result, ...]]:
    def make(vault: str = NPR, wish: Connection | None = None, credential: Credential | None = None, marks: Marks | None = MARKS,
             through: Guard | None = None) -> tuple[Result, ...]:  # fmt: skip
        on_machine("npr")
        chosen = wish or connection(vault)
        return test_connection(chosen, credential or Credentials(chosen, cloud).own(), through or guard, marks)

    return make


def outcomes(results: tuple[Result, ...]) -> dict[Stage, Outcome]:
    assert [one.stage for one in results] == list(Stage), "every stage, once, in order"
    for one in results:
        assert (one.outcome is Outcome.FAILED) == bool(one.fix and one.owner and one.code), one
        assert (one.outcome is Outcome.OK) == (not one.cause), one
    return {one.stage: one.outcome for one in results}


def failed(results: tuple[Result, ...]) -> Result:
    outcomes(results)
    found = [one for one in results if one.outcome is Outcome.FAILED]
    assert len(found) == 1, found
    after = results[results.index(found[0]) + 1 :]
    assert all(one.outcome is Outcome.SKIPPED and one.cause == f"stopped at {found[0].stage}" for one in after)
    return found[0]


def test_a_healthy_connection_passes_every_stage_again_and_again(sandbox: Sandbox, tried: Callable[..., Any]) -> None:
    for _ in range(2):
        assert outcomes(tried()) == ALL_OK
    vault = sandbox.world.vaults.named(NPR)
    assert vault.listed("secrets") == [] and [one.name for one in vault.listed("secrets", deleted=True)] == [PROBE]
    assert {one.name for one in sandbox.world.vaults.journal} == {PROBE}
    assert all(one.tags["mazevault-owner"] == MARKS.owner for one in sandbox.world.vaults.journal)


def test_without_leave_to_write_nothing_is_written(sandbox: Sandbox, tried: Callable[..., Any]) -> None:
    results = tried(marks=None)
    assert outcomes(results) == {**ALL_OK, Stage.SET: Outcome.SKIPPED, Stage.RECOVER: Outcome.SKIPPED}
    assert results[-1].cause == "writing was not asked for" and sandbox.world.vaults.journal == []


def test_an_address_that_is_no_vaults_stops_first(tried: Callable[..., Any]) -> None:
    result = failed(tried(wish=Connection("https://169.254.169.254/", AuthMethod.MANAGED_IDENTITY)))
    assert (result.stage, result.code) == (Stage.ADDRESS, "ADDRESS_REFUSED")


def test_names_ports_and_certificates_have_their_own_stages(sandbox: Sandbox, cloud: Cloud, tried: Callable[..., Any]) -> None:
    azure = Connection("https://kv-payments-npr.vault.azure.net/", AuthMethod.MANAGED_IDENTITY)

    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    def closed(address: tuple[str, int], seconds: float) -> socket.socket:
        raise ConnectionRefusedError(111, "Connection refused")

    def silent(address: tuple[str, int], seconds: float) -> socket.socket:
        raise TimeoutError

    public = ["20.50.2.1"]
    assert failed(tried(wish=azure, through=Guard(cloud, unknown))).stage is Stage.DNS
    assert failed(tried(wish=azure, through=Guard(cloud, lambda host, port: ["10.0.0.7"]))).code == "ADDRESS_REFUSED"
    for connect in (closed, silent):
        result = failed(tried(wish=azure, through=Guard(cloud, lambda host, port: public, connect)))
        assert (result.stage, result.retrying_helps) == (Stage.TCP, True) and "443" in result.fix
    result = failed(tried(through=Guard(Cloud(sandbox_domain=sandbox.world.vault_domain))))
    assert (result.stage, result.code) == (Stage.TLS, "AZURE_TLS") and "AZURE_CA_BUNDLE" in result.fix


def test_token_and_consent_are_told_apart(
    cloud: Cloud,
    connection: Connect,
    assertion: Callable[[str], str],
    control: httpx.Client,
    tried: Callable[..., Any],
) -> None:
    wrong = replace(connection(method=AuthMethod.CLIENT_SECRET), client_secret="wrong")
    result = failed(tried(wish=wrong))
    assert result.stage is Stage.TOKEN and "7000215" in result.cause
    mine = assertion("ada.admin")
    control.post("/faults", json={"consent_missing": True})
    wish = connection(method=AuthMethod.ON_BEHALF_OF)
    results = tried(wish=wish, credential=Credentials(wish, cloud).of_user(mine))
    assert failed(results).stage is Stage.CONSENT and outcomes(results)[Stage.TOKEN] is Outcome.OK
    assert failed(results).owner == "administrator of Entra ID"


@pytest.mark.parametrize(("fault", "code"), [
    ({"vault_closed": [NPR]}, "KEY_VAULT_NETWORK_CLOSED"), ({"vault_firewalled": [NPR]}, "KEY_VAULT_NETWORK_CLOSED"),
    ({"vault_throttled": 9}, "KEY_VAULT_THROTTLED"), ({"vault_unavailable": 9}, "AZURE_UNAVAILABLE"),
])  # fmt: skip
def test_a_vault_that_lets_nobody_in_stops_at_the_first_look(
    tried: Callable[..., Any], control: httpx.Client, fault: dict[str, Any], code: str
) -> None:
    control.post("/faults", json=fault)
    result = failed(tried())
    assert (result.stage, result.code) == (Stage.LIST, code)


def test_each_verb_is_judged_by_its_own_role(
    cloud: Cloud, connection: Connect, assertion: Callable[[str], str], tried: Callable[..., Any]
) -> None:
    wish = connection(method=AuthMethod.ON_BEHALF_OF)

    def of(user: str, vault: str = NPR) -> dict[Stage, Outcome]:
        there = replace(wish, vault_url=wish.vault_url.replace(NPR, vault))
        results = outcomes(tried(wish=there, credential=Credentials(there, cloud).of_user(assertion(user))))
        return {stage: results[stage] for stage in (Stage.LIST, Stage.GET, Stage.SET, Stage.RECOVER)}

    ok, no = Outcome.OK, Outcome.FAILED
    assert list(of("ada.admin").values()) == [ok, ok, ok, ok]
    assert list(of("paul.project").values()) == [ok, ok, no, no]
    assert list(of("olga.overage", PRO).values()) == [ok, no, no, no]
    assert list(of("stella.stranger").values()) == [no, no, no, no]


def test_the_npr_machine_fails_every_verb_at_the_pro_vault(sandbox: Sandbox, tried: Callable[..., Any]) -> None:
    results = tried(PRO)
    assert [one.code for one in results if one.outcome is Outcome.FAILED] == ["KEY_VAULT_ROLE_MISSING"] * 4
    assert sandbox.world.vaults.journal == []


def test_a_permission_that_is_missing_for_one_verb_does_not_stop_the_others(
    tried: Callable[..., tuple[Result, ...]], control: httpx.Client
) -> None:
    """As a role that is missing for one: an access policy often has list without get."""
    control.post("/faults", json={"vault_fails": {"getSecret": "access_policy"}})
    results = {one.stage: one for one in tried()}
    assert results[Stage.GET].code == "KEY_VAULT_PERMISSION_MISSING" and results[Stage.SET].outcome is Outcome.OK
