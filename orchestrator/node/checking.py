"""`manage.py serve --check` and `--help`: what a node needs before it can run, all of it at once and in sentences.

Nothing is changed and nothing is waited for. What is only tried by starting (a lease, a registration) is not tried here.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from common.environ import EnvironmentMistake

USAGE = """\
manage.py serve            run this node, Primary or gateway by MAZEVAULT_MODE, until TERM or INT
manage.py serve --check    say what is missing or wrong of its settings, database and folders, and change nothing;
                           exit status 0 when it could start, 1 when not
manage.py serve --help     this text

It is set by environment variables only. Every node needs
  DATABASE_URL              postgresql://user:password@host:5432/name
  MAZEVAULT_MASTER_KEY      32 random bytes in base64: openssl rand -base64 32
  MAZEVAULT_SESSION_SECRET  at least 32 characters: openssl rand -base64 48
  RUN_MIGRATIONS            true, or run manage.py migrate before
a Primary that starts for the first time
  MAZEVAULT_ADMIN_PASSWORD_FILE   where the administrator's first password is written
and a gateway
  MAZEVAULT_MODE=gateway, GATEWAY_BOOTSTRAP_TOKEN (once), MAZEVAULT_GATEWAY_STATE_FILE (/data/gateway-state.json)
Each secret may come as NAME_FILE, a path. README.md lists all variables, docs/operations/production.md has files to begin with.
"""


def help_or_check(arguments: list[str]) -> int:
    """What stands behind `serve`. Returns the exit status."""
    if arguments in (["--help"], ["-h"], ["help"]):
        print(USAGE, end="")
        return 0
    if arguments == ["--check"]:
        return check(os.environ)
    print(f"serve does not know {' '.join(arguments)}; it takes --check or --help", flush=True)
    return 2


def check(environ: Mapping[str, str]) -> int:
    """Print what is wrong, or that nothing is. Returns the exit status."""
    found = list(problems(environ))
    for sentence in found:
        print(f"- {sentence}")
    told = "this node could start" if not found else f"this node cannot run: {len(found)} missing or wrong"
    print(told)
    return 1 if found else 0


def mistakes(environ: Mapping[str, str]) -> EnvironmentMistake | None:
    """Everything that is wrong of the variables."""
    from orchestrator.environment import load_node
    from orchestrator.mode import settings_module
    from orchestrator.node.shape import node_shape

    sentences: list[str] = []
    for read in (node_shape, settings_module, lambda given: load_node(given, mode=mode_or_primary(given))):
        try:
            read(environ)
        except EnvironmentMistake as mistake:
            sentences += mistake.sentences
    return EnvironmentMistake(*sentences) if sentences else None


def mode_or_primary(environ: Mapping[str, str]) -> str:
    return "gateway" if environ.get("MAZEVAULT_MODE", "").strip().lower() == "gateway" else "primary"


def problems(environ: Mapping[str, str]) -> Iterator[str]:
    """Sentences about variables; where those are right, about folders and the database."""
    wrong = mistakes(environ)
    if wrong is not None:
        yield from wrong.sentences
        return
    from orchestrator.environment import load_node

    node = load_node(environ, mode=mode_or_primary(environ))
    yield from _folders(node)
    if node.gateway is not None and not node.gateway.bootstrap_token and not node.gateway.state_file.exists():
        yield (
            f"GATEWAY_BOOTSTRAP_TOKEN is missing, and there is no state file at {node.gateway.state_file}: create a token at the "
            "Primary (POST gateways/bootstrap), or point MAZEVAULT_GATEWAY_STATE_FILE to the file of this gateway"
        )
    yield from _database()


def _folders(node):  # type: ignore[no-untyped-def]
    """Where the node writes: folders that cannot be written are told by their variable."""
    wanted: dict[str, Path | None] = {"MAZEVAULT_CA_FILE": node.ca_file and node.ca_file.parent}
    if node.gateway is not None:
        wanted["MAZEVAULT_GATEWAY_STATE_FILE"] = node.gateway.state_file.parent
    else:
        wanted["MAZEVAULT_TLS_CERT_PATH"] = node.tls_directory if node.tls_enabled else None
        wanted["MAZEVAULT_ADMIN_PASSWORD_FILE"] = node.admin_password_file and node.admin_password_file.parent
    for name, folder in wanted.items():
        if folder is not None and (why := unwritable(folder)):
            yield f"{name} leads to {folder}, where this account ({os.getuid()}) cannot write: {why}"


def unwritable(folder: Path) -> str:
    """Why nothing can be written there, also where the folder is not made yet; empty when it can be."""
    existing = next((one for one in (folder, *folder.parents) if one.exists()), Path("/"))
    if not existing.is_dir():
        return f"{existing} is no folder"
    try:
        with tempfile.TemporaryFile(dir=existing):
            return ""
    except OSError as error:
        return f"{existing}: {error.strerror}"


def _database() -> Iterator[str]:
    """One look, without waiting."""
    import django
    import psycopg

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", f"orchestrator.settings.{mode_or_primary(os.environ)}")
    django.setup()
    from django.conf import settings

    from common.direct import open_connection
    from orchestrator.node import preparing

    try:
        open_connection().close()
    except psycopg.Error as error:
        yield f"the database refuses, or does not answer; look at DATABASE_URL: {preparing.first_line(error)}"
        return
    missing = preparing.missing_migrations()
    if missing and not settings.MAZEVAULT.run_migrations:
        yield preparing.told_missing(missing)
    if (
        settings.MAZEVAULT.gateway is None
        and settings.MAZEVAULT.admin_password_file is None
        and preparing.has_no_account(missing)
    ):
        yield "MAZEVAULT_ADMIN_PASSWORD_FILE is missing; it is where the first password of the administrator is written"
