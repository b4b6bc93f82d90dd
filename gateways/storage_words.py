"""What a gateway may say of a secret that it moved. Pure: what was handed out and what is told in, what counts or a doubt out.

Only versions that were handed out count, each with the one thing that its direction brings: a version of the vault on the way
there, a value on the way back.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateways.beliefs import Doubt
from protocol.storage import MovedVersion
from protocol.sync import LARGEST_VALUE_THERE


class NotBelieved(Exception):
    """Of what is told nothing is stored."""

    def __init__(self, doubt: Doubt) -> None:
        super().__init__(str(doubt))
        self.doubt = doubt


def doubt_of(told: Iterable[MovedVersion], newest: int, *, to_vault: bool) -> Doubt | None:
    """The first thing that no gateway could say which did what it was asked. `newest` is the secret's version now."""
    seen = set[int]()
    for one in told:
        if not 1 <= one.version <= newest or one.version in seen:
            return Doubt("versions", one.version, "each version that was handed out is told once, and no other")
        seen.add(one.version)
        if doubt := _of_content(one, to_vault=to_vault):
            return doubt
    return None


def _of_content(one: MovedVersion, *, to_vault: bool) -> Doubt | None:
    if to_vault:
        fits = bool(one.external_version) and one.value is None
        return None if fits else Doubt("versions", one.version, "on the way to a vault its version there is told, and no value")
    if one.value is None or one.external_version:
        return Doubt("versions", one.version, "on the way from a vault its value is told, and no version there")
    size = len(one.value.encode(errors="surrogatepass"))
    return Doubt("value", size, f"a vault holds {LARGEST_VALUE_THERE} bytes at most") if size > LARGEST_VALUE_THERE else None
