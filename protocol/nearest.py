"""The known name that an unknown one was most likely meant to be."""

from __future__ import annotations

from collections.abc import Collection
from difflib import SequenceMatcher

SHOWN = 60
"""Characters of a name in a sentence. No known name is longer, so the rest cannot make two names more alike."""
_ALIKE = 0.5
"""From which likeness on (0 to 1, difflib's ratio) a name is offered as the one that was meant."""


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that was most likely meant, or None where none is like it."""
    asked = _bare(name)
    best = max(sorted(known), key=lambda one: _likeness(asked, _bare(one)), default=None)
    return best if best is not None and _likeness(asked, _bare(best)) >= _ALIKE else None


def _bare(name: str) -> str:
    return name[:SHOWN].lower().replace("_", "").replace("-", "").replace(".", "")


def _likeness(asked: str, known: str) -> float:
    if asked and known and (known.startswith(asked) or asked.startswith(known)):
        return 1.0 - abs(len(known) - len(asked)) / 1000
    return SequenceMatcher(None, asked, known, autojunk=False).ratio()
