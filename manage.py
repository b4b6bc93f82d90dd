#!/usr/bin/env python
"""Django's command line. The mode decides which settings are loaded."""

import os
import sys

from orchestrator.mode import settings_module


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", settings_module(os.environ))
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
