"""Named places where a test may end the process with SIGKILL, to prove that a crash there loses nothing (reliability T11).

`MAZEVAULT_FAILPOINT=name` arms one place; a production node refuses to start with it.
"""

from __future__ import annotations

import os
import signal

from django.conf import settings


def reach(name: str) -> None:
    """Die here, without any clean-up, when this failpoint is armed."""
    if settings.MAZEVAULT.failpoint == name:
        os.kill(os.getpid(), signal.SIGKILL)
