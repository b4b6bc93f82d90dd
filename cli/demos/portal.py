"""A vault of the local Azure as its owner sees it: the vendor's own client, and the append log of the sandbox."""

from __future__ import annotations

import os
import ssl
from collections import Counter
from types import TracebackType
from typing import Any, Self

import httpx
from azure.keyvault.secrets import SecretClient

from cli.stack.layout import Layout
from cli.stack.sandbox import SANDBOX, machine_environment, vault_domain
from integrations.azure.cloud import AuthMethod, Cloud, Connection
from integrations.azure.credentials import Credentials
from integrations.azure.egress import Guard
from integrations.azure.guarded import settings

CALL_SECONDS = 10.0


class Portal:
    """Changes and looks of a person; what they set carries no tag of ours."""

    def __init__(self, layout: Layout, vault: str, environment: str) -> None:
        domain, ca = vault_domain(layout), layout.node(SANDBOX) / "ca.crt"
        self.vault, self.url = vault, f"https://{vault}.{domain}"
        cloud = Cloud(authority_host=layout.sandbox_url, instance_discovery=False, sandbox_domain=domain, ca_bundle=ca)
        guard = Guard(cloud)
        self._session = guard.session(guard.vault(self.url))
        os.environ |= machine_environment(layout, environment)  # the identity is found as on a machine of that environment
        credential = Credentials(Connection(self.url, AuthMethod.MANAGED_IDENTITY), cloud).own()
        self._client = SecretClient(self.url, credential, **settings(self._session))
        self._control = httpx.Client(
            base_url=f"{layout.sandbox_url}/_control", verify=ssl.create_default_context(cafile=str(ca)), trust_env=False
        )

        self._before = 0
        self._before = len(self.changes())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._client.close()
        self._session.close()
        self._control.close()

    def set(self, name: str, value: str) -> None:
        with self._session.within(CALL_SECONDS):
            self._client.set_secret(name, value)

    def delete(self, name: str) -> None:
        with self._session.within(CALL_SECONDS):
            self._client.begin_delete_secret(name).wait()

    def purge(self, name: str) -> None:
        with self._session.within(CALL_SECONDS):
            self._client.purge_deleted_secret(name)

    def living(self) -> dict[str, str]:
        """All names with their values."""
        with self._session.within(CALL_SECONDS):
            names = [str(row.name) for row in self._client.list_properties_of_secrets()]
        found = {}
        for name in names:
            with self._session.within(CALL_SECONDS):
                found[name] = str(self._client.get_secret(name).value)
        return found

    def writes(self) -> int:
        """How many changes the vault has seen since then."""
        return len(self.changes())

    def deletions(self) -> int:
        return sum(row["action"] == "delete" for row in self.changes())

    def versions(self) -> Counter[str]:
        """How many versions were ever set of each name."""
        return Counter(row["name"] for row in self.changes() if row["action"] == "set")

    def epochs(self) -> list[int]:
        """The epochs of our own changes that carry one, in the order in which the vault took them."""
        return [int(row["tags"]["mazevault-epoch"]) for row in self.changes() if row["tags"].get("mazevault-epoch")]

    def changes(self) -> list[dict[str, Any]]:
        """Changes of this vault since this portal was opened, in the order in which it took them."""
        rows = self._control.get("vault-writes").raise_for_status().json()["value"]
        return [row for row in rows if row["vault"] == self.vault][self._before :]
