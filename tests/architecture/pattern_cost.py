"""What a regular expression costs at its worst: texts made from the pattern's own characters, timed at growing lengths.

A pattern that goes back over what it has read shows it by growing faster than its text. Only growth is judged, by the time of
this thread, since seconds say more about the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise, permutations
from re import _constants as op
from re import _parser as parser
from typing import Any

LENGTH = 2000
"""Characters of the shorter of the two texts that are compared."""
LENGTHS = (12, 16, 20, 24, 28, 64, 500, LENGTH, 2 * LENGTH)
"""From small to large, since what grows exponentially would never come back from a large one."""
TOO_FAST = 0.002
"""Seconds at 4,000 characters below which nothing grew: a linear pattern takes 0.2 ms, the mildest quadratic one 8 ms."""
GROWTH = 3.0
"""Twice the text may cost three times as much; quadratic is four."""
MOST_LETTERS, MOST_PAIRED, MOST_HEADS = 7, 4, 2
ENDS = ("", "\0", "\n")
OF_CATEGORY = {"DIGIT": "7", "SPACE": " ", "WORD": "a_", "NOT_DIGIT": "a", "NOT_SPACE": "a", "NOT_WORD": "-"}

Use = Callable[[str], object]


def growth(pattern: str, flags: int, use: Use) -> tuple[float, str]:
    """The worst growth that was found, and the beginning of the text that showed it; 0 when nothing took any time."""
    tree = parser.parse(pattern, flags)
    return worst_growth(use, letters_of(tree), heads_of(tree))


def worst_growth(use: Use, letters: list[str], heads: list[str]) -> tuple[float, str]:
    """The first growth beyond what is allowed, else the worst there was."""
    worst = (0.0, "")
    for unit, head, end in _shapes(letters, heads):
        worst = max(worst, (_growth(use, unit, head, end), f"{head}{unit * 3}…{end}"))
        if worst[0] >= GROWTH:
            break
    return worst


def letters_of(tree: Any) -> list[str]:
    """Characters the pattern takes: those of its open repetitions first, where going back is possible."""
    repeated = dict.fromkeys(letter for item in _open_repetitions(tree) for letter in _letters(item))
    return [*dict.fromkeys([*repeated, *_letters(tree)])][:MOST_LETTERS]


def heads_of(tree: Any) -> list[str]:
    """The plain texts in front of its open repetitions, such as `{{`."""
    return [*dict.fromkeys(["", *_heads(tree)])][: MOST_HEADS + 1]


def _shapes(letters: list[str], heads: list[str]) -> Iterator[tuple[str, str, str]]:
    units = [
        *letters,
        *("".join(pair) for pair in permutations(letters[:MOST_PAIRED], 2)),
        *(head + letters[0] for head in heads[1:]),
    ]
    for unit in units:
        for head in heads:
            for end in ENDS:
                yield unit, head, end


def _growth(use: Use, unit: str, head: str, end: str) -> float:
    def text(length: int) -> str:
        return head + unit * (length // len(unit)) + end

    shorter, longer = next(
        pair for pair in pairwise(LENGTHS) if pair[1] == LENGTHS[-1] or _seconds(use, text(pair[1])) > 25 * TOO_FAST
    )
    if _seconds(use, text(longer)) < TOO_FAST or (slow := _quickest(use, text(longer))) < TOO_FAST:
        return 0.0
    return 2 * (slow / longer) / max(_quickest(use, text(shorter)) / shorter, 1e-12)


def _quickest(use: Use, text: str) -> float:
    return min(_seconds(use, text) for _ in range(3))


def _seconds(use: Use, text: str) -> float:
    begun = time.thread_time()
    use(text)
    return time.thread_time() - begun


def _open_repetitions(tree: Any) -> Iterator[Any]:
    for kind, value in tree:
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT) and value[1] > 16:
            yield value[2]
        for inner in _inside(kind, value):
            yield from _open_repetitions(inner)


def _heads(tree: Any) -> Iterator[str]:
    plain = ""
    for kind, value in tree:
        if kind is op.LITERAL:
            plain += chr(value)
            continue
        if plain:
            yield plain
        plain = ""
        for inner in _inside(kind, value):
            yield from _heads(inner)


def _letters(tree: Any) -> Iterator[str]:
    for kind, value in tree:
        yield from _letters_of_one(kind, value)
        for inner in _inside(kind, value):
            yield from _letters(inner)


def _letters_of_one(kind: Any, value: Any) -> Iterator[str]:
    if kind is op.LITERAL:
        yield chr(value)
    elif kind is op.RANGE:
        yield chr(value[0])
    elif kind is op.CATEGORY:
        yield from OF_CATEGORY[str(value).removeprefix("CATEGORY_")]
    elif kind in (op.ANY, op.NOT_LITERAL):
        yield from "x "
    elif kind is op.IN and value[0][0] is op.NEGATE:
        yield from "xA-"
    elif kind is op.IN:
        for one in value:
            yield from _letters_of_one(*one)


def _inside(kind: Any, value: Any) -> list[Any]:
    """The parts of a part of the pattern that are patterns themselves."""
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
        return [value[2]]
    if kind is op.SUBPATTERN:
        return [value[3]]
    if kind is op.BRANCH:
        return list(value[1])
    if kind in (op.ASSERT, op.ASSERT_NOT):
        return [value[1]]
    return [value] if kind is op.ATOMIC_GROUP else []
