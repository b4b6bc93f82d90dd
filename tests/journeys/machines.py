"""The machine of one gateway of a running stack, whose disk and database can be copied."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from cli.stack.children import Child
from cli.stack.layout import ROOT, GatewaySpec
from cli.stack.stack import Stack, free_port_base


class Machine:
    """`started` starts the gateway again where that takes more than the stack knows."""

    def __init__(self, stack: Stack, name: str, folder: Path, started: Callable[[str], None] | None = None) -> None:
        self.stack, self.name, self.folder = stack, name, folder
        self._started = started or stack.start
        self.spec = next(one for one in stack.layout.gateways if one.name == name)
        self.url = stack.environment_of(name)["DATABASE_URL"]

    def sql(self, *statements: sql.Composed | sql.SQL) -> None:
        databases = self.stack._databases
        assert databases is not None
        with psycopg.connect(databases.admin_url, autocommit=True) as admin:
            for one in statements:
                admin.execute(one)

    def copy_database(self, there: str, source: str = "") -> None:
        """Its database under another name; nobody may be connected to either."""
        own = urlsplit(self.url).path.lstrip("/")
        self.sql(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(there)),
            sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(
                sql.Identifier(there), sql.Identifier(source or own), sql.Identifier(own)
            ),
        )

    def copied(self, more: Mapping[str, str] | None = None) -> tuple[Child, GatewaySpec]:
        """A copy of it as it is now, off. The machine itself is stopped for the moment and runs again."""
        self.stack.stop(self.name)
        try:
            self.copy_database("copied")
            shutil.copytree(self.stack.layout.node(self.name), self.folder / self.name, dirs_exist_ok=True)
        finally:
            self._started(self.name)
        port = free_port_base()
        environment = {
            **self.stack.environment_of(self.name),
            "DATABASE_URL": self.url.replace(f"/{urlsplit(self.url).path.lstrip('/')}?", "/copied?"),
            "MAZEVAULT_LISTEN_ADDR": f"127.0.0.1:{port}",
            "MAZEVAULT_GATEWAY_STATE_FILE": str(self.folder / self.name / "gateway-state.json"),
            **(more or {}),
        }
        argv = [sys.executable, str(ROOT / "manage.py"), "serve"]
        child = Child("copy", argv, environment, self.stack.layout.logs / "copy.log", ROOT)
        return child, replace(self.spec, name="copy", port=port)
