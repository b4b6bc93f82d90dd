"""`manage.py keys`: the keys at rest of this node, and the generations of a Primary's authorities.

Rotating keys at rest is safe to end anywhere and to begin again; a change of an authority is one transaction.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from common.clock import now
from vault import encryption, keys
from vault.encryption import MasterKeyMismatch, SealBroken

ACTOR = "operator:keys"
READERS_SECONDS = 5.0
"""Whoever read a sealed value before it was sealed anew has opened it by then."""
PLATFORM = "platform"


class Command(BaseCommand):
    help = "Show or rotate the keys at rest, or the generations of the authorities, while the node runs."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("verb", choices=["status", "rotate", "list", "export-root", "remove-root"])
        parser.add_argument("--master", action="store_true", help="wrap all keys under the current MAZEVAULT_MASTER_KEY")
        parser.add_argument("--environment", default="", help="give an environment (or: platform) a new key")
        parser.add_argument("--output", choices=["text", "json"], default="text")
        _add_authority_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["verb"] == "status":
                self._status(options["output"])
            elif options["authority"] and (options["master"] or options["environment"]):
                raise CommandError("rotate one thing at a time: --master, --environment CODE, or --authority NAME")
            elif options["verb"] != "rotate" or options["authority"]:
                self._authorities(options)
            elif options["master"] == bool(options["environment"]):
                raise CommandError("say what to rotate: --master, --environment CODE, or --authority NAME")
            elif options["master"]:
                self._rotate_master()
            else:
                self._rotate_scope(_scope(options["environment"]))
        except (MasterKeyMismatch, SealBroken) as error:
            raise CommandError(str(error)) from error

    def _authorities(self, options: Mapping[str, Any]) -> None:
        if settings.MAZEVAULT.mode == "gateway":
            raise CommandError("authorities are the Primary's; run this there")
        from orchestrator import authority_desk  # a gateway has no tables of authorities

        authority_desk.handle(options, self.stdout.write)

    def _status(self, output: str) -> None:
        found = describe()
        if output == "json":
            self.stdout.write(json.dumps(found, indent=2))
            return
        self.stdout.write(f"master key {found['master_key'][:8]}, {found['wrapped_elsewhere']} keys under another one")
        for row in found["scopes"]:
            self.stdout.write(f"{row['scope']:<10} key {row['key']} since {row['since']}")
            for old, count in row["retired"].items():
                self.stdout.write(f"{'':<10} retired {old} still holds {count} values")

    def _rotate_master(self) -> None:
        total, done = keys.wrapped_elsewhere(), 0
        while keys.rewrap_next(ACTOR).done:
            done += 1
            self.stdout.write(f"{done} of {total} keys wrapped anew")
        self.stdout.write("all keys are under the current master key; MAZEVAULT_MASTER_KEY_PREVIOUS can go")

    def _rotate_scope(self, scope: str) -> None:
        made = keys.begin(scope, ACTOR, now())
        self.stdout.write(f"{scope}: {'a new key is current' if made else 'going on with the rotation that was begun'}")
        self._reseal(scope)
        time.sleep(READERS_SECONDS)
        destroyed = keys.destroy_unused(scope, ACTOR)
        left = keys.held_by_retired(scope)
        if left:
            raise CommandError(
                f"{left} values still need an old key of {scope}, which is kept; see: keys status, and run this again"
            )
        self.stdout.write(f"{scope}: every value is under the current key; {destroyed} old keys are destroyed")

    def _reseal(self, scope: str) -> None:
        """Passes until one changes nothing: what somebody held in a pass is taken in the next."""
        total, done = keys.held_by_retired(scope), 0
        moved = 1
        while moved:
            moved = 0
            for step in keys.reseal(scope):
                moved += step.done
                done += step.done
                self.stdout.write(f"{scope}: {done} of {total} values sealed anew")
                if step.broken:
                    self.stderr.write(f"{scope}: {step.broken} values do not open and are left as they are")


def _add_authority_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--authority", default="", help="begin a new generation of: an environment, PLATFORM, ROOT or CHANNEL")
    parser.add_argument("--now", action="store_true", help="it signs at once, because the key of the present one leaked")
    parser.add_argument("--grace", type=float, help="with --now: hours the present one is still trusted (0 to 168; 24)")
    parser.add_argument("--confirm", default="", help="with --now: the authority's name once more")
    parser.add_argument("--reason", default="", help="for the audit trail")
    parser.add_argument("--root-key", action="append", default=[],
                        help="file with a root's key (encrypted PKCS #8 PEM) that is not here; again for each root")  # fmt: skip
    parser.add_argument("--import-root", default="", help="with --authority ROOT: file with a root certificate made elsewhere")
    parser.add_argument("--passphrase-file", action="append", default=[], help="passphrase of that key file, or of each of them")
    parser.add_argument("--out", default="", help="export-root: the file to write")


def describe() -> dict[str, Any]:
    """What `keys status` shows; names of keys, never keys."""
    return {
        "master_key": encryption.master_key_id(settings.MAZEVAULT.master_key),
        "previous_master_key_known": settings.MAZEVAULT.previous_master_key is not None,
        "wrapped_elsewhere": keys.wrapped_elsewhere(),
        "scopes": [
            {
                "scope": row.scope,
                "key": str(row.current),
                "since": row.since.isoformat(),
                "master_key": row.master_key,
                "retired": {str(old): count for old, count in row.retired.items()},
            }
            for row in keys.status()
        ],
    }


def _scope(text: str) -> str:
    """Environment codes match in any case of letters."""
    known = [row.scope for row in keys.status()]
    found = [scope for scope in known if scope.lower() == text.strip().lower()]
    if not found:
        raise CommandError(f"there is no key for {text!r}; there are: {', '.join(known) or 'none yet'}")
    return found[0]
