"""`manage.py audit`: write this node's audit trail out as files that can be checked anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from common.snapshot import snapshot
from protocol.audit_evidence import Evidence
from protocol.audit_files import FORMATS, write_export


class Command(BaseCommand):
    help = "Export the audit chains with their checkpoints and public keys."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("verb", choices=["export"])
        parser.add_argument("--out", type=Path, required=True)
        parser.add_argument("--format", choices=FORMATS, default="jsonl")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with snapshot() as moment:
                counts = write_export(options["out"], _evidence(moment), options["format"])
        except (ValueError, OSError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{sum(counts.values())} entries of {len(counts)} chains are in {options['out']}")


def _evidence(made_at: str) -> Evidence:
    if settings.MAZEVAULT.mode == "gateway":
        from gateway_runtime import audit_report as own
    else:
        from gateways import audit_report as own  # type: ignore[no-redef]
    return own.evidence(made_at)
