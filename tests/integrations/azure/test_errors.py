"""The tree of errors is the one its file draws, and nothing secret is in a log or an error."""

from __future__ import annotations

import inspect
import logging
import re
import traceback
import uuid
from collections.abc import Callable, Iterator

import httpx
import pytest

from integrations.azure import errors
from integrations.azure.cloud import AuthMethod, Cloud, Connection
from integrations.azure.credentials import Credentials
from integrations.azure.egress import Guard
from integrations.azure.entra_answers import BY_NUMBER, diagnose
from integrations.azure.errors import AzureTrouble, ConsentMissing, Owner, TokenTrouble
from integrations.azure.keyvault import KeyVault
from sandbox.azure.server import Sandbox
from tests.integrations.azure.conftest import MARKS, NPR


def branches(of: type, depth: int = 0) -> Iterator[str]:
    yield "  " * depth + of.__name__
    for one in of.__subclasses__():
        yield from branches(one, depth + 1)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawing = inspect.cleandoc(errors.__doc__ or "").splitlines()[2:]
    names = [re.match(r"\s*\w+", line).group() for line in drawing]
    assert names == list(branches(AzureTrouble))


@pytest.mark.parametrize("number", [*BY_NUMBER, 123456])
def test_every_number_of_entra_has_cause_fix_and_owner(number: int) -> None:
    for answer in ({"error_codes": [number]}, {"error_description": f"AADSTS{number}: words with a token in them"}):
        trouble = diagnose(answer)
        assert trouble.number == number and trouble.cause and trouble.fix and trouble.owner in Owner
        assert "token in them" not in f"{trouble} {trouble.details}"
    assert isinstance(diagnose({"error": "invalid_grant", "suberror": "consent_required"}), ConsentMissing)


@pytest.mark.parametrize(
    "answer", [{}, {"error": "<script>"}, {"error_codes": "x"}, {"error_codes": [None]}, {"error_description": 7}]
)
def test_an_answer_that_says_nothing_is_still_a_trouble(answer: dict[str, object]) -> None:
    trouble = diagnose(answer)
    assert isinstance(trouble, TokenTrouble) and trouble.number is None and "<" not in str(trouble)


def test_no_value_token_or_secret_is_in_logs_errors_or_tracebacks(
    sandbox: Sandbox, cloud: Cloud, guard: Guard, connection: Callable[..., Connection], assertion: Callable[[str], str],
    control: httpx.Client, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    mine, value = assertion("ada.admin"), uuid.uuid4().hex
    wish = connection(method=AuthMethod.ON_BEHALF_OF)
    said: list[str] = []
    with caplog.at_level(logging.DEBUG), KeyVault(wish, Credentials(wish, cloud).of_user(mine), guard) as vault:
        vault.set("canary", value, MARKS)
        vault.get("canary")
        for fault in ({"vault_forbidden": [NPR]}, {"vault_throttled": 1}, {"vault_replies_lost": 1}, {"vault_unavailable": 1}):
            control.post("/faults", json=fault)
            with pytest.raises(AzureTrouble) as caught:
                vault.set("canary", value, MARKS)
            said += [str(caught.value), str(caught.value.details), *traceback.format_exception(caught.value)]
            control.post("/faults", json={"vault_forbidden": []})
    text = caplog.text + "".join(said)
    assert "kv-mazevault-npr" in caplog.text, "the clients did log at this level"
    for secret in (value, mine, wish.client_secret, "eyJ"):
        assert secret not in text
