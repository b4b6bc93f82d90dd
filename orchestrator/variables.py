"""Reading single environment variables: typed, with a sentence for each mistake. Knows nothing heavier than the standard library.

`orchestrator.environment` reads a whole node with it, `orchestrator.node.shape` the little that parent and front need.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class EnvironmentMistake(ValueError):
    """A variable is missing or wrong; the sentence names it and says what to set."""


def mode_of(environ: Mapping[str, str], mode: str | None = None) -> str:
    chosen = (mode or environ.get("MAZEVAULT_MODE", "") or "primary").strip().lower()
    if chosen not in ("primary", "gateway"):
        raise EnvironmentMistake(f"MAZEVAULT_MODE is {chosen!r}; set it to primary (or leave it out) or gateway")
    return chosen


def thread_count(environ: Mapping[str, str]) -> int:
    return whole(environ, "MAZEVAULT_THREADS", default=32, low=4, high=512)


def secret(environ: Mapping[str, str], name: str) -> str:
    path = environ.get(f"{name}_FILE", "")
    if not path:
        return environ.get(name, "")
    if environ.get(name):
        raise EnvironmentMistake(f"both {name} and {name}_FILE are set; keep one of them")
    try:
        return Path(path).read_bytes().decode("utf-8-sig").strip()
    except OSError as error:
        raise EnvironmentMistake(f"{name}_FILE names {path}, which cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise EnvironmentMistake(
            f"{name}_FILE names {path}, which is not UTF-8 text; write it anew as UTF-8 (PowerShell: Set-Content -Encoding utf8)"
        ) from None


def listen_address(environ: Mapping[str, str]) -> tuple[str, int]:
    text = environ.get("MAZEVAULT_LISTEN_ADDR", "")
    if not text:
        return "0.0.0.0", _port("PORT", environ.get("PORT", "") or "8443")  # noqa: S104  a container listens on all its addresses
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host or not colon:
        raise EnvironmentMistake(
            f"MAZEVAULT_LISTEN_ADDR is {text!r}; write host:port or :port, for example :8443, and an IPv6 address as [::1]:8443"
        )
    return host or "0.0.0.0", _port("MAZEVAULT_LISTEN_ADDR", port, text)  # noqa: S104  the same


def _port(variable: str, port: str, text: str | None = None) -> int:
    if not (port.isascii() and port.isdecimal()) or len(port) > 5 or not 0 < int(port) < 65536:
        example = "a port number such as 8443" if text is None else "host:port or :port, for example :8443"
        raise EnvironmentMistake(f"{variable} is {text or port!r}; write {example}")
    return int(port)


def flag(environ: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = environ.get(name, "").strip().lower()
    if not text:
        return default
    if text not in ("true", "false", "1", "0", "yes", "no"):
        raise EnvironmentMistake(f"{name} is {text!r}; set it to true or false")
    return text in ("true", "1", "yes")


def whole(environ: Mapping[str, str], name: str, *, default: int, low: int, high: int) -> int:
    text = environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or not low <= int(text) <= high:
        raise EnvironmentMistake(f"{name} is {text!r}; it must be a whole number from {low} to {high}")
    return int(text)
