"""A node's operational secrets from its own Key Vault, read once at start with the node's own identity (seed, Key Components).

What the environment says wins. Nothing is written anywhere: the values live in this process only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from common.logs import TEXT, say
from integrations.azure.cloud import AuthMethod, Connection
from integrations.azure.credentials import Credentials
from integrations.azure.egress import Guard
from integrations.azure.errors import AzureTrouble, ObjectMissing
from integrations.azure.keyvault import Held, KeyVault, SecretStore
from integrations.azure.node_cloud import AzureNode, azure_node

log = logging.getLogger("mazevault.node_secrets")

NAMES: Mapping[str, str] = {
    "MAZEVAULT_MASTER_KEY": "mazevault-master-key",
    "MAZEVAULT_MASTER_KEY_PREVIOUS": "mazevault-master-key-previous",
    "MAZEVAULT_SESSION_SECRET": "mazevault-session-secret",
    "DATABASE_URL": "database-url",
    "REDIS_URL": "redis-url",
    "ENTRA_CLIENT_SECRET": "entra-client-secret",
    "GATEWAY_BOOTSTRAP_TOKEN": "gateway-bootstrap-token",
    "METRICS_TOKEN": "metrics-token",
}
"""Variable to the name of its secret in the node's vault."""
EXPIRING = "ENTRA_CLIENT_SECRET"
PATIENCE_SECONDS = 60.0
"""How long a vault that does not answer, or throttles, keeps a node from starting before it gives up and says why."""
PAUSE_SECONDS = 2.0


def completed(environ: Mapping[str, str], *, sleep: Callable[[float], None] = time.sleep) -> Mapping[str, str]:
    """The environment, and from the vault what is absent in it. Without `MAZEVAULT_KEY_VAULT_URL` it is returned as it is.

    Raises `ValueError` with one sentence, the cause and the fix, when the vault denies or does not answer in time.
    """
    url = environ.get("MAZEVAULT_KEY_VAULT_URL", "").strip()
    wanted = {name: NAMES[name] for name in NAMES if not environ.get(name) and not environ.get(f"{name}_FILE")}
    if not url or not wanted:
        return environ
    node = azure_node(environ)
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        connection = own_connection(url, node)
        with KeyVault(connection, Credentials(connection, node.cloud).own(), Guard(node.cloud)) as vault:
            held = {variable: _read(vault, name, deadline, sleep) for variable, name in wanted.items()}
    except AzureTrouble as trouble:
        raise ValueError(f"MAZEVAULT_KEY_VAULT_URL: {trouble.cause}; {trouble.fix}") from None
    found = {variable: one.value.strip() for variable, one in held.items() if one and one.value.strip()}
    # This runs before the node's logging is set up, since the settings of the log come after it.
    taken = f"taken from {url}: {', '.join(sorted(found)) or 'nothing'}"
    say(taken, form=environ.get("LOG_FORMAT", TEXT), logger="mazevault.settings")
    return {**_expiry(held.get(EXPIRING)), **environ, **found}


def own_connection(url: str, node: AzureNode) -> Connection:
    """A vault as this node's own identity: workload identity where Kubernetes projects a token, else the machine's identity."""
    if node.federated_token_file is None:
        return Connection(url, AuthMethod.MANAGED_IDENTITY, client_id=node.client_id)
    token_file = node.federated_token_file
    return Connection(url, AuthMethod.WORKLOAD_IDENTITY, node.tenant_id, node.client_id, federated_token_file=token_file)


def _expiry(secret: Held | None) -> dict[str, str]:
    """When Entra's client secret ends, if the vault was told: whoever put it there knew."""
    ends = secret.entry.expires_at if secret else None
    return {f"{EXPIRING}_EXPIRES": ends.isoformat()} if ends else {}


def _read(vault: SecretStore, name: str, deadline: float, sleep: Callable[[float], None]) -> Held | None:
    """The secret, None when the vault has no such secret. A passing trouble is waited for until the deadline."""
    while True:
        try:
            return vault.get(name)
        except ObjectMissing:
            return None
        except AzureTrouble as trouble:
            pause = max(PAUSE_SECONDS, trouble.retry_after or 0.0)
            if not trouble.retrying_helps or time.monotonic() + pause > deadline:
                raise
            log.warning("the node's vault does not answer yet, next try in %.0f s: %s", pause, trouble.cause)
            sleep(pause)
