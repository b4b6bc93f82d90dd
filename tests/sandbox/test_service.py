"""Graph, faults, control and the server itself."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msal
import pytest

from cli.stack.layout import ROOT
from sandbox.azure.directory import CLIENT_ID, DEFAULT_REDIRECT_URI, GRAPH, KEY_VAULT, TENANT_ID
from sandbox.azure.server import Sandbox, make, running
from tests.fakes.browser import Browser, trusting, values_of

CONFIGURATION = f"/{TENANT_ID}/v2.0/.well-known/openid-configuration"


@pytest.fixture
def graph(sandbox: Sandbox, application: Callable[..., Any], signed_in: Callable[..., Any]) -> Callable[..., httpx.Client]:
    """Graph as one user, by an on-behalf-of token."""

    def make_client(user: str, scope: str = f"{GRAPH}/.default") -> httpx.Client:
        token = application().acquire_token_on_behalf_of(signed_in(user)["access_token"], [scope])["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=f"{sandbox.base_url}/v1.0", verify=trusting(sandbox.ca_file), headers=headers)

    return make_client


def all_pages(client: httpx.Client, path: str) -> tuple[list[dict[str, Any]], int]:
    rows, pages, url = [], 0, path
    while url:
        body = client.get(url).json()
        rows += body["value"]
        url, pages = body.get("@odata.nextLink", ""), pages + 1
    return rows, pages


def test_member_of_comes_in_pages_with_directory_roles_among_the_groups(graph: Callable[..., httpx.Client]) -> None:
    rows, pages = all_pages(graph("olga.overage"), "/me/memberOf")
    kinds = [row["@odata.type"].rsplit(".", 1)[1] for row in rows]
    assert (pages, kinds.count("group"), kinds.count("directoryRole")) == (3, 231, 1)
    assert len({row["id"] for row in rows}) == 232
    assert all_pages(graph("olga.overage"), "/me/memberOf?$top=999")[1] == 1
    assert graph("olga.overage").get("/me/memberOf?$top=1000").status_code == 400


def test_nested_groups_are_in_the_transitive_list_and_in_member_groups(graph: Callable[..., httpx.Client]) -> None:
    client = graph("paul.project")
    direct = {row["displayName"] for row in all_pages(client, "/me/memberOf")[0]}
    nested = {row["displayName"] for row in all_pages(client, "/me/transitiveMemberOf/microsoft.graph.group")[0]}
    assert "GRP_MZV_EVERYBODY" not in direct and nested == {"GRP_MZV_PAYMENTS", "GRP_MZV_EVERYBODY"}
    assert len(client.post("/me/getMemberGroups", json={"securityEnabledOnly": True}).json()["value"]) == 2
    assert client.post("/me/getMemberGroups", json={}).status_code == 400
    assert client.get("/me").json()["userPrincipalName"] == "paul.project@bank.example"


def test_without_the_permission_groups_have_no_name(graph: Callable[..., httpx.Client]) -> None:
    rows, _ = all_pages(graph("paul.project", f"{GRAPH}/User.Read"), "/me/memberOf")
    assert [row["displayName"] for row in rows if row["@odata.type"].endswith("group")] == [None]


def test_graph_refuses_tokens_that_are_not_for_it(
    sandbox: Sandbox, signed_in: Callable[..., Any], application: Callable[..., Any], control: httpx.Client
) -> None:
    mine = signed_in("paul.project")
    vault = application().acquire_token_on_behalf_of(mine["access_token"], [f"{KEY_VAULT}/.default"])["access_token"]
    good = application().acquire_token_on_behalf_of(mine["access_token"], [f"{GRAPH}/.default"])["access_token"]
    application_only = application().acquire_token_for_client([f"{GRAPH}/.default"])["access_token"]

    def status(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return control.get(f"{sandbox.base_url}/v1.0/me", headers=headers).status_code

    assert [status(token) for token in (good, "", "x", mine["access_token"], mine["id_token"], vault, good[:-4] + "AAAA")] == [
        200, 401, 401, 401, 401, 401, 401]  # fmt: skip
    assert status(application_only) == 403
    control.patch("/users/paul.project@bank.example", json={"enabled": False})
    assert status(good) == 401
    control.post("/reset", json={})
    control.post("/faults", json={"clock_offset_seconds": 3601})
    assert status(good) == 401


def test_throttled_and_unavailable_hit_as_many_requests_as_told(
    sandbox: Sandbox, control: httpx.Client, application: Callable[..., Any]
) -> None:
    control.post("/faults", json={"throttled": 1, "retry_after_seconds": 7})
    refused = control.get(sandbox.base_url + CONFIGURATION)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "7")
    app = application()
    control.post("/faults", json={"unavailable": 1})
    with pytest.raises(msal.exceptions.MsalServiceError, match="503"):
        app.acquire_token_for_client([f"{KEY_VAULT}/.default"])
    again = application().acquire_token_for_client([f"{KEY_VAULT}/.default"])
    assert "access_token" in again, "a new application, since msal remembers a 503 for a minute"


def test_slow_and_wrong_clock_are_visible(sandbox: Sandbox, control: httpx.Client) -> None:
    control.post("/faults", json={"slow_seconds": 0.4, "clock_offset_seconds": 3600})
    begun = time.monotonic()
    answer = control.get(sandbox.base_url + CONFIGURATION)
    assert time.monotonic() - begun >= 0.4
    assert 3590 < parsedate_to_datetime(answer.headers["Date"]).timestamp() - time.time() < 3610


@pytest.mark.parametrize(
    "body", [{"flying": True}, {"secret_expired": 1}, {"throttled": -1}, {"throttled": True}, {"slow_seconds": 61},
             {"slow_seconds": "1"}, {"consent_missing": 7}, {"id_token_changes": {"colour": "red"}}, {"id_token_changes": []}]
)  # fmt: skip
def test_a_fault_that_makes_no_sense_is_refused_by_name(control: httpx.Client, body: dict[str, Any]) -> None:
    answer = control.post("/faults", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["message"].startswith(next(iter(body)))
    assert control.get("/faults").json()["throttled"] == 0


def test_reset_forgets_faults_users_and_codes(application: Callable[..., Any], browser: Browser, control: httpx.Client) -> None:
    app = application()
    flow = app.initiate_auth_code_flow([f"{CLIENT_ID}/.default"], redirect_uri=DEFAULT_REDIRECT_URI, response_mode="query")
    values = values_of(browser.pick(flow["auth_uri"], "ada.admin@bank.example"))
    control.post("/faults", json={"secret_expired": True})
    control.patch("/users/ada.admin@bank.example", json={"app_roles": [], "groups": ["GRP_MZV_PAYMENTS"]})
    assert control.post("/reset", json={}).status_code == 204
    assert app.acquire_token_by_auth_code_flow(flow, values)["error_codes"] == [70000]
    users = {user["upn"]: user for user in control.get("/users").json()["value"]}
    assert users["ada.admin@bank.example"]["app_roles"] == ["APP_MZV_PRO_ADMIN"]


def test_control_takes_json_only_and_names_what_is_not_there(control: httpx.Client) -> None:
    assert control.post("/faults", content="secret_expired=true").status_code == 415
    assert control.post("/faults", content="[", headers={"Content-Type": "application/json"}).status_code == 400
    assert control.patch("/users/nobody", json={}).status_code == 404
    assert control.patch("/users/ada.admin@bank.example", json={"upn": "x"}).status_code == 400
    assert control.patch("/users/ada.admin@bank.example", json={"groups": ["none"]}).status_code == 400
    assert control.post("/federated-token", json={"identity": "x"}).status_code == 404
    assert control.put("/faults", json={}).status_code == 405
    assert control.get("/nothing").status_code == 404


def test_the_log_of_requests_holds_no_secret(control: httpx.Client, application: Callable[..., Any], secret: str) -> None:
    application().acquire_token_for_client([f"{KEY_VAULT}/.default"])
    seen = control.get("/requests").text
    assert "client_credentials" in seen and secret not in seen and "access_token" not in seen


def test_only_the_metadata_service_is_served_without_tls(sandbox: Sandbox) -> None:
    for path in (CONFIGURATION, "/v1.0/me", "/_control/faults"):
        answer = httpx.get(sandbox.plain_url + path)
        assert answer.status_code == 400 and "https://" in answer.json()["error"]["message"]


def test_clients_that_do_not_speak_properly_stop_nobody(sandbox: Sandbox, control: httpx.Client) -> None:
    address = ("127.0.0.1", int(sandbox.plain_url.rsplit(":", 1)[1]))
    silent = socket.create_connection(address)
    half_tls = socket.create_connection(address)
    half_tls.sendall(b"\x16\x03\x01")
    garbage = socket.create_connection(address)
    garbage.sendall(b"\x16garbage garbage garbage garbage")
    garbage.close()
    for headers in ({"Content-Length": "99999999"}, {"Content-Length": "-1"}, {"Transfer-Encoding": "chunked"}):
        raw = http.client.HTTPConnection(*address, timeout=5)
        raw.putrequest("POST", "/x")
        for name, value in headers.items():
            raw.putheader(name, value)
        raw.endheaders()
        assert raw.getresponse().status == 400
        raw.close()
    assert control.get("/faults").status_code == 200
    silent.close()
    half_tls.close()


def test_keys_secret_and_certificate_survive_a_restart_and_are_private(tmp_path: Path) -> None:
    with running(tmp_path) as first:
        keys, ca, mine = first.world.keys.key_set(), first.ca_file.read_text(), first.world.directory.registration.secret
    with running(tmp_path) as second:
        assert second.world.keys.key_set() == keys and second.ca_file.read_text() == ca
        assert second.world.directory.registration.secret == mine
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_taken_port_is_an_error(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="in use"):
        make(tmp_path, int(sandbox.plain_url.rsplit(":", 1)[1]), ())


def test_the_command_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    from cli.stack.stack import free_port_base

    port = free_port_base()
    argv = [
        sys.executable,
        "-m",
        "sandbox.azure",
        "--port",
        str(port),
        "--dir",
        str(tmp_path / "s"),
        "--redirect-uri",
        "https://a/",
    ]
    process = subprocess.Popen(argv, cwd=ROOT, env={**os.environ}, stdout=subprocess.PIPE, text=True)
    assert f"https://localhost:{port}" in process.stdout.readline()
    context = ssl.create_default_context(cafile=str(tmp_path / "s" / "ca.crt"))
    found = httpx.get(f"https://localhost:{port}{CONFIGURATION}", verify=context).json()
    assert urlsplit(found["token_endpoint"]).port == port
    taken = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert taken.returncode == 1 and f"port {port}" in taken.stderr and "Traceback" not in taken.stderr
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0
