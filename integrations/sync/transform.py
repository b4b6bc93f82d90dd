"""From a secret's key here to its name there and back, by the rule's template. Pure.

{{key}} stands for the key, {{environment}} for the project environment. Key Vault names have letters, digits and hyphens only, so
`_` and `.` become `-`. The way back is not guessed from the name: the key is remembered, and written beside the value as a tag.
Two keys that would get one name are found before anything is done.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LONGEST_NAME = 127
KEY, ENVIRONMENT = "key", "environment"
_PLACEHOLDER = re.compile(r"\{\{([^{}]*)\}\}")
_ALLOWED = re.compile(r"[0-9a-zA-Z-]+")
_BECOMES_HYPHEN = str.maketrans("_.", "--")


class TransformInvalid(Exception):
    """A template that makes no names, or none that lead back to their keys."""


@dataclass(frozen=True)
class Transform:
    """What stands before and after the key in a name."""

    prefix: str = ""
    suffix: str = ""

    def name_of(self, key: str) -> str | None:
        """The name for a key, None when Key Vault has no name for it."""
        name = f"{self.prefix}{key.translate(_BECOMES_HYPHEN)}{self.suffix}"
        return name if key and _ALLOWED.fullmatch(name) and len(name) <= LONGEST_NAME else None

    def leads_to(self, key: str, name: str) -> bool:
        """Whether the key's name is this one. Key Vault does not tell small letters from capitals."""
        made = self.name_of(key)
        return made is not None and made.lower() == name.lower()

    def key_of(self, name: str) -> str | None:
        """The key of a name nobody remembers, None when the name is not one of this template's."""
        key = name[len(self.prefix) : len(name) - len(self.suffix)]
        return key if key and self.leads_to(key, name) else None


def parse_transform(template: str, environment: str) -> Transform:
    """Raises `TransformInvalid` with a sentence that names the field and the fix."""
    pieces = pieces_of(template or "{{key}}")
    names = pieces[1::2]
    if unknown := set(names) - {KEY, ENVIRONMENT}:
        raise _invalid(f"{{{{{min(unknown)}}}}} is no placeholder; there are {{{{key}}}} and {{{{environment}}}}")
    if names.count(KEY) != 1:
        raise _invalid("must have {{key}} exactly once, or a name would not lead back to its key")
    if ENVIRONMENT in names and not environment:
        raise _invalid("uses {{environment}} and the rule has no target_environment; give it one")
    filled = [environment.translate(_BECOMES_HYPHEN) if piece == ENVIRONMENT else piece for piece in pieces]
    at = pieces.index(KEY, 1)
    transform = Transform("".join(filled[:at]), "".join(filled[at + 1 :]))
    if bad := sorted(set(re.sub("[0-9a-zA-Z-]", "", transform.prefix + transform.suffix))):
        raise _invalid(f"would put {' '.join(map(repr, bad))} into names; Key Vault allows letters, digits and hyphens")
    if len(transform.prefix + transform.suffix) >= LONGEST_NAME:
        raise _invalid(f"leaves no room for a key in a name of {LONGEST_NAME} characters")
    return transform


def pieces_of(template: str) -> list[str]:
    """What stands between the placeholders at even places, their names at odd ones. Raises `TransformInvalid`."""
    pieces = _PLACEHOLDER.split(template)
    if any("{{" in piece or "}}" in piece for piece in pieces[::2]):
        raise _invalid("has braces that are no placeholder; there are {{key}} and {{environment}}")
    pieces[1::2] = [name.strip() for name in pieces[1::2]]
    return pieces


def _invalid(text: str) -> TransformInvalid:
    return TransformInvalid(f"key_transform_template: {text}")
