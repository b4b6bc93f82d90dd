"""`manage.py probe`: is the node in this container alive, or ready? For a container's health check.

`manage.py` runs it without Django: it is called every few seconds, and an import would cost more than the answer.
"""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from orchestrator.node import probe


class Command(BaseCommand):
    help = "Ask this node's own listener whether it is alive (or, with --ready, can serve); exit status 1 when it is not."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--ready", action="store_true", help="ask whether it can serve")

    def handle(self, *args: Any, **options: Any) -> None:
        sys.exit(probe.main(["--ready"] if options["ready"] else []))
