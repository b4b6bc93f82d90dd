"""`manage.py setup`: everything a Primary needs beside its tables. Safe to repeat; run it after each upgrade."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError


class Command(BaseCommand):
    help = "Create what is missing: environments, certificate authorities, channel keys, server certificate, administrator."

    def handle(self, *args: Any, **options: Any) -> None:
        node = settings.MAZEVAULT
        if node.mode == "gateway":
            raise CommandError("a gateway needs no setup: it registers with GATEWAY_BOOTSTRAP_TOKEN; run this at the Primary")
        from orchestrator.first_setup import set_up  # a gateway has none of these tables

        try:
            created = set_up(node)
        except ValueError as error:
            raise CommandError(str(error)) from error
        if created:
            self.stdout.write(f"administrator {node.admin_email}; the password is in {node.admin_password_file}")
