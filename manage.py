#!/usr/bin/env python
"""Django's command line. The mode decides which settings are loaded."""

import os
import sys

from orchestrator.mode import settings_module


def main() -> None:
    if sys.argv[1:] == ["serve"]:
        from orchestrator.node import parent  # Django is for its children

        sys.exit(parent.main())
    if sys.argv[1:2] == ["probe"] and set(sys.argv[2:]) <= {"--ready"}:
        from orchestrator.node import probe

        sys.exit(probe.main(sys.argv[2:]))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", settings_module(os.environ))
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
