"""Prometheus text made by hand, for families with thousands of series; small ones go through the client library.

What comes out is what `prometheus_client.generate_latest` would make of the same series.
"""

from __future__ import annotations

from functools import lru_cache

from prometheus_client.utils import floatToGoString

_ORDINARY = 1e6
"""Below it a number is written by Go as by Python."""


def head(name: str, kind: str, text: str) -> str:
    """The two lines before the series of a family. A counter's name ends with `_total`."""
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


DATABASE_UP = "mazevault_database_up"


def database_up(answers: bool) -> str:
    """The one metric of a node that needs no database."""
    return f"{head(DATABASE_UP, 'gauge', '1 if the database of the node answers')}{DATABASE_UP} {number(answers)}\n"


def number(value: float) -> str:
    return repr(float(value)) if 0 <= value < _ORDINARY else str(floatToGoString(value))


@lru_cache(maxsize=65_536)
def escaped(text: str) -> str:
    """A label's value; the same few names come again at each scrape."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def histogram(name: str, before: str, behind: str, bounds: tuple[str, ...], counts: tuple[int, ...], total: float) -> str:
    """The lines of one series: cumulative counts by upper bound, the last of them `+Inf`. Labels stand before and behind `le`."""
    last = counts[-1]
    if last < _ORDINARY:
        return _series(name, before, behind, bounds, "%d.0") % (*counts, last, number(total))
    return _series(name, before, behind, bounds, "%s") % (*map(number, counts), number(last), number(total))


@lru_cache(maxsize=16_384)
def _series(name: str, before: str, behind: str, bounds: tuple[str, ...], place: str) -> str:
    """The same lines with a place for each number: they are the same at each scrape."""
    before, behind = before.replace("%", "%%"), behind.replace("%", "%%")
    buckets = "".join(f'{name}_bucket{{{before},le="{bound}",{behind}}} {place}\n' for bound in bounds)
    return f"{buckets}{name}_count{{{before},{behind}}} {place}\n{name}_sum{{{before},{behind}}} %s\n"
