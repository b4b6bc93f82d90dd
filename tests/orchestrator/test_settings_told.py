"""What is wrong of a node's settings is told at once, in sentences, and never with a secret in them (N5, N7, B9, B19)."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

import psycopg
import pytest

from cli.stack.layout import ROOT
from common.environ import EnvironmentMistake, cleaned, shown
from orchestrator.environment import load
from orchestrator.mode import settings_module
from orchestrator.node import checking, preparing
from orchestrator.node.shape import node_shape
from orchestrator.settings.base import common_settings

CANARY = "Sup3rS3cret"
NODE = {
    "DATABASE_URL": "postgresql://x@/x", "MAZEVAULT_MASTER_KEY": base64.b64encode(bytes(32)).decode(),
    "MAZEVAULT_SESSION_SECRET": "s" * 64,
}  # fmt: skip
UUIDS = ("a0000000-0000-4000-8000-000000000001", "b0000000-0000-4000-8000-000000000002")
SECRETS = {
    "MAZEVAULT_MASTER_KEY", "MAZEVAULT_MASTER_KEY_PREVIOUS", "MAZEVAULT_SESSION_SECRET", "METRICS_TOKEN", "ENTRA_CLIENT_SECRET",
    "GATEWAY_BOOTSTRAP_TOKEN",
}  # fmt: skip
ADDRESSES = [
    f"{scheme}://{user}{CANARY}{behind}"
    for scheme in ("postgresql", "redis", "https", "")
    for user in ("u:", ":")
    for behind in ("#9@db:5432/m", "/x@db/m", "?x@db/m", "[x@db/m", "@db:99999/m", "@db:port/m", "%zz@[db/m", " x@db/m", "@", "")
]
"""A password where people put it, with the letters that must be encoded there and mostly are not."""


def listed() -> list[str]:
    return re.findall(r"^\| `([A-Z_]+)`", (ROOT / "README.md").read_text(), re.MULTILINE)


def told(environ: Mapping[str, str]) -> str:
    """Everything that anybody gets to see when these settings are read, a traceback included."""
    wrong = ""
    for read in (node_shape, settings_module, load):
        try:
            read(environ)
        except EnvironmentMistake as mistake:
            wrong += "".join(traceback.format_exception(mistake))
    return wrong


def test_all_that_is_missing_or_wrong_is_told_at_once() -> None:
    wrong = {
        "LOG_LEVEL": "verbose", "MAZEVAULT_THREADS": "many", "MAZEVAULT_LISTEN_ADDR": "::1", "REDIS_URL": "localhost:6379",
        "MAZEVAULT_ENV": "prod", "MAZEVAULT_TIME_PROFILE": "fast", "RUN_MIGRATIONS": "maybe", "ENTRA_ENABLED": "true",
        "MAZEVAULT_RETENTION_WRITE_DAYS": "3", "AZURE_CLIENT_ID": "x", "MAZEVAULT_DEFAULT_GATEWAY_ENVIRONMENT": "DEV",
        "MAZEVAULT_BASE_URL": "http://x",
    }  # fmt: skip
    found = checking.mistakes(wrong)
    assert found is not None
    absent = {"DATABASE_URL", "MAZEVAULT_MASTER_KEY", "MAZEVAULT_SESSION_SECRET", "ENTRA_TENANT_ID", "ENTRA_CLIENT_SECRET"}
    for name in (*wrong, *absent):
        if name != "ENTRA_ENABLED":
            assert any(name in sentence for sentence in found.sentences), name
    assert "debug, info, warning, error, critical" in str(found) and "\n" not in str(found)


@pytest.mark.parametrize("name", listed())
def test_no_secret_is_in_what_is_told_of_a_wrong_setting(name: str) -> None:
    values = [
        *ADDRESSES,
        *((f"{CANARY}\0", f"{CANARY}==", f" {CANARY}#") if name in SECRETS | {"DATABASE_URL", "REDIS_URL"} else ()),
    ]
    for value in values:
        assert CANARY not in told({**NODE, "ENTRA_ENABLED": "false", "MAZEVAULT_MODE": "gateway", name: value}), value


@pytest.mark.parametrize("url", [f"postgresql://u:{CANARY}{one}9@db:5432/m" for one in "#/?["] + ["postgresql://u:p@db:99999/m"])
def test_a_password_that_is_not_encoded_is_a_sentence(url: str) -> None:
    with pytest.raises(EnvironmentMistake, match=r"DATABASE_URL .*percent-encode"):
        load({**NODE, "DATABASE_URL": url})
    assert load({**NODE, "DATABASE_URL": f"postgresql://u:{CANARY}%239@db:5432/m"}).database["PASSWORD"] == f"{CANARY}#9"


def test_an_option_the_database_does_not_know_is_named() -> None:
    with pytest.raises(EnvironmentMistake, match="'sslmod'"):
        load({**NODE, "DATABASE_URL": "postgresql://u:p@db/m?sslmod=require"})


def test_what_an_env_file_of_another_system_leaves_is_taken_away() -> None:
    windows = {
        "\ufeffDATABASE_URL": f"{NODE['DATABASE_URL']}\r",
        **{name: f"{NODE[name]}\r" for name in NODE if name != "DATABASE_URL"},
    }
    assert load({**windows, "MAZEVAULT_MODE": "gateway\r"}).gateway is not None
    assert cleaned({"A": " kept \r"}) == {"A": " kept "}
    assert settings_module({"MAZEVAULT_MODE": "Gateway\r"}) == "orchestrator.settings.gateway"
    with pytest.raises(EnvironmentMistake, match="MAZEVAULT_MODE is 'gatway'"):
        settings_module({"MAZEVAULT_MODE": "gatway"})


@pytest.mark.parametrize(
    ("environ", "identity"),
    [({"AZURE_CLIENT_ID": UUIDS[0]}, UUIDS[0]), ({"AZURE_MANAGED_IDENTITY_CLIENT_ID": UUIDS[1]}, UUIDS[1]),
     ({"AZURE_CLIENT_ID": UUIDS[0], "AZURE_MANAGED_IDENTITY_CLIENT_ID": UUIDS[1]}, UUIDS[1]),
     ({"AZURE_CLIENT_ID": UUIDS[0], "AZURE_MANAGED_IDENTITY_CLIENT_ID": UUIDS[1], "AZURE_TENANT_ID": UUIDS[0],
       "AZURE_FEDERATED_TOKEN_FILE": "/var/token"}, UUIDS[0]),
     ({}, "")],
)  # fmt: skip
def test_the_managed_identity_has_two_names(environ: dict[str, str], identity: str) -> None:
    assert load({**NODE, **environ}).azure.client_id == identity


def test_a_wrong_name_of_an_identity_is_told_under_the_name_it_came_by() -> None:
    with pytest.raises(EnvironmentMistake, match=r"^AZURE_MANAGED_IDENTITY_CLIENT_ID is"):
        load({**NODE, "AZURE_MANAGED_IDENTITY_CLIENT_ID": "the one"})


@pytest.mark.parametrize(
    ("sentence", "refuses"),
    [('connection failed: FATAL:  password authentication failed for user "m"', True),
     ('connection failed: FATAL:  database "m" does not exist', True),
     ("connection failed: server does not support SSL, but SSL was required", True),
     ("connection failed: FATAL:  the database system is starting up", False),
     ("connection failed: FATAL:  sorry, too many clients already", False),
     ("connection failed: FATAL:  terminating connection due to administrator command", False),
     ("connection failed: Connection refused\n\tIs the server running on that host?", False),
     ("failed to resolve host 'db': [Errno -2] Name or service not known", False)],
)  # fmt: skip
def test_a_database_that_says_no_is_not_waited_for(sentence: str, refuses: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    error = psycopg.OperationalError(sentence)
    assert preparing.is_refusal(error) is refuses

    def refused() -> None:
        raise error

    monkeypatch.setattr(preparing, "open_connection", refused)
    monkeypatch.setattr(preparing, "DATABASE_SECONDS", -1.0)
    with pytest.raises(preparing.CannotServe) as told:
        preparing.wait_for_the_database()
    assert sentence.split("\n")[0] in str(told.value) and ("refuses" in str(told.value)) is refuses


def test_a_database_without_tables_is_told_with_what_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "missing_migrations", lambda: [("gateways", "0001_initial"), ("vault", "0002_secrets")])
    with pytest.raises(preparing.CannotServe, match="RUN_MIGRATIONS=true"):
        preparing.require_tables()
    monkeypatch.setattr(preparing, "missing_migrations", lambda: [("vault", "0009_kept_values")])
    preparing.require_tables()  # an older table serves until it is brought up to date; readiness says so


@pytest.mark.django_db
def test_a_database_that_is_up_to_date_lacks_nothing() -> None:
    assert preparing.missing_migrations() == []


def test_help_needs_no_settings_and_another_word_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert checking.help_or_check(["--help"]) == 0 and "DATABASE_URL" in capsys.readouterr().out
    assert checking.help_or_check(["--chekc"]) == 2 and "--check" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert checking.unwritable(tmp_path / "not" / "yet") == ""
    assert "is no folder" in checking.unwritable(tmp_path / "file" / "below")


def test_addresses_are_shown_without_what_is_secret() -> None:
    assert shown("https://u:p@h/x?sig=1#f") == "'https://…'" and shown("p@ss") == "'…'"
    assert len(shown("x" * 500)) < 100


@pytest.mark.parametrize("name", sorted(SECRETS | {"DATABASE_URL", "REDIS_URL"}))
def test_a_secret_that_was_put_where_its_path_belongs_is_not_repeated(name: str) -> None:
    others = {key: value for key, value in NODE.items() if key != name}
    found = told({**others, f"{name}_FILE": CANARY, "MAZEVAULT_MODE": "gateway", "ENTRA_ENABLED": "true"})
    assert f"{name}_FILE names a file that is not there" in found and CANARY not in found


@pytest.mark.parametrize(
    "command", [["manage.py", "serve"], ["manage.py", "migrate"], ["-m", "celery", "-A", "orchestrator.celery", "beat"]]
)
def test_no_way_to_start_ends_in_a_traceback(command: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    for name in ("DATABASE_URL", "MAZEVAULT_MASTER_KEY", "MAZEVAULT_SESSION_SECRET"):
        assert name in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout


def test_parent_front_and_workers_are_told_one_form_of_the_log() -> None:
    assert (load(NODE).log_format, node_shape(NODE).log_format) == ("text", "text")
    told = {**NODE, "LOG_FORMAT": "JSON"}
    assert (load(told).log_format, node_shape(told).log_format) == ("json", "json")
    assert common_settings(load(told), apps=[], urls="")["LOGGING"]["formatters"]["line"]["()"] == "common.logs.JsonLine"
    gateway = load({**told, "GATEWAY_NAME": "gw-pro-dr", "MAZEVAULT_GATEWAY_ENVIRONMENT": "PRO"}, mode="gateway")
    line = common_settings(gateway, apps=[], urls="")["LOGGING"]["formatters"]["line"]
    assert (line["gateway"], line["environment"]) == ("gw-pro-dr", "PRO")
    for read in (load, node_shape):
        with pytest.raises(EnvironmentMistake, match="LOG_FORMAT is 'xml'"):
            read({**NODE, "LOG_FORMAT": "xml"})
