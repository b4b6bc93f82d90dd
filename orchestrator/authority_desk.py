"""The authorities' part of `manage.py keys`: list generations, begin a new one, take the root's key out of this installation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django.core.management.base import CommandError
from django.db import transaction

from common import audit
from common.clock import now as clock_now
from common.errors import MazeVaultError
from common.files import write_private
from gateways import authority_changes, authority_report
from gateways.authority_api import shown
from gateways.authority_changes import Wish
from vault import authorities, ceremony
from vault.authorities import IssuingRefused, RootKeyAbsent
from vault.ceremony import ForeignRoot, RootRefused
from vault.generations import CHANNEL, ROOT

ACTOR = "operator:keys"
Tell = Callable[[str], Any]


def handle(options: Mapping[str, Any], tell: Tell) -> None:
    try:
        {"list": _list, "rotate": _rotate, "export-root": _export, "remove-root": _remove}[options["verb"]](options, tell)
    except (MazeVaultError, RootKeyAbsent, RootRefused, IssuingRefused, OSError, ValueError) as error:
        raise CommandError(_sentence(error, options)) from error


def _list(options: Mapping[str, Any], tell: Tell) -> None:
    rows = authority_report.overview(clock_now())
    if options["output"] == "json":
        tell(json.dumps([shown(row) for row in rows], indent=2))
        return
    tell(f"{'authority':<10} {'generation':>10} {'':<8} {'ends':<10} {'days left':>9}")
    for row in rows:
        named = f"{row.authority:<10} {row.generation:>10} {row.standing:<8}"
        tell(f"{named} {row.not_after:%Y-%m-%d} {row.days_left:>9.0f}{_more(row)}")
        if row.warning:
            tell(f"{'':<10} WARNING {row.warning}")


def _more(row: authority_report.Row) -> str:
    if row.signs_from:
        return f"  signs from {row.signs_from:%Y-%m-%d}"
    if row.followed_from:
        return f"  followed by the next from {row.followed_from:%Y-%m-%d}" + ("" if row.key_is_here else "; its key is not here")
    return ""


def _rotate(options: Mapping[str, Any], tell: Tell) -> None:
    moment = clock_now()
    wish = _wish(options, moment)
    if wish.at_once:
        for sentence in authority_changes.consequences(wish, moment):
            tell(f"breaks: {sentence}")
        if options["confirm"].upper() != wish.authority.upper():
            raise CommandError(f"nothing was changed; to go on add --confirm {wish.authority.upper()}")
    for sentence in authority_changes.rotate(wish, moment):
        tell(sentence)


def _wish(options: Mapping[str, Any], now: datetime) -> Wish:
    authority, grace = _named(options["authority"]), _grace(options["grace"])
    if not timedelta() <= grace <= authority_changes.LONGEST_GRACE:
        raise CommandError(f"--grace must be 0 to {authority_changes.LONGEST_GRACE / timedelta(hours=1):.0f} hours")
    if options["import_root"] and authority != ROOT:
        raise CommandError("--import-root goes with --authority ROOT")
    if options["import_root"] and len(options["root_key"]) != 1:
        raise CommandError("--import-root needs the new root's key: --root-key FILE and --passphrase-file FILE")
    keys = _keys(options)
    root = _foreign(options["import_root"], keys[0], now) if options["import_root"] else None
    return Wish(authority, ACTOR, options["reason"] or "asked for by an operator", options["now"], grace, keys, root)


def _grace(hours: float | None) -> timedelta:
    return authority_changes.GRACE if hours is None else timedelta(hours=hours)


def _named(text: str) -> str:
    known = authority_changes.known()
    found = [name for name in known if name.lower() == text.strip().lower()]
    if not found:
        raise CommandError(f"there is no authority {text!r}; there are: {', '.join(name.upper() for name in known)}")
    return found[0]


def _keys(options: Mapping[str, Any]) -> list[ec.EllipticCurvePrivateKey]:
    """The root keys that were brought: under one passphrase, or each under its own in the same order."""
    files, passphrases = options["root_key"], options["passphrase_file"]
    if len(passphrases) not in (0, 1, len(files)):
        raise CommandError("give one --passphrase-file for all keys, or one for each --root-key in the same order")
    each = passphrases * len(files) if len(passphrases) == 1 else passphrases or [""] * len(files)
    return [_key(file, passphrase) for file, passphrase in zip(files, each, strict=True)]


def _key(file: str, passphrase_file: str) -> ec.EllipticCurvePrivateKey:
    passphrase = Path(passphrase_file).read_bytes().strip() if passphrase_file else None
    try:
        key = load_pem_private_key(Path(file).read_bytes(), passphrase)
    except (ValueError, TypeError) as error:
        raise CommandError(f"{file} does not open; give its passphrase with --passphrase-file FILE") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        raise CommandError("the root's key must be on the curve P-256 or P-384")
    return key


def _foreign(file: str, key: ec.EllipticCurvePrivateKey, now: datetime) -> ForeignRoot:
    return ceremony.checked_root(Path(file).read_text(), key, now)


def _export(options: Mapping[str, Any], tell: Tell) -> None:
    """Into a file that nobody else reads, under a passphrase; the key stays here until `remove-root`."""
    if not options["out"] or len(options["passphrase_file"]) != 1:
        raise CommandError("say where to and under which passphrase: --out FILE --passphrase-file FILE")
    out = Path(options["out"])
    if out.exists():
        raise CommandError(f"{out} exists; name a new file")
    exported = authorities.export_root_key(Path(options["passphrase_file"][0]).read_bytes().strip())
    with transaction.atomic():
        _audit("authority.root.exported")
        write_private(out, exported.decode())
    tell(f"the root's key is in {out}; put it in the safe, try to read it, then run: ./mazevault keys remove-root")


def _remove(options: Mapping[str, Any], tell: Tell) -> None:
    if options["confirm"].upper() != "ROOT":
        raise CommandError(
            "nothing was changed: without its key no authority renews itself any more. Export it first "
            "(./mazevault keys export-root), then add --confirm ROOT"
        )
    with transaction.atomic():
        removed = authorities.remove_root_key()
        _audit("authority.root.removed")
    tell(f"{removed} root keys removed; from now on new generations need --root-key FILE")
    rows = [row for row in authority_report.overview(clock_now()) if row.followed_from and row.authority != CHANNEL]
    for row in sorted(rows, key=lambda row: row.followed_from or row.not_after):
        since, end = f"{row.followed_from:%Y-%m-%d}", f"{row.not_after:%Y-%m-%d}"
        tell(f"bring the root's key back for {row.authority} from {since}; it ends on {end}")


def _audit(action: str) -> None:
    audit.record(actor=ACTOR, action=action, entity="authority", entity_id=ROOT, severity=audit.Severity.CRITICAL)


def _sentence(error: Exception, options: Mapping[str, Any]) -> str:
    if not isinstance(error, RootKeyAbsent) or options["root_key"]:
        return str(error)
    if options["authority"].lower() == ROOT:
        return (f"{error}: make the next root elsewhere, and bring it with --import-root FILE --root-key FILE "
                "--passphrase-file FILE (docs/operations/keys.md)")  # fmt: skip
    return str(error)
