"""What every vendor's client of ours is made with: our own session below it, no retries, no redirects."""

from __future__ import annotations

from typing import Any, Protocol, Self

from azure.core.pipeline.transport import RequestsTransport

from integrations.azure.egress import Session


class _Closable(Protocol):
    def close(self) -> None: ...


class GuardedClient:
    """A vendor's client and the session it speaks through. Close it when done."""

    def __init__(self, session: Session, client: _Closable) -> None:
        self._session, self._closable = session, client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._closable.close()
        self._session.close()


def settings(session: Session) -> dict[str, Any]:
    """One attempt for each call: whether to try again is for who knows the lease and the vault's budget."""
    return {
        "transport": RequestsTransport(session=session, session_owner=False),
        "retry_total": 0,
        "permit_redirects": False,
        "user_agent": "MazeVault",
    }
