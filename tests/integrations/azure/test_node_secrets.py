"""A node starts with what its own Key Vault holds, and with nothing of another environment's (I13)."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from cli.stack.layout import ROOT
from integrations.azure.cloud import AuthMethod, Connection
from integrations.azure.credentials import Credential
from integrations.azure.egress import Guard
from integrations.azure.keyvault import KeyVault, Marks
from integrations.azure.node_secrets import NAMES, completed
from orchestrator.environment import EnvironmentMistake, with_vault
from sandbox.azure.directory import TENANT_ID, identifier
from sandbox.azure.server import Sandbox

MASTER_KEY = base64.b64encode(b"k" * 32).decode()
SESSION = "canary-of-the-session-secret-0123456789"
Fill = Callable[..., None]


@pytest.fixture
def environ(sandbox: Sandbox, on_machine: Callable[[str], None]) -> dict[str, str]:
    """A gateway on the NPR machine that names its own vault."""
    on_machine("npr")
    return {
        "MAZEVAULT_KEY_VAULT_URL": f"https://kv-mazevault-gw-npr.{sandbox.world.vault_domain}",
        "MAZEVAULT_SANDBOX_VAULT_DOMAIN": sandbox.world.vault_domain,
        "ENTRA_AUTHORITY_HOST": sandbox.base_url,
        "ENTRA_INSTANCE_DISCOVERY": "false",
        "AZURE_CA_BUNDLE": str(sandbox.ca_file),
        "GATEWAY_NAME": "gw-npr-primary",
    }


@pytest.fixture
def fill(of_user: Callable[..., Credential], guard: Guard, connection: Callable[..., Connection]) -> Fill:
    """An administrator of the vault puts secrets there."""

    def put(ends: datetime | None = None, **values: str) -> None:
        with KeyVault(connection("kv-mazevault-gw-npr", AuthMethod.ON_BEHALF_OF), of_user("ada.admin"), guard) as vault:
            for name, value in values.items():
                vault.set(name.replace("_", "-"), value, Marks(1, "setup", "operator"), expires_at=ends)

    return put


def test_what_the_environment_leaves_out_comes_from_the_vault_and_what_it_says_wins(
    environ: dict[str, str], fill: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(mazevault_master_key=MASTER_KEY, mazevault_session_secret=SESSION, redis_url="redis://vault")
    said = {**environ, "REDIS_URL": "redis://here", "MAZEVAULT_SESSION_SECRET_FILE": "/run/secret"}
    assert completed(said) == {**said, "MAZEVAULT_MASTER_KEY": MASTER_KEY}
    told = capsys.readouterr().err
    assert "MAZEVAULT_MASTER_KEY" in told and MASTER_KEY not in told and SESSION not in told


def test_the_end_of_entras_client_secret_comes_along(environ: dict[str, str], fill: Fill) -> None:
    fill(datetime(2031, 5, 1, tzinfo=UTC), entra_client_secret="the value")
    taken = completed(environ)
    assert taken["ENTRA_CLIENT_SECRET"] == "the value" and taken["ENTRA_CLIENT_SECRET_EXPIRES"] == "2031-05-01T00:00:00+00:00"
    assert completed({**environ, "ENTRA_CLIENT_SECRET_EXPIRES": "2030-01-01"})["ENTRA_CLIENT_SECRET_EXPIRES"] == "2030-01-01"


def test_without_a_vault_or_with_everything_said_nothing_is_asked() -> None:
    bare = {"GATEWAY_NAME": "x"}
    whole = {"MAZEVAULT_KEY_VAULT_URL": "https://kv-nowhere.vault.azure.net", **dict.fromkeys(NAMES, "set")}
    assert completed(bare) is bare and completed(whole) is whole


def test_the_vault_of_another_environment_stops_the_start_with_cause_and_fix(environ: dict[str, str], sandbox: Sandbox) -> None:
    url = f"https://kv-mazevault-gw-pro.{sandbox.world.vault_domain}"
    with pytest.raises(ValueError, match=r"^MAZEVAULT_KEY_VAULT_URL: no role assignment allows .*Key Vault Secrets User"):
        completed({**environ, "MAZEVAULT_KEY_VAULT_URL": url})


@pytest.mark.parametrize("url", ["https://169.254.169.254/", "http://kv-a.vault.azure.net", "https://vault.example.com"])
def test_what_is_no_vault_is_not_connected_to(environ: dict[str, str], url: str) -> None:
    with pytest.raises(ValueError, match=r"^MAZEVAULT_KEY_VAULT_URL: "):
        completed({**environ, "MAZEVAULT_KEY_VAULT_URL": url})


def test_a_throttled_vault_is_waited_for_and_not_for_ever(
    environ: dict[str, str], fill: Fill, control: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(mazevault_master_key=MASTER_KEY)
    pauses: list[float] = []

    def until_it_is_over(seconds: float) -> None:
        pauses.append(seconds)
        control.post("/faults", json={"vault_throttled": 0})

    control.post("/faults", json={"vault_throttled": 1000})
    assert completed(environ, sleep=until_it_is_over)["MAZEVAULT_MASTER_KEY"] == MASTER_KEY and pauses
    control.post("/faults", json={"vault_throttled": 1000})
    monkeypatch.setattr("integrations.azure.node_secrets.PATIENCE_SECONDS", 0.0)
    with pytest.raises(ValueError, match="called too often"):
        completed(environ, sleep=pauses.append)


def test_workload_identity_is_used_where_kubernetes_projects_a_token(environ: dict[str, str], tmp_path: Path) -> None:
    more = {"AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "token"), "AZURE_TENANT_ID": TENANT_ID,
            "AZURE_CLIENT_ID": identifier("mi-mazevault-npr/client")}  # fmt: skip
    with pytest.raises(ValueError, match="service account token of this pod cannot be read"):
        completed({**environ, **more})


@pytest.mark.parametrize(
    ("variable", "text"),
    [("AZURE_CLIENT_ID", ""), ("AZURE_TENANT_ID", "contoso"), ("ENTRA_INSTANCE_DISCOVERY", "maybe"),
     ("ENTRA_AUTHORITY_HOST", "http://login.example.com"), ("AZURE_ARM_ENDPOINT", "https://management.azure.com/x"),
     ("AZURE_PRIVATE_NETWORKS", "10.0.0.0/99"), ("AZURE_PRIVATE_NETWORKS", "8.8.8.0/24"),
     ("MAZEVAULT_SANDBOX_VAULT_DOMAIN", "vault.example.com:443")],
)  # fmt: skip
def test_what_is_wrong_with_the_node_s_azure_is_named_by_its_variable(environ: dict[str, str], variable: str, text: str) -> None:
    whole = {**environ, "AZURE_FEDERATED_TOKEN_FILE": "/token", "AZURE_TENANT_ID": TENANT_ID,
             "AZURE_CLIENT_ID": identifier("mi-mazevault-npr/client"), variable: text}  # fmt: skip
    with pytest.raises(EnvironmentMistake, match=f"^{variable}"):
        with_vault(whole)


def test_a_real_process_starts_with_its_keys_in_the_vault_only(environ: dict[str, str], fill: Fill) -> None:
    fill(mazevault_master_key=MASTER_KEY, mazevault_session_secret=SESSION)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAZEVAULT_", "DJANGO_"))}
    node = {**kept, **environ, "MAZEVAULT_MODE": "gateway", "PRIMARY_BACKEND_URL": "https://localhost:1",
            "DATABASE_URL": "postgresql://nobody@localhost:1/none"}  # fmt: skip
    code = "from django.conf import settings; print(settings.MAZEVAULT.master_key == b'k' * 32)"
    program = f"import os; os.environ['DJANGO_SETTINGS_MODULE'] = 'orchestrator.settings.gateway'; {code}"

    def start(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program]
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    started = start(node)
    assert started.stdout.strip() == "True", started.stderr
    refused = start({name: value for name, value in node.items() if name != "MAZEVAULT_KEY_VAULT_URL"})
    assert refused.returncode != 0 and "MAZEVAULT_MASTER_KEY is missing" in refused.stderr
