"""How the Primary reaches the vaults of projects for somebody who asks: in a person's own name, or as an application."""

from __future__ import annotations

from accounts import rights
from accounts.models import Session
from accounts.rights import Rights
from common.clock import now
from gateways.storage_own import OwnWays
from gateways.vault_ways import credential_of_person
from integrations.azure.cloud import Connection
from integrations.azure.credentials import Credential
from vault.ports import Asker


class PrimaryWays(OwnWays):
    """`integrations.keeping.Ways` at the Primary."""

    def _of_person(self, way: Connection, asker: Asker | None) -> Credential:
        shown = asker.credential if asker else None
        row = rights.row_of(shown) if isinstance(shown, Rights) else None
        return credential_of_person(way, row if isinstance(row, Session) else None, now())
