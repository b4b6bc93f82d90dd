"""Naming templates: a pattern for each resource type, read from the JSON text of a config template. Pure.

A pattern is text with placeholders such as {co}-{env}-{zone}-{proj}-{region}-psql{nn}. A placeholder in capitals gives its value
in capitals. In a non-production environment `npr` is put before the environment.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from integrations.azure_names import NameProblem, ResourceType

PRODUCTION = ("pro", "pre", "drn", "mig", "eoy", "hot")
NON_PRODUCTION = ("dev", "itg", "tst")
NON_PRODUCTION_MARK = "npr"
DEFAULT_WIDTH = 2
"""Digits of {number}; {nnn} asks for three."""
LONGEST_PATTERN = 200


class Part(StrEnum):
    """What a placeholder stands for."""

    COMPANY = "company"
    ENVIRONMENT = "environment"
    ZONE = "zone"
    PROJECT = "project"
    REGION = "region"
    TYPE = "type"
    NUMBER = "number"


SHORT_FORMS: Mapping[str, Part] = {"co": Part.COMPANY, "env": Part.ENVIRONMENT, "proj": Part.PROJECT}
GIVEN_PARTS = (Part.COMPANY, Part.ENVIRONMENT, Part.ZONE, Part.PROJECT, Part.REGION)

COMPACT = "{company}{environment}{zone}{project}{region}{type}{number}"
HYPHENATED = "{co}-{env}-{zone}-{proj}-{region}-{type}{nn}"
DEFAULT_PATTERNS: Mapping[ResourceType, str] = {
    ResourceType.KEY_VAULT: "{co}{env}{zone}{proj}{region}kv{nn}",
    ResourceType.POSTGRESQL: "{co}-{env}-{zone}-{proj}-{region}-psql{nn}",
    ResourceType.REDIS: "{co}-{env}-{zone}-{proj}-{region}-redis{nn}",
    ResourceType.AKS: "{co}-{env}-{zone}-{proj}-{region}-aks{nn}",
    ResourceType.ENTERPRISE_APP: "APP_{PROJ}_{ZONE}_{ENV}_{nn}",
    ResourceType.RESOURCE_GROUP: "rg-{co}-{env}-{zone}-{proj}-{region}",
    ResourceType.CONTAINER_REGISTRY: COMPACT,
    ResourceType.STORAGE_ACCOUNT: COMPACT,
    ResourceType.MANAGED_IDENTITY: HYPHENATED,
    ResourceType.VIRTUAL_NETWORK: HYPHENATED,
    ResourceType.LOG_ANALYTICS: HYPHENATED,
}


class Code(StrEnum):
    """Why a template or its values are refused; serves code, log and metric label. Names have `NameProblem`."""

    NOT_JSON = "not_json"
    UNKNOWN_RESOURCE = "unknown_resource"
    BAD_PATTERN = "bad_pattern"
    UNKNOWN_PLACEHOLDER = "unknown_placeholder"
    MISSING_VALUE = "missing_value"
    BAD_VALUE = "bad_value"
    UNKNOWN_ENVIRONMENT = "unknown_environment"
    WRONG_FAMILY = "wrong_family"
    NUMBER_WIDTH = "number_width"
    COLLISION = "collision"


@dataclass(frozen=True)
class Problem:
    """One fault: which field, and what to do."""

    field: str
    code: Code | NameProblem
    text: str

    def __str__(self) -> str:
        return f"{self.field}: {self.text}"


class TemplateInvalid(Exception):
    """A naming template that cannot be used; `problems` names every fault in it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


@dataclass(frozen=True)
class Slot:
    """A placeholder in a pattern: what it stands for, in capitals or not, and how many digits a number has."""

    part: Part
    capitals: bool = False
    width: int = DEFAULT_WIDTH


Pattern = tuple[str | Slot, ...]


@dataclass(frozen=True)
class Patterns:
    """Both patterns of one resource type, and the text they were made from."""

    production: Pattern
    non_production: Pattern
    text: str

    def of(self, non_production: bool) -> Pattern:
        return self.non_production if non_production else self.production


@dataclass(frozen=True)
class Template:
    """The naming convention of an organization: a pattern for each resource type."""

    patterns: Mapping[ResourceType, Patterns]

    @staticmethod
    def default() -> Template:
        return Template({resource: _patterns(resource, text) for resource, text in DEFAULT_PATTERNS.items()})


