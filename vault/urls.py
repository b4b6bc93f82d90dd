"""Routes of the secrets API for one node."""

from __future__ import annotations

from django.urls import URLPattern

from common.api import routes
from vault import api
from vault.ports import SecretNode


def secret_routes(node: SecretNode) -> list[URLPattern]:
    """All paths of secrets, answered by this node."""
    one = "secrets/<str:identifier>"
    return [
        *routes(one, api.SecretOne.as_view(node=node), "secret"),
        *routes("secrets", api.Secrets.as_view(node=node), "secrets"),
        *routes(f"{one}/versions", api.SecretVersions.as_view(node=node), "secret-versions"),
        *routes(f"{one}/versions/<str:number>", api.SecretVersionOne.as_view(node=node), "secret-version"),
        *routes(f"{one}/rotation-config", api.SecretRotationConfig.as_view(node=node), "secret-rotation-config"),
        *routes(f"{one}/rollback", api.SecretRollback.as_view(node=node), "secret-rollback"),
        *routes(f"{one}/rotate", api.SecretRotate.as_view(node=node), "secret-rotate"),
        *routes(f"{one}/archive", api.SecretArchive.as_view(node=node), "secret-archive"),
        *routes(f"{one}/restore", api.SecretRestore.as_view(node=node), "secret-restore"),
        *routes(f"{one}/permanent", api.SecretPermanent.as_view(node=node), "secret-permanent"),
    ]
