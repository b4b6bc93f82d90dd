"""The Entra group of settings: one for Azure, sovereign clouds and the sandbox; a mistake is named with its fix."""

from __future__ import annotations

import base64

import pytest

from accounts.entra_settings import EntraSettings
from orchestrator.environment import EnvironmentMistake, load

NODE = {
    "DATABASE_URL": "postgresql://x@/x",
    "MAZEVAULT_MASTER_KEY": base64.b64encode(bytes(32)).decode(),
    "MAZEVAULT_SESSION_SECRET": "s" * 64,
    "MAZEVAULT_DOMAIN": "mazevault.bank.example",
}
CLIENT = "c0000000-0000-4000-8000-000000000001"
ENTRA = {
    "ENTRA_ENABLED": "true",
    "ENTRA_TENANT_ID": "a0000000-0000-4000-8000-000000000001",
    "ENTRA_CLIENT_ID": CLIENT,
    "ENTRA_CLIENT_SECRET": "not-a-real-secret",
}


def entra(**more: str) -> EntraSettings:
    return load({**NODE, **ENTRA, **more}).entra


def test_it_is_off_by_default_and_then_demands_nothing() -> None:
    assert load(NODE).entra.enabled is False


def test_four_values_are_enough_for_azure() -> None:
    own = entra()
    assert own.authority == "https://login.microsoftonline.com/a0000000-0000-4000-8000-000000000001"
    assert own.redirect_uri == "https://mazevault.bank.example:8443/api/v1/auth/sso/entra/callback"
    assert own.frontend_url == "https://mazevault.bank.example:8443/ui/"
    assert own.scopes == ("openid", "profile", "email", f"{CLIENT}/.default")
    assert (own.default_role, own.auto_create_users, own.instance_discovery) == ("viewer", True, True)
    assert "not-a-real-secret" not in repr(own)


def test_another_cloud_and_own_addresses() -> None:
    own = entra(
        ENTRA_AUTHORITY_HOST="https://login.microsoftonline.us/",
        AZURE_GRAPH_ENDPOINT="https://graph.microsoft.us/",
        FRONTEND_URL="https://mazevault.bank.example/",
        ENTRA_SCOPES="openid profile api://x/access",
        AZURE_CA_BUNDLE="/etc/ssl/corporate.pem",
    )
    assert own.authority.startswith("https://login.microsoftonline.us/a0000000")
    assert own.graph_endpoint == "https://graph.microsoft.us"
    assert own.redirect_uri == "https://mazevault.bank.example/api/v1/auth/sso/entra/callback"
    assert own.scopes == ("openid", "profile", "api://x/access"), "an API was named, so none is added"
    assert str(own.ca_bundle) == "/etc/ssl/corporate.pem"


def test_the_secret_may_come_from_a_file(tmp_path) -> None:
    path = tmp_path / "secret"
    path.write_text("from-a-file\n")
    without = {name: value for name, value in ENTRA.items() if name != "ENTRA_CLIENT_SECRET"}
    assert load({**NODE, **without, "ENTRA_CLIENT_SECRET_FILE": str(path)}).entra.client_secret == "from-a-file"
    with pytest.raises(EnvironmentMistake, match="both ENTRA_CLIENT_SECRET and"):
        entra(ENTRA_CLIENT_SECRET_FILE=str(path))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("ENTRA_TENANT_ID", "", "Tenant ID"), ("ENTRA_TENANT_ID", "common", "UUID"), ("ENTRA_TENANT_ID", "bank.example", "UUID"),
     ("ENTRA_CLIENT_ID", "APP_MZV_INT_PRO_01", "Application"), ("ENTRA_CLIENT_SECRET", "", "Value"),
     ("ENTRA_REDIRECT_URI", "http://localhost/api/v1/auth/sso/entra/callback", "https://"),
     ("ENTRA_REDIRECT_URI", "https://mazevault.bank.example/api/v1/auth/entra/callback", "/api/v1/auth/sso/entra/callback"),
     ("ENTRA_AUTHORITY_HOST", "http://localhost:9447", "https://"), ("ENTRA_AUTHORITY_HOST", "login.microsoftonline.com", "https://"),
     ("FRONTEND_URL", "javascript:alert(1)", "https://"), ("ENTRA_ENABLED", "maybe", "true or false"),
     ("AZURE_GRAPH_ENDPOINT", "https://user:secret@graph.example", "https://"), ("ENTRA_DEFAULT_ROLE", "admin", "administrator")],
)  # fmt: skip
def test_a_mistake_is_named(name: str, value: str, words: str) -> None:
    with pytest.raises(EnvironmentMistake) as mistake:
        entra(**{name: value})
    assert str(mistake.value).startswith(name) and words in str(mistake.value)


def test_a_gateway_has_its_own_way_back_from_entra_and_its_own_page() -> None:
    both = {"MAZEVAULT_MODE": "gateway", "FRONTEND_URL": "https://console.bank.example/"}
    own = entra(**both)
    assert own.redirect_uri == "https://mazevault.bank.example:8443/api/v1/auth/sso/entra/callback", "not the Primary's console"
    assert own.frontend_url == "https://console.bank.example/"
    assert entra(MAZEVAULT_MODE="gateway").frontend_url == "https://mazevault.bank.example:8443/", "a gateway has no console"
    assert entra(**both, GATEWAY_FRONTEND_URL="https://gw.bank.example/ui/").frontend_url == "https://gw.bank.example/ui/"
    assert entra(GATEWAY_FRONTEND_URL="https://gw.bank.example/ui/").frontend_url.startswith("https://mazevault."), "a Primary"


def test_work_goes_on_as_long_as_the_credentials_that_begin_it_or_longer() -> None:
    for short in ({"ENTRA_WORK_MAX_AGE": "86399"}, {"ENTRA_TOKEN_MAX_AGE": "2592001"},
                  {"ENTRA_WORK_MAX_AGE": "3600", "ENTRA_TOKEN_MAX_AGE": "60", "ENTRA_SESSION_MAX_AGE": "3601"}):  # fmt: skip
        with pytest.raises(EnvironmentMistake, match=r"^ENTRA_WORK_MAX_AGE is \d+;.*it must be \d+"):
            entra(**short)
    assert entra(ENTRA_WORK_MAX_AGE="86400").work_max_age == 86400


def test_a_gateways_page_must_be_https() -> None:
    with pytest.raises(EnvironmentMistake, match=r"^GATEWAY_FRONTEND_URL"):
        entra(MAZEVAULT_MODE="gateway", GATEWAY_FRONTEND_URL="http://gw.bank.example/")
