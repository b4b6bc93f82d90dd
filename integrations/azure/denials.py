"""How often Azure denied access to this process since its start, by the code of the refusal.

Each code that is known is there from the start: a rate counts from 0, so the first refusal would else be none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from threading import Lock

from integrations.azure.errors import AccessDenied

_lock = Lock()
_total: Counter[str] = Counter()


def count(code: str) -> None:
    """One more call that was denied."""
    with _lock:
        _total[code] += 1


def totals() -> Mapping[str, int]:
    """Code to number of denied calls."""
    with _lock:
        return {**dict.fromkeys(_known(AccessDenied), 0), **_total}


def _known(kind: type[AccessDenied]) -> Iterator[str]:
    yield kind.default_code
    for narrower in kind.__subclasses__():
        yield from _known(narrower)
