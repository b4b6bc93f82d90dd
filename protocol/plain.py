"""Texts of others made plain before they are shown: what moves a cursor, ends a line or turns the reading is spelled out."""

from __future__ import annotations

from typing import Any, TypeVar

from msgspec import Struct, structs

_TURNING = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Characters that turn the direction of reading, so that a text looks like another one."""
_MOVING = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, 0xFEFF, *range(0xD800, 0xE000))
"""Control characters of both sets, ends of lines, and halves of surrogate pairs."""
_SPELLED = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in (*_TURNING, *_MOVING)}
_SPELLED |= {0x0A: "\\n", 0x09: "\\t"}
VERBATIM = frozenset({
    "key", "name", "after", "forget", "text", "head", "body", "salt", "signature", "csr", "server_csr", "token", "value",
})  # fmt: skip
"""Fields that are compared, signed or stored as they are: names and values of secrets, and what is proof byte for byte."""

M = TypeVar("M", bound=Struct)


def plain(text: str) -> str:
    return text if text.isascii() and text.isprintable() else text.translate(_SPELLED)


def plain_message(message: M) -> M:
    """The same message with every text in it made plain, but for what is `VERBATIM`."""
    changed = {}
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if name not in VERBATIM and (made := _plain_value(value)) is not value:
            changed[name] = made
    return structs.replace(message, **changed) if changed else message


def _plain_value(value: Any) -> Any:
    """The very same object when nothing in it had to be changed."""
    if type(value) is str:
        return plain(value)
    if isinstance(value, Struct):
        return plain_message(value)
    if isinstance(value, list):
        made = [_plain_value(one) for one in value]
        return made if any(new is not old for new, old in zip(made, value, strict=True)) else value
    if isinstance(value, dict):
        pairs = [(plain(name), _plain_value(one)) for name, one in value.items()]
        same = all(name is old and one is value[old] for (name, one), old in zip(pairs, value, strict=True))
        return value if same else dict(pairs)
    return value
