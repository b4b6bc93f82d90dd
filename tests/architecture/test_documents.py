"""What is written about the product is what the product is."""

from __future__ import annotations

import re

import pytest

from cli import documents
from cli.stack.layout import ROOT
from common.retained import GATEWAY, PRIMARY, settings_of
from orchestrator.openapi import document
from tests.architecture.test_api_rules import PEOPLE

README = (ROOT / "README.md").read_text()
LAUNCHER_ONLY = {"MAZEVAULT_VAR", "MAZEVAULT_PORT_BASE"}


def test_generated_documents_are_what_the_code_says() -> None:
    assert documents.outdated() == []


def test_the_readme_lists_exactly_the_variables_the_code_reads() -> None:
    readers = (
        "orchestrator/environment",
        "orchestrator/mode",
        "orchestrator/node/shape",
        "orchestrator/variables",
        "integrations/azure/node_cloud",
        "integrations/azure/node_secrets",
    )
    code = "".join((ROOT / f"{reader}.py").read_text() for reader in readers)
    read = set(re.findall(r"""environ(?:\.get\(|,\s+|\[)["\']([A-Z_]+)["\']""", code))
    read |= {name for mode in (PRIMARY, GATEWAY) for name in settings_of(mode)}
    listed = set(re.findall(r"^\| `([A-Z_]+)`", README, re.MULTILINE))
    assert read - listed == set()
    assert listed - read == set()
    assert "MAZEVAULT_MASTER_KEY" in read


def test_no_other_file_of_the_nodes_reads_the_environment() -> None:
    files = ("environment", "mode", "celery", "wsgi", "settings/test", "settings/primary", "settings/gateway",
             "node/parent", "node/template", "node/probe", "node/checking")  # fmt: skip
    allowed = {f"orchestrator/{name}.py" for name in files}
    packages = (
        "orchestrator",
        "protocol",
        "common",
        "accounts",
        "vault",
        "integrations",
        "gateways",
        "gateway_runtime",
        "failover",
    )
    found = {
        str(path.relative_to(ROOT))
        for package in packages
        for path in (ROOT / package).rglob("*.py")
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
    }
    assert found <= allowed


@pytest.mark.parametrize("document_path", ["README.md", "docs/architecture.md", "docs/security.md"])
def test_links_inside_the_documents_lead_somewhere(document_path: str) -> None:
    path = ROOT / document_path
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text())
    broken = [link for link in links if not link.startswith("http") and not (path.parent / link).exists()]
    assert links and broken == []


def test_the_openapi_document_has_every_path_of_people() -> None:
    described = {re.sub(r"\{[^}]+\}", "{}", path) for path in document()["paths"]}
    served = {"/" + re.sub(r"<[^>]+>", "{}", route) for route, _ in PEOPLE}
    assert served == described


def test_every_make_verb_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for verb in set(re.findall(r"(?:`|^)make ([a-z][a-z-]+)", README, re.MULTILINE)):
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE), verb


def test_no_secret_or_database_is_in_the_repository() -> None:
    import subprocess

    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    bad = [name for name in names if re.search(r"(\.env$|\.key$|\.pem$|\.sqlite3?$|^var/|master\.key|password$)", name)]
    assert bad == []


def test_no_shell_line_of_a_page_names_a_port_or_a_data_folder_that_the_reader_may_have_chosen() -> None:
    """MAZEVAULT_PORT_BASE and MAZEVAULT_VAR move both: a pasted line must follow them."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs" / "operations").glob("*.md"))]
    found = [
        f"{page.name}: {line}"
        for page in pages
        for block in re.split(r"^```.*$", page.read_text(), flags=re.MULTILINE)[1::2]
        for line in block.splitlines()
        if re.search(r"localhost:\d|127\.0\.0\.1:\d|(?<![\w/.$-])var/", line)
    ]
    assert found == []


def test_every_operation_of_the_api_page_says_in_a_line_what_it_does_and_the_page_how_to_get_a_token() -> None:
    described = document()
    bare = [
        f"{method} {path}"
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
        if not 0 < len(operation.get("summary", "")) <= 120
    ]
    assert bare == []
    assert "auth/login" in described["info"]["description"] and "Authorize" in described["info"]["description"]


def test_no_line_that_is_pasted_at_night_hides_why_it_failed() -> None:
    """`curl -s` alone prints nothing when nobody listens, and what reads its output complains of an empty line."""
    pages = ("README.md", "docs/operations/failover.md", "docs/operations/access.md", "docs/operations/production.md")
    assert [page for page in pages if re.search(r"curl -s ", (ROOT / page).read_text())] == []
