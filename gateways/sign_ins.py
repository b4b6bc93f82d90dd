"""Sessions of people who signed in at a gateway: Entra's word is verified again, and what leaves is of that environment only."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from accounts import sessions, sso
from accounts.sessions import SignedIn
from common import audit
from common.api import rfc3339
from common.errors import PermissionRefused
from gateways.models import Gateway, PrimaryNode, ToldPrincipal
from gateways.replica_records import load
from protocol.replica import ReplicaKind, ReplicaPrincipal
from protocol.sign_in import EndSession, EntraProof, SessionOpened


def open_session(gateway: Gateway, proof: EntraProof, now: datetime) -> SessionOpened:
    """Accept a sign-in and open its session. Raises the refusals of `accounts.sso`, and `PermissionRefused` for a person who has
    nothing in the gateway's environment."""
    shown = sso.Proof(proof.id_token, proof.nonce, proof.access_token)
    opened = sso.accept(shown, gateway_environment=gateway.environment_id, address=proof.address, now=now)
    principal = _holder_here(gateway, opened, now)
    if principal is None:
        sessions.sign_out(opened.session, address=proof.address, now=now)
        raise PermissionRefused(
            f"nothing in {gateway.environment_id} is open to this person; ask an administrator for a role there",
            code="SSO_NOTHING_HERE",
        )
    _answer_for(gateway, opened, proof.address)
    user = opened.user
    return SessionOpened(
        token=opened.token, expires_at=rfc3339(opened.session.expires_at) or "", email=user.email, full_name=user.full_name,
        role=user.role, created_at=rfc3339(user.created_at) or "", principal=principal,
        generation=str(PrimaryNode.objects.get(id=1).generation),
    )  # fmt: skip


def end_session(gateway: Gateway, wish: EndSession, now: datetime) -> None:
    """End the session of a token that was presented at a gateway. Raises `AuthenticationInvalid` when it is over already."""
    session = sessions.session_anywhere(wish.token, now)
    sessions.sign_out(session, address=wish.address, now=now)


def _holder_here(gateway: Gateway, opened: SignedIn, now: datetime) -> ReplicaPrincipal | None:
    """The same record that the change feed would bring, with the new session in it."""
    thing = (ReplicaKind.PRINCIPAL, opened.user.id)
    record = load(gateway.environment_id, [thing], now).by_thing.get(thing)
    return record if isinstance(record, ReplicaPrincipal) else None


def _answer_for(gateway: Gateway, opened: SignedIn, address: str) -> None:
    """Committed before the credential leaves, as in `gateways.changes`."""
    with transaction.atomic():
        ToldPrincipal.objects.bulk_create(
            [ToldPrincipal(environment_id=gateway.environment_id, principal=opened.user.id)], ignore_conflicts=True
        )
        audit.record(
            actor=f"gateway:{gateway.id}", action="gateway.session.opened", entity="user", entity_id=str(opened.user.id),
            environment=gateway.environment_id, address=address,
            details={"gateway": gateway.name, "session": str(opened.session.id)},
        )  # fmt: skip
