"""`manage.py serve`: run this node, Primary or gateway, until TERM or INT.

`manage.py` itself starts the parent without Django; this command is for who calls it another way.
"""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand

from orchestrator.node import parent


class Command(BaseCommand):
    help = "Run this node until TERM or INT."

    def handle(self, *args: Any, **options: Any) -> None:
        sys.exit(parent.main())
