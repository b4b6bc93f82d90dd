"""Names that people can tell apart: one form for letters with accents, and nothing in them that is not seen. Pure."""

from __future__ import annotations

import unicodedata

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of what shows nothing or changes what others look like: controls, joiners, marks of direction, unassigned."""
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {chr(code) for code in range(0x180B, 0x1810)}
"""Letters and marks that are drawn as nothing (Unicode: Default_Ignorable_Code_Point, and the empty pattern of Braille)."""
_SELECTORS = (range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))


def normal(text: str) -> str:
    """In the composed form (Unicode's NFC), so that `é` is one letter whichever keyboard it came from."""
    return unicodedata.normalize("NFC", text)


def hidden(text: str) -> str:
    """What of a text is not seen, as words for a sentence; empty for a text in which everything is.

    A blank that is not the ordinary one looks like it and is another name, so it counts too.
    """
    for place, letter in enumerate(text, start=1):
        if _is_hidden(letter):
            return f"the character U+{ord(letter):04X} at place {place}, which is not seen or looks like a space"
    return ""


def _is_hidden(letter: str) -> bool:
    category = unicodedata.category(letter)
    if category in _HIDDEN or letter in _BLANK or any(ord(letter) in some for some in _SELECTORS):
        return True
    return category == "Zs" and letter != " "
