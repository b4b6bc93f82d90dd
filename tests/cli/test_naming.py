"""`./mazevault naming` as an engineer uses it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from cli.naming import app

HERE = ["--company", "crd", "--project", "mzv", "--environment", "PRO", "--region", "gwc"]


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_the_preview_lists_every_resource():
    shown = run("preview", *HERE)
    assert shown.exit_code == 0
    assert "key_vault           crdprointmzvgwckv01" in shown.stdout
    assert "resource_group      rg-crd-pro-int-mzv-gwc" in shown.stdout


def test_the_preview_is_json_when_asked():
    rows = json.loads(run("preview", *HERE, "-o", "json").stdout)
    assert {"type": "enterprise_app", "name": "APP_MZV_INT_PRO_01", "problems": []} in rows


def test_a_name_that_cannot_be_used_ends_with_status_1_and_says_why():
    shown = run("preview", "--company", "crd", "--project", "mazevault", "--environment", "DEV", "--region", "gwc")
    assert shown.exit_code == 1
    assert "shorten its parts by 4" in shown.stdout


def test_a_template_file_is_used(tmp_path):
    (tmp_path / "t.json").write_text('{"key_vault": "kv-{co}-{env}-{nn}"}')
    assert "kv-crd-pro-01" in run("preview", *HERE, "--template", str(tmp_path / "t.json")).stdout


@pytest.mark.parametrize("content", [b"{", b'{"vm":"x"}', b"\xff\xfe"])
def test_a_template_that_cannot_be_read_is_one_sentence(tmp_path, content):
    (tmp_path / "t.json").write_bytes(content)
    shown = run("check", "--template", str(tmp_path / "t.json"))
    assert shown.exit_code == 1
    assert shown.stderr.startswith("error: ")
    assert "Traceback" not in shown.output


def test_a_missing_file_is_one_sentence(tmp_path):
    assert "cannot be read" in run("check", "--template", str(tmp_path / "none.json")).stderr


def test_the_whole_convention_holds():
    shown = run("check")
    assert (shown.exit_code, shown.stdout.splitlines()[-1]) == (0, "naming: 396 names checked, 0 problems")


def test_a_convention_whose_names_collide_is_told(tmp_path):
    (tmp_path / "t.json").write_text('{"key_vault": "{co}{zone}{proj}{region}kv{nn}"}')
    shown = run("check", "--template", str(tmp_path / "t.json"), "-o", "json")
    assert shown.exit_code == 1
    assert {problem["code"] for problem in json.loads(shown.stdout)["problems"]} == {"collision"}


def test_given_names_are_checked_against_azure():
    assert run("check", "--type", "key_vault", "kv-mazevault-npr").exit_code == 0
    assert "must start with a letter" in run("check", "--type", "key_vault", "1kv").stdout
    assert "--type" in run("check", "1kv").stderr


def test_an_unknown_output_is_refused():
    assert run("preview", *HERE, "-o", "yaml").exit_code == 1


def test_the_export_for_terraform_has_the_patterns_of_the_template(tmp_path):
    (tmp_path / "t.json").write_text('{"key_vault": "kv-{co}-{ENV}-{nnn}"}')
    shown = json.loads(run("export", "--template", str(tmp_path / "t.json")).stdout)
    assert shown["resources"]["key_vault"]["non_production"] == "kv-{company}-NPR-{ENVIRONMENT}-{nnn}"
    assert run("export", "--template", str(tmp_path / "none.json")).exit_code == 1
