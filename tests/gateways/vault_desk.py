"""A gateway that reaches the local Azure, for tests of what it does in a vault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from django.conf import settings

from accounts.models import Project
from gateway_runtime.node import MayNotAct
from integrations.azure.cloud import Cloud
from integrations.azure.node_cloud import AzureNode
from integrations.models import Vault, VaultUse
from sandbox.azure.server import Sandbox


def be_on(monkeypatch: pytest.MonkeyPatch, cloud: Cloud, vaults: tuple[str, ...]) -> None:
    monkeypatch.setattr(settings, "MAZEVAULT", replace(settings.MAZEVAULT, azure=AzureNode(cloud, vaults)))


def cloud_of(sandbox: Sandbox) -> Cloud:
    return Cloud(
        authority_host=sandbox.base_url, instance_discovery=False, arm_endpoint=sandbox.base_url,
        sandbox_domain=sandbox.world.vault_domain, ca_bundle=sandbox.ca_file,
    )  # fmt: skip


def sandbox_vault(sandbox: Sandbox, name: str) -> str:
    return f"https://{name}.{sandbox.world.vault_domain}"


def opened_vault(url: str, project: Project, code: str = "NPR") -> None:
    """The vault belongs to the gateway environment, and the project may use it."""
    vault = Vault.objects.create(origin=url, gateway_environment=code)
    VaultUse.objects.create(vault=vault, project=project, opened_by="system:test")


class Leased:
    """A gateway's node with a lease of this epoch, or of none."""

    def __init__(self, epoch: int | None = 1) -> None:
        self.epoch, self.unseen = epoch, list[float]()

    @contextmanager
    def effect(self) -> Iterator[int]:
        if self.epoch is None:
            raise MayNotAct("the gateway holds no lease")
        yield self.epoch

    def mind_unseen_end(self, began: float) -> None:
        self.unseen.append(began)
