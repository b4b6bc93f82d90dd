"""The Azure sandbox as fixtures: one for a whole run, put back to its seeded state before each test that asks for it.

Loaded with `-p`, so that every folder of tests has them.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from accounts.entra_settings import EntraSettings
from sandbox.azure.directory import CLIENT_ID, DEFAULT_REDIRECT_URI, TENANT_ID
from sandbox.azure.server import Sandbox, running
from tests.fakes.browser import Browser, trusting


@pytest.fixture(scope="session")
def one_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with running(tmp_path_factory.mktemp("sandbox")) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(one_sandbox: Sandbox) -> Sandbox:
    one_sandbox.world.reset()
    return one_sandbox


@pytest.fixture
def secret(sandbox: Sandbox) -> str:
    return (sandbox.ca_file.parent / "client-secret").read_text().strip()


@pytest.fixture
def browser(sandbox: Sandbox) -> Browser:
    return Browser(sandbox.ca_file)


@pytest.fixture
def control(sandbox: Sandbox) -> Iterator[httpx.Client]:
    """Tells the sandbox what to do wrong."""
    with httpx.Client(base_url=f"{sandbox.base_url}/_control", verify=trusting(sandbox.ca_file)) as client:
        yield client


@pytest.fixture
def entra_settings(sandbox: Sandbox, secret: str) -> EntraSettings:
    """A node's settings that point at the sandbox."""
    return EntraSettings(
        enabled=True,
        tenant_id=TENANT_ID,
        client_id=CLIENT_ID,
        client_secret=secret,
        redirect_uri=DEFAULT_REDIRECT_URI,
        scopes=("openid", "profile", "email", f"{CLIENT_ID}/.default"),
        auto_create_users=True,
        default_role="viewer",
        authority_host=sandbox.base_url,
        instance_discovery=False,
        graph_endpoint=sandbox.base_url,
        ca_bundle=sandbox.ca_file,
        frontend_url="https://localhost:8443/ui/",
    )
