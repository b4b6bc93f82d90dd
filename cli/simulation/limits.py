"""Open files, one for each connection on either side: raised where the system allows it, else refused in a sentence."""

from __future__ import annotations

import resource


class TooFewFiles(Exception):
    """The hard limit of this machine is below what the run needs; the sentence says both."""


def require_open_files(wanted: int) -> None:
    """Raise the soft limit of this process, and of those it starts, to `wanted`. Raises `TooFewFiles`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise TooFewFiles(
            f"the run needs {wanted} open files in one process and this machine allows {hard}; "
            "simulate fewer gateways, leave --waiting lower, or raise the limit (ulimit -Hn) as root"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
