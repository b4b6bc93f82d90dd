"""How large what travels may be, for those who only count bytes."""

MAX_WIRE_BYTES = 2 * 1024 * 1024
"""Of one sealed message."""
