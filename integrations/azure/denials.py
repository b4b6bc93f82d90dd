"""How often Azure denied access to this process since its start, by the code of the refusal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from threading import Lock

_lock = Lock()
_total: Counter[str] = Counter()


def count(code: str) -> None:
    """One more call that was denied."""
    with _lock:
        _total[code] += 1


def totals() -> Mapping[str, int]:
    """Code to number of denied calls."""
    with _lock:
        return dict(_total)
