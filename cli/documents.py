"""The generated documents: `write` makes them anew, `check` says which one is no longer what the code says."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from cli.stack.layout import ROOT

OPENAPI = ROOT / "docs" / "api" / "openapi.json"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
RETENTION = ROOT / "docs" / "operations" / "retention.md"
BUDGETS = ROOT / "docs" / "operations" / "budgets.md"
CONVENTION = ROOT / "deploy" / "terraform" / "modules" / "naming" / "convention.json"


def openapi() -> str:
    """The description of the API, generated from the views."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestrator.settings.test")
    import django

    django.setup()
    from orchestrator.openapi import document

    return json.dumps(document(), indent=1, sort_keys=True) + "\n"


def architecture() -> str:
    """docs/architecture.md with the failover diagram printed from the machine's table."""
    from failover.diagram import placed_in

    return placed_in(ARCHITECTURE.read_text())


def convention() -> str:
    """What the Terraform module makes names by: the default convention of the naming engine."""
    from integrations.naming_export import terraform_convention
    from integrations.naming_patterns import Template

    return terraform_convention(Template.default())


def retention() -> str:
    """What is kept, and for how long."""
    from common.retained import document

    return document()


def budgets() -> str:
    """What operations cost, from the table the tests hold them to."""
    from tests.conformance.budgets import document

    return document()


DOCUMENTS: dict[Path, Callable[[], str]] = {
    OPENAPI: openapi, ARCHITECTURE: architecture, CONVENTION: convention, RETENTION: retention, BUDGETS: budgets,
}  # fmt: skip


def outdated() -> list[Path]:
    """The generated documents that differ from what the code says."""
    return [path for path, make in DOCUMENTS.items() if not path.exists() or path.read_text() != make()]


def main(verb: str) -> int:
    if verb == "write":
        for path, make in DOCUMENTS.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(make())
        return 0
    stale = outdated()
    for path in stale:
        print(f"{path.relative_to(ROOT)} is not what the code says; run: make docs", file=sys.stderr)
    print("documents: ok" if not stale else "documents: outdated")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "check"))
