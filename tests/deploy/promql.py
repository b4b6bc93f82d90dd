"""Which metrics and labels a PromQL expression names. Knows the forms that our rules and dashboards use, no more."""

from __future__ import annotations

import re

KEYWORDS = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "offset", "bool"})
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_MATCHERS = re.compile(r"\{([^}]*)\}")
_NAME = re.compile(r"(?<![\w$:.])[a-zA-Z_:][a-zA-Z0-9_:]*(?![\w:])(?!\s*\()")


def names_of(expression: str) -> tuple[set[str], set[str]]:
    """(metrics, labels) that are named. Values of labels, durations and functions are neither."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    labels = {name.strip() for inside in _GROUPING.findall(bare) for name in inside.split(",") if name.strip()}
    labels |= {name for inside in _MATCHERS.findall(bare) for name in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside)}
    rest = re.sub(r"\[[^\]]*\]", " ", _MATCHERS.sub(" ", _GROUPING.sub(" ", bare)))
    rest = re.sub(r"\boffset\s+\S+", " ", rest)
    return {name for name in _NAME.findall(rest) if name not in KEYWORDS}, labels
