"""Writing small files with secrets in them: in one step, readable by the owner only, on disk before the old one goes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically with mode 0600 and flush it to disk first. Missing folders are made with mode 0700."""
    private_folder(path.parent)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def private_folder(path: Path) -> None:
    """Make a folder and the missing ones above it for their owner only, whatever the umask. `Path.mkdir` gives its mode to the
    last one alone. Those that are there stay as they are: they are somebody's."""
    for folder in reversed([one for one in (path, *path.parents) if not one.exists()]):
        folder.mkdir(mode=0o700, exist_ok=True)


def open_private(path: Path, mode: str) -> IO[bytes]:
    """Open a file to write (`wb`) or to append (`ab`) that only its owner may read, whatever the umask is and the file was."""
    private_folder(path.parent)
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if mode == "ab" else os.O_TRUNC)
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)
    return os.fdopen(descriptor, mode)
