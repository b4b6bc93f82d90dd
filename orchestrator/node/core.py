"""`python -m orchestrator.node.core DIRECTORY LIFELINE`: the one Django process of a gateway, started by the parent."""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.node.lifeline import Lifeline, end_with_parent
from orchestrator.node.template import load


def main() -> None:
    end_with_parent()
    lifeline = Lifeline(int(sys.argv[2]))
    if not load(lifeline):
        sys.exit(1)
    from orchestrator.node import roles

    sys.exit(roles.run("core", "core", Path(sys.argv[1]), lifeline))


if __name__ == "__main__":
    main()
