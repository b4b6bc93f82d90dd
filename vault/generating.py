"""Values that nobody chose: made for rotations. Pure but for the randomness."""

from __future__ import annotations

import secrets
import string

from common.errors import ValidationFailed
from vault.models import SecretType

SHORTEST, USUAL, LONGEST = 16, 32, 256
SYMBOLS = "-_.~!*"
"""Safe in URLs, shells and connection strings between quotes."""
ALPHABET = string.ascii_letters + string.digits + SYMBOLS
KINDS = (string.ascii_lowercase, string.ascii_uppercase, string.digits, SYMBOLS)
GENERATED = (SecretType.PASSWORD, SecretType.API_KEY, SecretType.GENERAL)
"""Kinds of secrets of which a new one can simply be made up."""


def new_value(kind: str, length: int = USUAL) -> str:
    """Random text with at least one character of each kind. Raises `ValidationFailed` by field."""
    if kind not in GENERATED:
        raise ValidationFailed(f"value: a secret of the type {kind} is not made up; send its successor")
    if not SHORTEST <= length <= LONGEST:
        raise ValidationFailed(f"length: must be from {SHORTEST} to {LONGEST}")
    while True:
        made = "".join(secrets.choice(ALPHABET) for _ in range(length))
        if all(any(character in some for character in made) for some in KINDS):
            return made
