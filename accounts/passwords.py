"""Passwords: Argon2id with parameters of OWASP's second choice, chosen for a two-core machine (19 MiB, 2 passes), and the rules
of NIST 800-63B for a new one: long, not common, not made of the account's own words; no rule about kinds of characters.
"""

from __future__ import annotations

import gzip
import re
import unicodedata
from functools import cache
from pathlib import Path

from django.contrib.auth import password_validation
from django.contrib.auth.hashers import Argon2PasswordHasher

from common.errors import ValidationFailed

SHORTEST = 15
LONGEST = 1024
FEW = 3
"""So many different characters around a word do not hide it."""
_PRODUCT = "mazevault"
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm", "abcdefghijklmnopqrstuvwxyz", "01234567890")
_LEET = str.maketrans("@4310$5", "aaeioss")


class Argon2(Argon2PasswordHasher):
    time_cost = 2
    memory_cost = 19 * 1024
    parallelism = 1


def normalized(password: str) -> str:
    """One form for each way to type the same characters."""
    return unicodedata.normalize("NFKC", password)


def refuse_weak(password: str, *, email: str, full_name: str = "", field: str = "password") -> None:
    """Raise `ValidationFailed` with the reason and the fix."""
    plain = normalized(password).lower()
    if len(plain) < SHORTEST:
        raise ValidationFailed(f"{field}: must have at least {SHORTEST} characters; several unrelated words do well")
    if len(plain) > LONGEST:
        raise ValidationFailed(f"{field}: must have at most {LONGEST} characters")
    own = [_PRODUCT, email, *re.split(r"[@.+_-]", email), *full_name.split()]
    if len(_without(plain, own)) < SHORTEST // 2:
        raise ValidationFailed(f"{field}: must not be made of your own name or address; choose unrelated words")
    if _is_common(plain):
        raise ValidationFailed(f"{field}: is too easy to guess; choose several unrelated words")


def _without(plain: str, words: list[str]) -> str:
    for word in sorted({word.lower() for word in words if len(word) >= 4}, key=len, reverse=True):
        plain = plain.replace(word, "")
    return plain


def _is_common(plain: str) -> bool:
    """Whether it is a common password, a repetition, or a row of the keyboard, also behind digits and look-alikes."""
    for form in (plain, plain.translate(_LEET)):
        letters, others = re.sub(r"[^a-z]", "", form), set(re.sub(r"[a-z]", "", form))
        mostly_letters = len(letters) > len(form) / 2 or len(others) <= FEW
        for text in (form, letters) if mostly_letters else (form,):
            unit = _unit(text)
            if text in _common() or unit in _common() or len(unit) <= 5 or _is_run(text):
                return True
    return False


def _unit(text: str) -> str:
    """The shortest part that the text is a repetition of, an unfinished last one included."""
    whole = len(text)
    return next((text[:size] for size in range(1, whole) if (text[:size] * (whole // size + 1))[:whole] == text), text)


def _is_run(text: str) -> bool:
    """Whether it is mostly neighbours of a row, such as 123456789 or qwertyuiop, forwards or backwards."""
    pairs = {row[at : at + 2] for row in (*_ROWS, *(row[::-1] for row in _ROWS)) for at in range(len(row) - 1)}
    steps = [text[at : at + 2] for at in range(len(text) - 1)]
    return sum(step in pairs for step in steps) >= 0.7 * max(1, len(steps))


@cache
def _common() -> frozenset[str]:
    """The twenty thousand most used passwords, as Django ships them."""
    path = Path(password_validation.__file__).parent / "common-passwords.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return frozenset(line.strip() for line in lines)
