"""What a node of the Primary remembers of its database outside of it: then one that was put back shows (DESIGN §8, I4).

A snapshot of a volume, or a dump that is read back into the same server, has the identifier and the timeline it had before. But
the looks that are counted in it (`PrimaryNode.looks`, one in five seconds from each node) are fewer than were counted already.
"""

from __future__ import annotations

import contextlib
import logging
from errno import ENOENT
from pathlib import Path

import msgspec
from django.conf import settings

from common.files import write_private
from protocol.decoding import decode_json

log = logging.getLogger("mazevault.gateways.generation")

NAME = "database-seen.json"
"""Beside the server certificate: the folder a node keeps through restarts. Without one only the process remembers."""


class Seen(msgspec.Struct, frozen=True):
    """A life of the database, when it began (seconds since 1970 by its clock), and how many looks were counted in it."""

    life: str
    since: float
    looks: int


def has_gone_back(known: Seen | None, found: Seen) -> bool:
    """Whether the database is older than what is known of it. Pure.

    A life that began later is one that another process began, because it noticed the same.
    """
    if known is None:
        return False
    return found.looks < known.looks if found.life == known.life else found.since <= known.since


NOT_KEPT = (
    "%s cannot be written (%s): a snapshot of the database that is put back while this node is stopped will not be noticed here; "
    "give it a folder it may write to"
)


class Memory:
    """Of one process, and of its node where there is a folder. Safe between threads: it is only ever replaced as a whole."""

    def __init__(self) -> None:
        self._seen: Seen | None = None
        self._told = False

    def seen(self) -> Seen | None:
        if self._seen is None:
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                self._seen = decode_json(_file().read_bytes(), Seen)
        return self._seen

    def keep(self, found: Seen, *, in_file: bool = False) -> None:
        self._seen = found
        if not in_file:
            return
        try:
            if not _file().parent.is_dir():
                raise FileNotFoundError(ENOENT, "there is no such folder")
            write_private(_file(), msgspec.json.encode(found).decode())
        except OSError as error:
            if not self._told:
                log.warning(NOT_KEPT, _file(), error.strerror)
            self._told = True

    def forget(self) -> None:
        self._seen = None


memory = Memory()


def _file() -> Path:
    return Path(settings.MAZEVAULT.tls_directory) / NAME
