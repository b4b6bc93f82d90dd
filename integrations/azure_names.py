"""What Azure accepts as a name, for each kind of resource this product creates. Pure data and one question.

The numbers come from the pages "Naming rules and restrictions for Azure resources" and "Resolve errors for reserved resource
names" of the Azure Resource Manager documentation; an application's length is what the Azure portal accepts. Azure compares names
without regard to case, so two names that differ in case only are one name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class ResourceType(StrEnum):
    """The keys of a naming template."""

    KEY_VAULT = "key_vault"
    POSTGRESQL = "postgresql"
    REDIS = "redis"
    AKS = "aks"
    ENTERPRISE_APP = "enterprise_app"
    RESOURCE_GROUP = "resource_group"
    CONTAINER_REGISTRY = "container_registry"
    STORAGE_ACCOUNT = "storage_account"
    MANAGED_IDENTITY = "managed_identity"
    VIRTUAL_NETWORK = "virtual_network"
    LOG_ANALYTICS = "log_analytics"


class Uniqueness(StrEnum):
    """Where no other resource of the type may have the name."""

    GLOBAL = "global"
    TENANT = "tenant"
    SUBSCRIPTION = "subscription"
    RESOURCE_GROUP = "resource_group"


class NameProblem(StrEnum):
    """Why a name is refused; serves code, log and metric label."""

    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    BAD_CHARACTER = "bad_character"
    BAD_START = "bad_start"
    BAD_END = "bad_end"
    DOUBLE_HYPHEN = "double_hyphen"
    RESERVED_WORD = "reserved_word"


@dataclass(frozen=True)
class NameRule:
    """`allowed`, `start` and `end` are the inside of a regular expression's character class; the words are for people."""

    code: str
    """What {type} stands for in a pattern."""
    shortest: int
    longest: int
    allowed: str
    words: str
    uniqueness: Uniqueness
    start: str = ""
    start_words: str = ""
    end: str = ""
    end_words: str = ""
    double_hyphen: bool = True
    regional: bool = True
    """There is one in each region; an application in the tenant serves them all."""
    has_endpoint: bool = False
    """Its name becomes part of a public address, where Azure refuses some words."""


_LETTERS_DIGITS = "a letter or a digit"
_WORD_OR_UNDERSCORE = "a letter, a digit or an underscore"

RULES: dict[ResourceType, NameRule] = {
    ResourceType.KEY_VAULT: NameRule(
        "kv", 3, 24, "a-zA-Z0-9-", "letters, digits and hyphens", Uniqueness.GLOBAL, "a-zA-Z", "a letter", "a-zA-Z0-9",
        _LETTERS_DIGITS, double_hyphen=False, has_endpoint=True),
    ResourceType.POSTGRESQL: NameRule(
        "psql", 3, 63, "a-z0-9-", "lower-case letters, digits and hyphens", Uniqueness.GLOBAL, "a-z0-9",
        "a lower-case letter or a digit", "a-z0-9", "a lower-case letter or a digit", has_endpoint=True),
    ResourceType.REDIS: NameRule(
        "redis", 1, 63, "a-zA-Z0-9-", "letters, digits and hyphens", Uniqueness.GLOBAL, "a-zA-Z0-9", _LETTERS_DIGITS,
        "a-zA-Z0-9", _LETTERS_DIGITS, double_hyphen=False, has_endpoint=True),
    ResourceType.AKS: NameRule(
        "aks", 1, 63, "a-zA-Z0-9_-", "letters, digits, hyphens and underscores", Uniqueness.RESOURCE_GROUP, "a-zA-Z0-9",
        _LETTERS_DIGITS, "a-zA-Z0-9", _LETTERS_DIGITS),
    ResourceType.ENTERPRISE_APP: NameRule(
        "app", 1, 120, "a-zA-Z0-9 ._-", "letters, digits, spaces, periods, underscores and hyphens", Uniqueness.TENANT,
        "a-zA-Z0-9", _LETTERS_DIGITS, "a-zA-Z0-9", _LETTERS_DIGITS, regional=False),
    ResourceType.RESOURCE_GROUP: NameRule(
        "rg", 1, 90, "a-zA-Z0-9._()-", "letters, digits, periods, underscores, parentheses and hyphens", Uniqueness.SUBSCRIPTION,
        end="a-zA-Z0-9_()-", end_words="anything but a period"),
    ResourceType.CONTAINER_REGISTRY: NameRule(
        "acr", 5, 50, "a-zA-Z0-9", "letters and digits", Uniqueness.GLOBAL, has_endpoint=True),
    ResourceType.STORAGE_ACCOUNT: NameRule(
        "st", 3, 24, "a-z0-9", "lower-case letters and digits", Uniqueness.GLOBAL, has_endpoint=True),
    ResourceType.MANAGED_IDENTITY: NameRule(
        "mi", 3, 128, "a-zA-Z0-9_-", "letters, digits, hyphens and underscores", Uniqueness.RESOURCE_GROUP, "a-zA-Z0-9",
        _LETTERS_DIGITS),
    ResourceType.VIRTUAL_NETWORK: NameRule(
        "vnet", 2, 64, "a-zA-Z0-9._-", "letters, digits, periods, underscores and hyphens", Uniqueness.RESOURCE_GROUP,
        "a-zA-Z0-9", _LETTERS_DIGITS, "a-zA-Z0-9_", _WORD_OR_UNDERSCORE),
    ResourceType.LOG_ANALYTICS: NameRule(
        "log", 4, 63, "a-zA-Z0-9-", "letters, digits and hyphens", Uniqueness.RESOURCE_GROUP, "a-zA-Z0-9", _LETTERS_DIGITS,
        "a-zA-Z0-9", _LETTERS_DIGITS),
}  # fmt: skip

