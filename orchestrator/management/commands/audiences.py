"""`manage.py audiences`: credentials that count everywhere, which gateways in production refuse."""

from __future__ import annotations

import uuid
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import everywhere
from common.api import rfc3339
from common.clock import database_now
from common.errors import MazeVaultError


class Command(BaseCommand):
    help = "List living tokens and sessions without an audience, give one an audience, or end the time such ones go on."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        verbs.add_parser("list", help="those that gateways in production refuse now or later")
        give = verbs.add_parser("give", help="let one count in these places only, for example PRIMARY,NPR")
        give.add_argument("id", type=uuid.UUID)
        give.add_argument("audience")
        verbs.add_parser("end-grace", help="let gateways in production refuse them from now on")

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.MAZEVAULT.mode == "gateway":
            raise CommandError("audiences are kept at the Primary; run it there")
        now = database_now()
        try:
            if options["verb"] == "list":
                for one in everywhere.living(now):
                    used, until = rfc3339(one.last_used_at) or "never", rfc3339(one.until) or "refused"
                    self.stdout.write(f"{one.kind}\t{one.id}\t{one.holder}\t{one.name}\tused {used}\tat gateways until {until}")
            elif options["verb"] == "give":
                meant = everywhere.give_audience(options["id"], options["audience"].split(","), now)
                self.stdout.write(f"{options['id']} counts at {', '.join(meant)} from now on")
            else:
                self.stdout.write(f"{everywhere.end_grace(now)} credentials count at no gateway any more")
        except MazeVaultError as refused:
            raise CommandError(refused.sentence) from refused