def parse_template(text: str) -> Template:
    """Read the template of a config template: JSON, resource type to pattern, or to an object with `production` and
    `non_production`. Types left out keep the default. Raises `TemplateInvalid` with every fault."""
    try:
        stored = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise TemplateInvalid([Problem("template", Code.NOT_JSON, f"must be JSON; {error}")]) from None
    if not isinstance(stored, dict):
        raise TemplateInvalid([Problem("template", Code.NOT_JSON, "must be a JSON object of resource types and patterns")])
    patterns, problems = dict(Template.default().patterns), list[Problem]()
    for key, wish in stored.items():
        try:
            resource = _resource(key)
            patterns[resource] = _patterns(resource, wish)
        except TemplateInvalid as invalid:
            problems.extend(invalid.problems)
    if problems:
        raise TemplateInvalid(problems)
    return Template(patterns)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
    if repeated:
        raise ValueError(f"{min(repeated)[:LONGEST_PATTERN]!r} is there twice")
    return dict(pairs)


def _resource(key: str) -> ResourceType:
    if key not in set(ResourceType):
        known = ", ".join(ResourceType)
        raise TemplateInvalid([Problem(f"template.{key}", Code.UNKNOWN_RESOURCE, f"is no resource type; there are {known}")])
    return ResourceType(key)


def _patterns(resource: ResourceType, wish: object) -> Patterns:
    where = f"template.{resource.value}"
    if isinstance(wish, str):
        production = _pattern(where, wish)
        return Patterns(production, _marked(production), wish)
    if isinstance(wish, dict) and wish.keys() == {"production", "non_production"}:
        both = [_pattern(f"{where}.{family}", wish[family]) for family in ("production", "non_production")]
        return Patterns(both[0], both[1], json.dumps(wish))
    raise TemplateInvalid(
        [Problem(where, Code.BAD_PATTERN, 'must be a pattern, or {"production": pattern, "non_production": pattern}')]
    )


def _pattern(where: str, text: object) -> Pattern:
    if not isinstance(text, str) or not 1 <= len(text) <= LONGEST_PATTERN:
        raise TemplateInvalid([Problem(where, Code.BAD_PATTERN, f"must be a text of 1 to {LONGEST_PATTERN} characters")])
    pieces = re.split(r"\{([^{}]*)\}", text)
    literals, names = pieces[::2], pieces[1::2]
    if any("{" in literal or "}" in literal for literal in literals):
        raise TemplateInvalid([Problem(where, Code.BAD_PATTERN, "has a brace without its partner; write {part}")])
    slots = [_slot(where, name) for name in names]
    mixed: list[str | Slot] = [literals[0]]
    for slot, literal in zip(slots, literals[1:], strict=True):
        mixed += [slot, literal]
    return tuple(piece for piece in mixed if piece != "")


def _slot(where: str, name: str) -> Slot:
    capitals, lower = name.isupper(), name.lower()
    if name in (lower, name.upper()) and re.fullmatch("n{1,4}", lower):
        return Slot(Part.NUMBER, capitals, len(lower))
    part = SHORT_FORMS.get(lower) or (Part(lower) if lower in set(Part) else None)
    if part is None or name not in (lower, name.upper()):
        known = ", ".join(f"{{{word}}}" for word in (*Part, *SHORT_FORMS, "nn"))
        text = f"{{{name}}} is no placeholder; there are {known}, in small letters or all in capitals"
        raise TemplateInvalid([Problem(where, Code.UNKNOWN_PLACEHOLDER, text)])
    return Slot(part, capitals)


def _marked(production: Pattern) -> Pattern:
    """The same pattern with `npr` before the environment, set apart like the environment itself is."""
    marked: list[str | Slot] = []
    for index, piece in enumerate(production):
        if isinstance(piece, Slot) and piece.part is Part.ENVIRONMENT:
            mark = NON_PRODUCTION_MARK.upper() if piece.capitals else NON_PRODUCTION_MARK
            marked.append(mark + _separator(production, index))
        marked.append(piece)
    return tuple(marked)


def _separator(pattern: Pattern, index: int) -> str:
    before = pattern[index - 1] if index else ""
    after = pattern[index + 1] if index + 1 < len(pattern) else ""
    for neighbour in (before[-1:] if isinstance(before, str) else "", after[:1] if isinstance(after, str) else ""):
        if neighbour and not neighbour.isalnum():
            return neighbour
    return ""