REFUSED_ANYWHERE = ("microsoft", "windows")
REFUSED_AT_START = ("login",)
REFUSED_AS_WHOLE = frozenset(
    ("access", "azure", "bing", "bizspark", "biztalk", "cortana", "directx", "dotnet", "dynamics", "excel", "exchange",
     "forefront", "groove", "hololens", "hyperv", "kinect", "lync", "msdn", "o365", "office", "office365", "onedrive", "onenote",
     "outlook", "powerpoint", "sharepoint", "skype", "visio", "visualstudio", "xbox")
)  # fmt: skip


def problems_of(resource: ResourceType, name: str) -> Iterator[tuple[NameProblem, str]]:
    """Everything Azure would not like about a name, each with a sentence that says what to change."""
    rule = RULES[resource]
    if len(name) < rule.shortest:
        yield NameProblem.TOO_SHORT, f"has {len(name)} characters and needs {rule.shortest}; lengthen a part"
    if len(name) > rule.longest:
        over = len(name) - rule.longest
        yield NameProblem.TOO_LONG, f"has {len(name)} characters and may have {rule.longest}; shorten its parts by {over}"
    bad = sorted(set(re.sub(f"[{rule.allowed}]", "", name)))
    if bad:
        yield NameProblem.BAD_CHARACTER, f"has {' '.join(map(repr, bad))}; only {rule.words} are allowed"
    if name and rule.start and not re.match(f"[{rule.start}]", name):
        yield NameProblem.BAD_START, f"starts with {name[0]!r}; it must start with {rule.start_words}"
    if name and rule.end and not re.match(f"[{rule.end}]", name[-1]):
        yield NameProblem.BAD_END, f"ends with {name[-1]!r}; it must end with {rule.end_words}"
    if not rule.double_hyphen and "--" in name:
        yield NameProblem.DOUBLE_HYPHEN, "has two hyphens in a row; take one out of the pattern"
    if rule.has_endpoint and (word := _reserved(name.lower())):
        yield NameProblem.RESERVED_WORD, f"has the word {word!r}, which Azure refuses here; choose another part"


def _reserved(name: str) -> str | None:
    if name in REFUSED_AS_WHOLE:
        return name
    anywhere = (word for word in REFUSED_ANYWHERE if word in name)
    return next(anywhere, None) or next((word for word in REFUSED_AT_START if name.startswith(word)), None)
