"""Reading single environment variables: typed, with a sentence for each mistake. Knows nothing heavier than the standard library.

`orchestrator.environment` reads a whole node with it, `orchestrator.node.shape` the little that parent and front need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from common.environ import EnvironmentMistake as EnvironmentMistake
from common.environ import Findings as Findings
from common.environ import cleaned as cleaned
from common.environ import shown as shown
from common.environ import shown_path
from common.logs import FORMATS, TEXT

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
_BOMS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}


def mode_of(environ: Mapping[str, str], mode: str | None = None) -> str:
    chosen = (mode or environ.get("MAZEVAULT_MODE", "") or "primary").strip().lower()
    if chosen not in ("primary", "gateway"):
        raise EnvironmentMistake(f"MAZEVAULT_MODE is {shown(chosen)}; set it to primary (or leave it out) or gateway")
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
        content = Path(path).read_bytes()
        text = content.decode(_BOMS.get(content[:2]) or _BOMS.get(content[:3]) or "utf-8").strip()
    except OSError as error:
        raise EnvironmentMistake(f"{name}_FILE names {shown_path(path)}, which cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise EnvironmentMistake(
            f"{name}_FILE names {path}, which is not UTF-8 text; write it anew as UTF-8 (PowerShell: Set-Content -Encoding utf8)"
        ) from None
    if any(sign in text for sign in "\0\r\n"):
        raise EnvironmentMistake(
            f"{name}_FILE names {path}, which is not one line of UTF-8 text; write the secret alone into it, as UTF-8"
        )
    return text


def one_of(environ: Mapping[str, str], name: str, allowed: Sequence[str], default: str) -> str:
    """A word of a closed set, in any case."""
    text = environ.get(name, "").strip().lower() or default
    if text not in allowed:
        raise EnvironmentMistake(f"{name} is {shown(text)}; set it to one of {', '.join(allowed)}")
    return text


def log_level(environ: Mapping[str, str]) -> str:
    return one_of(environ, "LOG_LEVEL", LOG_LEVELS, "info").upper()


def log_format(environ: Mapping[str, str]) -> str:
    """`text` for people, `json` for what collects logs (`common.logs`)."""
    return one_of(environ, "LOG_FORMAT", FORMATS, TEXT)


def listen_address(environ: Mapping[str, str]) -> tuple[str, int]:
    text = environ.get("MAZEVAULT_LISTEN_ADDR", "")
    if not text:
        return "0.0.0.0", _port("PORT", environ.get("PORT", "") or "8443")  # noqa: S104  a container listens on all its addresses
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host or not colon:
        raise EnvironmentMistake(
            f"MAZEVAULT_LISTEN_ADDR is {shown(text)}; write host:port or :port, for example :8443, "
            "and an IPv6 address as [::1]:8443"
        )
    return host or "0.0.0.0", _port("MAZEVAULT_LISTEN_ADDR", port, text)  # noqa: S104  the same


def _port(variable: str, port: str, text: str | None = None) -> int:
    if not (port.isascii() and port.isdecimal()) or len(port) > 5 or not 0 < int(port) < 65536:
        example = "a port number such as 8443" if text is None else "host:port or :port, for example :8443"
        raise EnvironmentMistake(f"{variable} is {shown(text or port)}; write {example}")
    return int(port)


def flag(environ: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = environ.get(name, "").strip().lower()
    if not text:
        return default
    if text not in ("true", "false", "1", "0", "yes", "no"):
        raise EnvironmentMistake(f"{name} is {shown(text)}; set it to true or false")
    return text in ("true", "1", "yes")


def whole(environ: Mapping[str, str], name: str, *, default: int, low: int, high: int) -> int:
    text = environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or not low <= int(text) <= high:
        raise EnvironmentMistake(f"{name} is {shown(text)}; it must be a whole number from {low} to {high}")
    return int(text)
