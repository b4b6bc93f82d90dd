"""How this node reaches Entra: one group of settings for Azure, sovereign clouds and the local sandbox. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

CALLBACK_PATH = "/api/v1/auth/sso/entra/callback"
AUTHORITY_HOST, GRAPH_ENDPOINT = "https://login.microsoftonline.com", "https://graph.microsoft.com"


@dataclass(frozen=True)
class EntraSettings:
    """Read once by the node's environment. `frontend_url` is where a browser goes after the sign-in."""

    enabled: bool
    tenant_id: str
    client_id: str
    client_secret: str = field(repr=False)
    redirect_uri: str
    scopes: tuple[str, ...]
    auto_create_users: bool
    default_role: str
    authority_host: str
    instance_discovery: bool
    graph_endpoint: str
    ca_bundle: Path | None
    frontend_url: str
    session_max_age: int = 3600
    """Seconds after Entra last let somebody in, for which their sessions count."""
    token_max_age: int = 86400
    """The same for API tokens they made."""
    work_max_age: int = 30 * 86400
    """The same for work that goes on in their name: schedules of sync rules, runs, moves, rotations, writes that wait."""
    client_secret_expires: datetime | None = None
    """What the operator or the node's vault says; without it Graph is asked."""

    @property
    def authority(self) -> str:
        return f"{self.authority_host}/{self.tenant_id}"

    @property
    def graph_resource(self) -> str:
        """What Graph asks tokens for. A local one stands for the public cloud's."""
        host = urlsplit(self.graph_endpoint).hostname or ""
        return GRAPH_ENDPOINT if host == "localhost" or host.endswith(".localhost") else self.graph_endpoint
