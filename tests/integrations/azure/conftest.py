"""The adapters against the local Azure, with the real Azure clients. Each test begins with its seeded state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msal
import pytest
import requests

from integrations.azure.cloud import AuthMethod, Cloud, Connection
from integrations.azure.credentials import Credential, Credentials
from integrations.azure.egress import Guard
from integrations.azure.keyvault import KeyVault, Marks
from sandbox.azure.directory import CLIENT_ID, DEFAULT_REDIRECT_URI, TENANT_ID
from sandbox.azure.server import Sandbox, running
from tests.fakes.browser import Browser, trusting, values_of

NPR, PRO = "kv-mazevault-npr", "kv-mazevault-pro"
MARKS = Marks(epoch=7, operation="op-1", owner="rule-1")


@pytest.fixture(scope="session")
def one_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with running(tmp_path_factory.mktemp("azure")) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(one_sandbox: Sandbox) -> Sandbox:
    one_sandbox.world.reset()
    return one_sandbox


@pytest.fixture
def control(sandbox: Sandbox) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{sandbox.base_url}/_control", verify=trusting(sandbox.ca_file)) as client:
        yield client


@pytest.fixture
def cloud(sandbox: Sandbox) -> Cloud:
    return Cloud(
        authority_host=sandbox.base_url,
        instance_discovery=False,
        arm_endpoint=sandbox.base_url,
        sandbox_domain=sandbox.world.vault_domain,
        ca_bundle=sandbox.ca_file,
    )


@pytest.fixture
def guard(cloud: Cloud) -> Guard:
    return Guard(cloud)


@pytest.fixture
def connection(sandbox: Sandbox) -> Callable[..., Connection]:
    """An integration's connection to a vault, by default with the managed identity of the machine."""

    def make(vault: str = NPR, method: AuthMethod = AuthMethod.MANAGED_IDENTITY, **more: Any) -> Connection:
        application = {
            "tenant_id": TENANT_ID,
            "client_id": CLIENT_ID,
            "client_secret": sandbox.world.directory.registration.secret,
        }
        by_secret = method in (AuthMethod.CLIENT_SECRET, AuthMethod.ON_BEHALF_OF)
        return Connection(
            f"https://{vault}.{sandbox.world.vault_domain}/", method, **{**(application if by_secret else {}), **more}
        )

    return make


@pytest.fixture
def on_machine(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Be on the machine of an environment, whose metadata service knows one identity: `on_machine("npr")`."""

    def move(code: str) -> None:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"{sandbox.plain_url}/hosts/{code}")

    return move


@pytest.fixture
def assertion(sandbox: Sandbox) -> Callable[[str], str]:
    """The token a user's sign-in gives for our application: what on-behalf-of exchanges."""

    def make(user: str) -> str:
        session = requests.Session()
        session.verify, session.trust_env = str(sandbox.ca_file), False
        app = msal.ConfidentialClientApplication(
            CLIENT_ID,
            client_credential=sandbox.world.directory.registration.secret,
            authority=f"{sandbox.base_url}/{TENANT_ID}",
            instance_discovery=False,
            http_client=session,
        )
        flow = app.initiate_auth_code_flow([f"{CLIENT_ID}/.default"], redirect_uri=DEFAULT_REDIRECT_URI, response_mode="query")
        back = Browser(sandbox.ca_file).pick(flow["auth_uri"], f"{user}@bank.example")
        return str(app.acquire_token_by_auth_code_flow(flow, values_of(back))["access_token"])

    return make


@pytest.fixture
def of_user(cloud: Cloud, connection: Callable[..., Connection], assertion: Callable[[str], str]) -> Callable[..., Credential]:
    def make(user: str) -> Credential:
        return Credentials(connection(method=AuthMethod.ON_BEHALF_OF), cloud).of_user(assertion(user))

    return make


@pytest.fixture
def open_vault(
    cloud: Cloud, guard: Guard, connection: Callable[..., Connection], on_machine: Callable[[str], None]
) -> Iterator[Callable[..., KeyVault]]:
    """A vault as the managed identity of an environment's machine sees it, or as a given credential does."""
    opened: list[KeyVault] = []

    def make(vault: str = NPR, machine: str = "npr", credential: Credential | None = None, **more: Any) -> KeyVault:
        wish = connection(vault)
        on_machine(machine)
        opened.append(KeyVault(wish, credential or Credentials(wish, cloud).own(), guard, **more))
        return opened[-1]

    yield make
    for vault in opened:
        vault.close()


@pytest.fixture
def federated(control: httpx.Client, tmp_path: Path) -> Callable[..., tuple[Path, str]]:
    """The file Kubernetes projects into a gateway's pod, and the client id of its identity."""

    def make(identity: str = "mi-mazevault-npr", **claims: Any) -> tuple[Path, str]:
        found = control.post("/federated-token", json={"identity": identity, "claims": claims}).json()
        path = tmp_path / "token"
        path.write_text(found["token"])
        return path, found["client_id"]

    return make
