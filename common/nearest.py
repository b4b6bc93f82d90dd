"""How an unknown name is refused: which one it is, which known one it is nearest to, and all known ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from common.errors import ValidationFailed
from protocol.nearest import SHOWN, nearest

MOST_NAMED = 5
"""Unknown names in one sentence; a body may have thousands."""


class UnknownFields(ValidationFailed):
    """Names that the operation does not know; the sentence begins with the first of them, `details` has all known ones."""


def refusal(unknown: Iterable[tuple[str, str, Collection[str]]], what: str = "field") -> UnknownFields | None:
    """The refusal of unknown names, each given as (where it stands, its own name, the known ones there); None for none."""
    found = []
    for entry in unknown:
        found.append(entry)
        if len(found) == MOST_NAMED:
            break
    if not found:
        return None
    known = found[0][2]
    details = f"known here: {', '.join(sorted(known))}" if known else f"no {what} is known here"
    return UnknownFields("; ".join(_sentence(*entry, what) for entry in found), details=details)


def _sentence(place: str, name: str, known: Collection[str], what: str) -> str:
    shown = (f"{place}.{shortened(name)}" if place else shortened(name)).removeprefix(".")
    if meant := nearest(name, known):
        return f"{shown}: this {what} is not known here; did you mean {meant}?"
    return f"{shown}: this {what} is not known here"


def shortened(name: str) -> str:
    """As it may stand in a sentence: not too long, and nothing in it that is not seen."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:SHOWN]) or "(empty)"
