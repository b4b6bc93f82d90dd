"""Nothing a caller sends costs more than linear time: every pattern of the product is found in its source and timed at its worst.

A new pattern needs no entry anywhere. Only one that is put together at run time must say here what it may become.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from django.core import validators
from rest_framework import serializers

from accounts import sealed_config
from accounts.durations import go_duration
from accounts.fields import Id, Moment, Settings
from common.bounds import excess
from common.errors import MazeVaultError
from common.parsing import parse_object
from gateways import authors
from integrations.azure_names import RULES, ResourceType
from integrations.naming import Named, Values, collisions
from integrations.naming_patterns import TemplateInvalid, parse_template
from protocol import messages
from tests.architecture.pattern_cost import GROWTH, Use, growth, worst_growth

ROOT = Path(__file__).parents[2]
PACKAGES = ("accounts", "common", "failover", "gateway_runtime", "gateways", "integrations", "orchestrator", "protocol", "vault")
FUNCTIONS = ("compile", "search", "match", "fullmatch", "findall", "finditer", "sub", "subn", "split")
CALLS: Mapping[str, Any] = {
    "sub": lambda pattern: lambda text: pattern.sub(text[:0], text),
    "subn": lambda pattern: lambda text: pattern.subn(text[:0], text),
    "finditer": lambda pattern: lambda text: list(pattern.finditer(text)),
}
CLASSES = sorted({rule for row in RULES.values() for rule in (row.allowed, row.start, row.end) if rule})
AUTHOR_FORM = "f\"(?:{'|'.join(PrincipalKind)}):[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}\""
MADE_AT_RUN_TIME: Mapping[tuple[str, str], list[str]] = {
    ("integrations/naming.py", "f'\\\\d{{{piece.width}}}'"): [r"\d{1}", r"\d{4}"],
    ("gateways/authors.py", AUTHOR_FORM): [authors.FORM.pattern],
    **{(file, "NO_NUL"): [messages.NO_NUL] for file in ("protocol/sync.py", "protocol/sign_in.py")},
    ("integrations/azure_names.py", "f'[{rule.allowed}]'"): [f"[{rule}]" for rule in CLASSES],
    ("integrations/azure_names.py", "f'[{rule.start}]'"): [f"[{rule}]" for rule in CLASSES],
    ("integrations/azure_names.py", "f'[{rule.end}]'"): [f"[{rule}]" for rule in CLASSES],
}
"""File and source of patterns with something in them that only a running program knows, and what that can be."""
PLAIN = (ast.Constant, ast.JoinedStr, ast.FormattedValue, ast.Name, ast.BinOp, ast.operator, ast.Attribute, ast.expr_context)
"""What an expression may consist of that is worth the same in every program."""
ADDRESS_LETTERS = ["a", ".", "@", "-", '"', "\\"]


@dataclass(frozen=True)
class Found:
    """A pattern where it stands in the source, and how it is used."""

    where: str
    text: str | bytes
    flags: int
    method: str

    def __str__(self) -> str:
        return f"{self.where} {self.method} {self.text!r}"


def use_of(pattern: re.Pattern[Any], method: str) -> Use:
    call = CALLS.get(method, lambda one: getattr(one, method))(pattern)
    return (lambda text: call(text.encode())) if isinstance(pattern.pattern, bytes) else call


@cache
def sources() -> dict[str, ast.Module]:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "migrations" not in path.parts]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths}


@cache
def nodes(kind: type[ast.AST]) -> list[Any]:
    return [node for tree in sources().values() for node in ast.walk(tree) if isinstance(node, kind)]


def constants(tree: ast.Module) -> dict[str, Any]:
    """The module's own names for plain values, also those made of others."""
    known: dict[str, Any] = {"re": re}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                known[node.targets[0].id] = value_of(node.value, known)
            except NotPlain:
                continue
    return known


class NotPlain(Exception):
    """An expression that needs the running program."""


def value_of(node: ast.expr, known: Mapping[str, Any]) -> Any:
    allowed = (
        ast.Constant,
        ast.JoinedStr,
        ast.FormattedValue,
        ast.Name,
        ast.BinOp,
        ast.operator,
        ast.Attribute,
        ast.expr_context,
    )
    if not all(isinstance(one, allowed) for one in ast.walk(node)):
        raise NotPlain
    try:
        return eval(compile(ast.Expression(node), "pattern", "eval"), {"__builtins__": {}}, dict(known))  # noqa: S307
    except (NameError, AttributeError, TypeError):
        raise NotPlain from None


