"""Every number and every text a gateway can say, found in the types of the messages: a new field is said without more ado."""

from __future__ import annotations

import enum
import types
import uuid
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from msgspec import Meta, Struct

from gateways.urls import urlpatterns
from protocol.messages import Message

Path = tuple[str | int, ...]
Kinds = dict[str, type[Message]]


@dataclass(frozen=True)
class Place:
    """Where in a message something stands, and of which plain type it is."""

    path: Path
    kind: type


def kinds_by_path() -> Kinds:
    """Every path of the channel with the message that is said there."""
    found = {str(pattern.pattern): getattr(pattern.callback, "kind", None) for pattern in urlpatterns}
    return {f"/api/v1/{path}": kind for path, kind in found.items() if kind and not path.endswith("/")}


def sample(kind: Any, name: str = "") -> Any:
    """A plain value of a type, with something in every list and every optional field."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        metas = [meta for meta in args[1:] if isinstance(meta, Meta)]
        if args[0] is str and any((meta.pattern or "").startswith("^[0-9a-f]{8}") for meta in metas):
            return str(uuid.uuid4())
        low = max((meta.ge or 0 for meta in metas), default=0)
        short = max((meta.min_length or 0 for meta in metas), default=0)
        plain = sample(args[0], name)
        return max(plain, low) if isinstance(plain, int | float) else plain * short if short > 1 else plain
    if origin in (Union, types.UnionType):
        return sample(next(one for one in args if one is not type(None)), name)
    if isinstance(kind, type) and issubclass(kind, Struct):
        return {field: sample(hint, field) for field, hint in hints(kind).items()}
    if origin is list:
        return [sample(args[0], name)]
    if origin is dict:
        return {"word": sample(args[1], name)}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return next(iter(kind)).value
    if kind is str:
        return datetime.now(UTC).isoformat() if name.endswith(("_at", "_until")) else "x"
    return {bool: False, int: 0, float: 0.0}.get(kind, "x")


def places(kind: Any, of: tuple[type, ...], path: Path = ()) -> Iterator[Place]:
    """Where values of these plain types stand in what `sample` makes."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        yield from places(args[0], of, path)
    elif origin in (Union, types.UnionType):
        yield from places(next(one for one in args if one is not type(None)), of, path)
    elif isinstance(kind, type) and issubclass(kind, Struct):
        for name, hint in hints(kind).items():
            yield from places(hint, of, (*path, name))
    elif origin is list:
        yield from places(args[0], of, (*path, 0))
    elif origin is dict:
        yield from places(args[1], of, (*path, "word"))
    elif kind in of:
        yield Place(path, kind)


def with_value(body: Any, path: Path, value: Any) -> Any:
    """The same message that says this there."""
    changed = deepcopy(body)
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return changed


def hints(kind: type[Struct]) -> dict[str, Any]:
    found = get_type_hints(kind, include_extras=True)
    return {name: found[name] for name in kind.__struct_fields__}
