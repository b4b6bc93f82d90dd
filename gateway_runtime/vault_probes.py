"""Whether the vaults of this gateway answer it, looked at beside the heartbeat, since a vault may be slow (DESIGN §7).

A look lists one name with the node's own identity: it changes nothing and reads no value. Standbys look too: they will need them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import islice

from django.conf import settings

from common.process_locks import ProcessLock
from gateway_runtime import vaults
from integrations.azure.errors import AzureTrouble
from integrations.azure.keyvault import KeyVault
from integrations.azure.node_cloud import AzureNode
from integrations.azure.node_secrets import own_connection
from protocol.messages import Probe

LOOK_SECONDS = 5.0
"""A vault that does not answer within this does not answer."""


@dataclass
class VaultProbes:
    """The latest findings, for heartbeats of another thread."""

    own: Probe = field(default_factory=lambda: Probe(ok=None))
    projects: list[Probe] = field(default_factory=list)
    _lock: ProcessLock = field(default_factory=lambda: ProcessLock("findings of vaults"))

    def look(self) -> None:
        """Look at the node's own vault and at those of projects, one after the other."""
        node: AzureNode = settings.MAZEVAULT.azure
        own = probe(node.own_vault, node) if node.own_vault else Probe(ok=None)
        projects = [probe(url, node) for url in node.vaults]
        with self._lock:
            self.own, self.projects = own, projects

    def found(self) -> tuple[Probe, list[Probe]]:
        with self._lock:
            return self.own, list(self.projects)


def probe(url: str, node: AzureNode) -> Probe:
    """One look. What was found names the code of the trouble, never an address or an answer."""
    began = time.monotonic()
    try:
        connection = own_connection(url, node)
        with KeyVault(connection, vaults.credential_of(connection), vaults.guard(), seconds=LOOK_SECONDS) as vault:
            list(islice(vault.entries(), 1))
    except AzureTrouble as trouble:
        return Probe(ok=False, detail=trouble.code)
    return Probe(ok=True, latency_ms=round((time.monotonic() - began) * 1000, 2))