def is_pattern_call(node: ast.Call) -> bool:
    function = node.func
    return (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id == "re"
        and function.attr in FUNCTIONS
    )


def flags_of(node: ast.Call) -> int:
    named = [one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute) and one.attr.isupper()]
    return sum(int(getattr(re, name)) for name in named)


@cache
def methods() -> Mapping[str, set[str]]:
    """How a compiled pattern of a name is used, anywhere in the product."""
    used = defaultdict[str, set[str]](set)
    for node in nodes(ast.Attribute):
        if node.attr in FUNCTIONS:
            used[_last_name(node.value)].add(node.attr)
    return used


def _last_name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def patterns_in(where: str, tree: ast.Module) -> Iterator[Found]:
    known = constants(tree)
    names = {id(node.value): node.targets[0] for node in ast.walk(tree) if isinstance(node, ast.Assign)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and is_pattern_call(node):
            method = node.func.attr
            target = names.get(id(node))
            name = target.id if isinstance(target, ast.Name) else ""
            used = {method} if method != "compile" else methods().get(name, {"search"})
            yield from _each(where, node.args[0], known, flags_of(node), used)
        elif isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg == "pattern":  # of msgspec, which searches
                    yield from _each(where, keyword.value, known, 0, {"search"})


def _each(where: str, node: ast.expr, known: Mapping[str, Any], flags: int, methods: set[str]) -> Iterator[Found]:
    try:
        texts = [value_of(node, known)]
    except NotPlain:
        source = (where, ast.unparse(node))
        assert source in MADE_AT_RUN_TIME, f"say in MADE_AT_RUN_TIME what this pattern may become: {source}"
        texts = MADE_AT_RUN_TIME[source]
    for text in texts:
        for method in sorted(methods):
            yield Found(where, text, flags, method)


PATTERNS = sorted({str(found): found for where, tree in sources().items() for found in patterns_in(where, tree)}.items())


@pytest.mark.parametrize("found", [found for _, found in PATTERNS], ids=[name for name, _ in PATTERNS])
def test_every_pattern_reads_its_text_once(found: Found) -> None:
    pattern = re.compile(found.text, found.flags)
    text = found.text.decode("latin-1") if isinstance(found.text, bytes) else found.text
    worst, shown = growth(text, found.flags, use_of(pattern, found.method))
    assert worst < GROWTH, f"twice the text costs {worst:.1f} times as much, for example {shown!r}"


QUADRATIC = {
    "a word before the last one": (r"(^|_)(\w+_|api|access)keys?(_value)?$", "search"),
    "blanks on both sides": (r"\{\{\s*(.*?)\s*\}\}", "findall"),
    "blanks before the end": (r"\s+$", "search"),
    "groups of groups": (r"([a-z]+)*!", "fullmatch"),
    "a sentence between": (r"[^,]*,.*,.*;", "match"),
}


@pytest.mark.parametrize("kind", QUADRATIC)
def test_a_pattern_that_goes_back_is_found(kind: str) -> None:
    text, method = QUADRATIC[kind]
    worst, _ = growth(text, 0, use_of(re.compile(text), method))
    assert worst >= GROWTH


def test_no_pattern_of_the_product_is_overlooked() -> None:
    """Counted by text, so that another way to write a pattern does not slip through the reading of the source."""
    written = sum((ROOT / where).read_text().count("re.compile(") for where in sources())
    assert written == sum(is_pattern_call(node) and node.func.attr == "compile" for node in nodes(ast.Call))
    assert not [node for node in nodes(ast.ImportFrom) if node.module == "re"]
    assert not [node for node in nodes(ast.Import) for name in node.names if name.name == "re" and name.asname]
    assert len(PATTERNS) > 40


def test_the_frameworks_own_checks_that_the_product_uses_are_linear_too() -> None:
    ours = [node for node in nodes(ast.ImportFrom) if node.module == "django.core.validators"]
    imported = {name.name for node in ours for name in node.names}
    assert imported
    for name in imported:
        assert worst_growth(_quietly(getattr(validators, name)), ADDRESS_LETTERS, ["", "a@", '"'])[0] < GROWTH, name


BOUNDED_ELSEWHERE = {"vault.forms": "vault.rules.refuse_malformed", "gateways.sync_api": "gateways.sync_runs: adopted"}
"""Modules of forms whose fields have no bound there, and who says how much they may hold."""


def forms() -> Iterator[type[serializers.Serializer]]:
    """Every form that a request is read with: what stands first in `checked(Form, request.data)`."""
    for where, tree in sources().items():
        names = {node.args[0].id for node in ast.walk(tree) if isinstance(node, ast.Call) and _last_name(node.func) == "checked"
                 and isinstance(node.args[0], ast.Name)}  # fmt: skip
        if names and not where.startswith("gateway_runtime") and where != "common/api.py":
            module = importlib.import_module(where.removesuffix(".py").replace("/", "."))
            yield from (getattr(module, name) for name in names)


def unbounded(form: type[serializers.Serializer]) -> Iterator[str]:
    for name, one in form().fields.items():
        text_or_list = isinstance(one, serializers.ListField | serializers.CharField) and not isinstance(one, Id | Moment)
        endless = text_or_list and one.max_length is None
        if endless or (isinstance(one, serializers.DictField) and not isinstance(one, Settings)):
            yield f"{form.__name__}.{name}"


def test_every_text_list_and_object_of_a_request_has_a_bound() -> None:
    found = {name for form in forms() if form.__module__ not in BOUNDED_ELSEWHERE for name in unbounded(form)}
    assert found == set()
    assert len(list(forms())) > 25


KEYS = [f"key{number}" for number in range(6000)]
ROWS: Mapping[str, Callable[[int], object]] = {
    "values of a body under long names": lambda n: parse_object(
        (b'{"' + b"x" * 999 + b'":') * 18 + b"[" + b",".join([b'"v"'] * n) + b"]" + b"}" * 18
    ),
    "lists in lists of a body": lambda n: parse_object(b'{"a":[' + b",".join([b"[[]]"] * n) + b"]}"),
    "names of fields that are split": lambda n: sealed_config.split({f"{'aA' * 40}{key}": {"a": [1]} for key in KEYS[:n]}),
    "secrets that are kept or replaced": lambda n: [
        sealed_config._replaced(f"{'a.' * 18}{key}", {"b": 1, "c.d": 2}, {}) for key in KEYS[:n]
    ],
    "values that look like secrets": lambda n: sealed_config.looks_secret(("://a" * 100)[: min(n, 400)]),
    "names of one long field": lambda n: sealed_config.is_secret("aA" * n),
    "fields of a configuration": lambda n: excess({key: [{}] * 3 for key in KEYS[:n]}),
    "names in a template": lambda n: _refused(lambda: parse_template(json.dumps(dict.fromkeys(KEYS[:n], "x")))),
    "the same names in a template": lambda n: _refused(lambda: parse_template("{" + ",".join(ends(n)) + "}")),
    "names that collide": lambda n: collisions(NAMED[:n]),
    "parts of a duration": lambda n: go_duration("1h" * n),
}  # fmt: skip
"""Loops over what a caller sends, each with a text or list of `n` parts at its worst."""
NAMED = [Named(ResourceType.KEY_VAULT, "same", Values(project=key)) for key in KEYS]


def ends(n: int) -> list[str]:
    return [f'"{key}":1,"{key}":2' for key in KEYS[: n // 2]]


@pytest.mark.parametrize("kind", ROWS)
def test_twice_as_many_parts_cost_twice_as_much(kind: str) -> None:
    def seconds(parts: int) -> float:
        begun = time.thread_time()
        ROWS[kind](parts)
        return time.thread_time() - begun

    few, many = (min(seconds(parts) for _ in range(3)) for parts in (len(KEYS) // 4, len(KEYS)))
    assert many < 0.01 or many / few < 4 * 2, f"four times as many parts cost {many / few:.0f} times as much"


def _refused(call: Callable[[], object]) -> None:
    with pytest.raises((TemplateInvalid, MazeVaultError)):
        call()


def _quietly(check: Any) -> Use:
    def use(text: str) -> None:
        try:
            check(text)
        except validators.ValidationError:
            return

    return use
