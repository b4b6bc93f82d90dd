"""The Azure sandbox as one process of the stack, and the settings that point a node at it."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from cli.stack.layout import Layout
from sandbox.azure.directory import CLIENT_ID, TENANT_ID, identifier

SANDBOX = "sandbox"
CALLBACK = "/api/v1/auth/sso/entra/callback"
MAPPINGS = (("APP_MZV_PRO_ADMIN", "admin"), ("APP_MZV_PRO_AUDITOR", "auditor"), (identifier("GRP_MZV_PAYMENTS"), "user"))
"""Which role here an App Role or group of the sandbox gives, on a stack without any mapping of its own."""


def command(layout: Layout) -> list[str]:
    """How it is started: every node of the stack is a registered redirect URI."""
    layout.secret(SANDBOX, "client-secret")
    urls = [layout.primary_url, *(spec.url for spec in layout.gateways)]
    known = [word for url in urls for word in ("--redirect-uri", f"{url}{CALLBACK}")]
    return [sys.executable, "-m", "sandbox.azure", "--port", str(layout.sandbox_port), "--dir", str(layout.node(SANDBOX)), *known]


def entra_environment(layout: Layout, base_url: str) -> dict[str, str]:
    """The ENTRA_ and AZURE_ variables of a node that is reached at `base_url`."""
    return {
        "ENTRA_ENABLED": "true",
        "ENTRA_TENANT_ID": TENANT_ID,
        "ENTRA_CLIENT_ID": CLIENT_ID,
        "ENTRA_CLIENT_SECRET_FILE": str(layout.secret(SANDBOX, "client-secret")),
        "ENTRA_REDIRECT_URI": f"{base_url}{CALLBACK}",
        "ENTRA_AUTHORITY_HOST": layout.sandbox_url,
        "ENTRA_INSTANCE_DISCOVERY": "false",
        "AZURE_GRAPH_ENDPOINT": layout.sandbox_url,
        "AZURE_ARM_ENDPOINT": layout.sandbox_url,
        "AZURE_CA_BUNDLE": str(layout.node(SANDBOX) / "ca.crt"),
        "MAZEVAULT_SANDBOX_VAULT_DOMAIN": vault_domain(layout),
    }


def machine_environment(layout: Layout, environment: str) -> dict[str, str]:
    """What the machine of a gateway environment has: a metadata service that knows one identity, and that identity's vaults."""
    code = environment.lower()
    vaults = (f"kv-mazevault-{code}", f"kv-mazevault-we-{code}")
    return {
        "AZURE_POD_IDENTITY_AUTHORITY_HOST": f"http://127.0.0.1:{layout.sandbox_port}/hosts/{code}",
        "MAZEVAULT_PROJECT_VAULTS": ",".join(f"https://{name}.{vault_domain(layout)}" for name in vaults),
    }


def vault_domain(layout: Layout) -> str:
    return f"vault.localhost:{layout.sandbox_port}"


def own_tenant(environ: Mapping[str, str]) -> dict[str, str]:
    """The caller's own ENTRA_ and AZURE_ variables, when they name a tenant: the stack then signs people in there."""
    if not environ.get("ENTRA_TENANT_ID"):
        return {}
    names = ("ENTRA_", "AZURE_", "MAZEVAULT_PROJECT_VAULTS")
    return {name: value for name, value in environ.items() if name.startswith(names)}
