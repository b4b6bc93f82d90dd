"""What stands beside a value goes from version to version, unless the integration says otherwise (findings on expiry)."""

from __future__ import annotations

import ast
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from integrations.azure.cloud import AuthMethod, Connection
from integrations.azure.errors import ValueRefused
from integrations.azure.keyvault import KEY, Entry, KeyVault, attributes_after
from sandbox.azure.server import Sandbox
from tests.integrations.azure.conftest import MARKS

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
PAST, SOON, LATE = NOW - timedelta(days=1), NOW + timedelta(days=1), NOW + timedelta(days=400)
ROOT = Path(__file__).parents[3]
MAY_SET = {"integrations/azure/keyvault.py", "integrations/azure/connection_test.py"}
"""Where a version is set that follows no other: the adapter itself, and the probe of a connection test."""


def before(**given: Any) -> Entry:
    facts = {"name": "a", "version": "1", "enabled": True, "tags": {}, "content_type": "", "created_at": PAST, "updated_at": PAST,
             "expires_at": None, "of_certificate": False}  # fmt: skip
    return Entry(**{**facts, **given})


def way(content_type: str = "", expires_days: int = 0) -> Connection:
    return Connection(
        "https://kv-a.vault.azure.net", AuthMethod.MANAGED_IDENTITY, content_type=content_type, expires_days=expires_days
    )


@pytest.mark.parametrize(
    ("given", "says", "expected"),
    [
        (None, way(), {"content_type": "", "expires_at": None, "not_before": None}),
        (None, way("text/plain", 30), {"content_type": "text/plain", "expires_at": NOW + timedelta(days=30)}),
        (before(expires_at=SOON, not_before=PAST, content_type="x/y"), way(),
         {"expires_at": SOON, "not_before": PAST, "content_type": "x/y"}),
        (before(content_type="x/y"), way("text/plain"), {"content_type": "x/y"}),
        (before(expires_at=PAST), way(), {"expires_at": None}),
        (before(expires_at=PAST, not_before=PAST), way(), {"expires_at": None, "not_before": PAST}),
        (before(expires_at=LATE), way("", 30), {"expires_at": NOW + timedelta(days=30)}),
        (before(expires_at=LATE, not_before=LATE - timedelta(days=1)), way("", 30), {"not_before": None}),
        (before(not_before=SOON), way(), {"not_before": SOON}),
        (before(enabled=False, expires_at=SOON), way(), {"enabled": True, "expires_at": SOON}),
        (before(tags={"team": "pay", KEY: "old"}), way(), {"tags": {"team": "pay", KEY: "DB"}}),
    ],
)  # fmt: skip
def test_a_new_version_gets_what_the_one_before_had_and_what_the_integration_says(
    given: Entry | None, says: Connection, expected: dict[str, Any]
) -> None:
    made = attributes_after(given, "DB", says, NOW)
    assert {name: made[name] for name in expected} == expected and made["enabled"] is True and made["tags"][KEY] == "DB"  # type: ignore[literal-required]


def test_the_vault_shows_it(sandbox: Sandbox, open_vault: Callable[..., KeyVault], control: httpx.Client) -> None:
    vault, ends = open_vault(), datetime.now(UTC).replace(microsecond=0) + timedelta(days=9)
    first = vault.set(
        "db", "x", MARKS, tags={"team": "pay"}, content_type="x/y", expires_at=ends, not_before=ends - timedelta(days=20)
    )
    second = vault.put("db", "y", MARKS, key="DB", before=first)
    assert (second.expires_at, second.not_before, second.content_type) == (ends, ends - timedelta(days=20), "x/y")
    assert second.tags["team"] == "pay" and vault.retag(second, second.tags).expires_at == ends, "tags alone touch nothing else"
    vault.delete("db")
    vault.recover("db")
    assert vault.get("db").entry.expires_at == ends


def test_more_tags_than_a_vault_takes_are_refused_before_anything_is_sent(
    sandbox: Sandbox, open_vault: Callable[..., KeyVault]
) -> None:
    full = before(tags={f"t{number}": "x" for number in range(12)})
    with pytest.raises(ValueRefused, match="16 tags") as caught:
        open_vault().put("db", "y", MARKS, key="DB", before=full)
    assert "remove 1 " in caught.value.fix and not sandbox.world.vaults.journal


def test_nobody_sets_a_version_without_saying_which_one_it_follows() -> None:
    """A write that forgets what people gave the version before is what this keeps out, also for the next place that writes."""
    found = set[str]()
    for folder in ("integrations", "gateway_runtime", "gateways", "vault"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            if "marks" not in text.lower() or ".set(" not in text:
                continue
            calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
            sets = [
                call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "set" and len(call.args) > 2
            ]
            found |= {str(path.relative_to(ROOT))} if sets else set()
    assert found == MAY_SET
