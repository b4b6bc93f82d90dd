"""Words about settings that are missing or wrong: all of them at once, and never with what is secret in them.

Knows nothing but the standard library: the smallest processes of a node read variables too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

BOM = "\ufeff"
LONGEST_SHOWN = 80
_P = ParamSpec("_P")
_T = TypeVar("_T")


class EnvironmentMistake(ValueError):
    """Variables are missing or wrong; each sentence names one and says what to set."""

    def __init__(self, *sentences: str) -> None:
        self.sentences = tuple(dict.fromkeys(sentences))
        told = self.sentences
        listed = "; ".join(f"({number}) {sentence}" for number, sentence in enumerate(told, 1))
        super().__init__(told[0] if len(told) == 1 else f"{len(told)} settings are missing or wrong: {listed}")


class Findings:
    """Reads several variables and keeps what is wrong, so that nobody is told one mistake after the other."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def of(self, read: Callable[_P, _T], *args: _P.args, **more: _P.kwargs) -> _T:
        """What `read` returns. Where that refuses, nothing: `refuse` raises before anybody uses it."""
        try:
            return read(*args, **more)
        except EnvironmentMistake as mistake:
            self._found += mistake.sentences
        except ValueError as mistake:
            self._found.append(str(mistake))
        return cast(_T, None)

    def note(self, sentence: str) -> None:
        self._found.append(sentence)

    def refuse(self) -> None:
        """Raises `EnvironmentMistake` with everything that was found, if anything was."""
        if self._found:
            raise EnvironmentMistake(*self._found)


def cleaned(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables without what an env file of another system leaves at their ends: a BOM before the first name, a CR behind
    each value."""
    return {name.lstrip(BOM): value.strip(BOM + "\r\n") for name, value in environ.items()}


def shown(text: str) -> str:
    """A value that is wrong, for a sentence: not long, without control characters, and of an address only its scheme: behind that
    stands a password where somebody forgot to encode it. Variables that are secret as a whole are not shown at all."""
    if "@" in text or "://" in text:
        scheme, colon, _ = text.partition("://")
        return f"'{scheme}://…'" if colon and scheme.isalnum() else "'…'"
    return repr(text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…")


def shown_path(text: str) -> str:
    """A path that cannot be used. One that leads nowhere may be the secret itself, put where its path belongs."""
    folder = Path(text).parent
    return text if folder.is_absolute() and folder != Path("/") and folder.exists() else "a file that is not there"
