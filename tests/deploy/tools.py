"""Programs of others that some tests run: where they are, or a skip that says what is missing."""

from __future__ import annotations

import os
import shutil

import pytest


def tool(*names: str) -> str:
    """The first of these names on PATH or in the folder that MAZEVAULT_TOOLS names; distributions rename some."""
    path = os.pathsep.join([os.environ.get("MAZEVAULT_TOOLS", ""), os.environ["PATH"]])
    for name in names:
        if found := shutil.which(name, path=path):
            return found
    pytest.skip(f"{names[0]} is neither on PATH nor in the folder MAZEVAULT_TOOLS names")
