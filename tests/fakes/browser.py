"""A browser without a screen: keeps cookies, follows redirects on demand, and picks a user on the sandbox's page."""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx


class Browser:
    """Cookies live in the jar of its client. `pick` answers where the sandbox sends the browser back to."""

    def __init__(self, ca_file: Path) -> None:
        self.client = httpx.Client(verify=trusting(ca_file), follow_redirects=False, timeout=30)

    def get(self, url: str, **more: object) -> httpx.Response:
        return self.client.get(url, **more)

    def pick(self, authorize_url: str, user: str) -> str:
        """Open Entra's page and press the button of a user (an address, or empty for Cancel)."""
        page = self.client.get(authorize_url)
        assert page.status_code == 200 and f'name="user" value="{user}"' in page.text, page.text[:400]
        back = self.client.post(authorize_url, data={"user": user})
        assert back.status_code == 302, back.text
        return back.headers["Location"]


def values_of(url: str) -> dict[str, str]:
    """The query of an address."""
    return dict(parse_qsl(urlsplit(url).query))


def trusting(ca_file: Path) -> ssl.SSLContext:
    """TLS that trusts one CA and nothing else."""
    return ssl.create_default_context(cafile=str(ca_file))
