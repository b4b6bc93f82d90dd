"""Strict decoding into a type, safe from the first call on.

msgspec works out the fields of a `Struct` at its first use, and keeps what it has so far where every other thread finds it. A
thread that decodes the same type meanwhile follows a null pointer, and the process is gone. So each type is worked out once, by
one thread at a time.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar, cast

import msgspec

Decoded = TypeVar("Decoded")

_lock = threading.Lock()
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def decode_json(text: bytes | str, kind: type[Decoded]) -> Decoded:
    """The JSON text as this type, strictly. Raises `msgspec.DecodeError` that names the field."""
    return cast(Decoded, _decoder(kind).decode(text))


def convert(value: object, kind: type[Decoded]) -> Decoded:
    """Decoded JSON (objects, arrays, texts, numbers) as this type. Raises `msgspec.ValidationError` that names the field."""
    _decoder(kind)
    return msgspec.convert(value, kind)


def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    found = _decoders.get(kind)
    if found is None:
        with _lock:
            found = _decoders.setdefault(kind, msgspec.json.Decoder(kind, strict=True))
    return found
