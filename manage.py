#!/usr/bin/env python
"""Django's command line. The mode decides which settings are loaded."""

import os
import sys

from common.environ import EnvironmentMistake
from orchestrator.mode import settings_module


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        from orchestrator.node import checking, parent  # Django is for its children

        sys.exit(checking.help_or_check(sys.argv[2:]) if sys.argv[2:] else parent.main())
    if sys.argv[1:2] == ["probe"] and set(sys.argv[2:]) <= {"--ready"}:
        from orchestrator.node import probe

        sys.exit(probe.main(sys.argv[2:]))
    try:
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", settings_module(os.environ))
        from django.core.management import execute_from_command_line

        execute_from_command_line(sys.argv)
    except EnvironmentMistake as mistake:
        for sentence in mistake.sentences:
            print(f"- {sentence}", file=sys.stderr)
        sys.exit("nothing was done; manage.py serve --help says what a node needs, serve --check what is missing")


if __name__ == "__main__":
    main()
