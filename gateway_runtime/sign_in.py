"""Sign-in with Entra at a gateway: the browser's way to Entra is this node's own, what a person may do is decided at the Primary.

The Primary verifies Entra's word again and opens the session; its answer is stored at once, so the very next request counts.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

from django.db import transaction

from accounts import sso
from accounts.access import Principal
from accounts.models import Session, User
from accounts.sessions import SignedIn, hash_token
from accounts.tokens import PREFIX as API_TOKEN_PREFIX
from common import audit
from common.direct import give_connection_back
from common.errors import MazeVaultError, PermissionRefused, Unavailable
from gateway_runtime import copying, current, personal, replica
from gateway_runtime.client import PrimaryRefused, PrimaryUnreachable
from gateway_runtime.models import NodeState, ReplicaToken
from protocol import paths
from protocol.messages import Acknowledged
from protocol.sign_in import EndSession, EntraProof, SessionOpened

log = logging.getLogger("mazevault.gateway.sign_in")

SIGN_IN_SECONDS = 20.0
"""Longest wait for the Primary, which may have to page through somebody's groups at Graph."""
SIGN_OUT_SECONDS = 5.0
COPY_SECONDS = 2.0
"""Longest wait for a pull of the copy, or for somebody else who signs in."""
_OF_THE_PERSON = ("SSO_", "ENTRA_", "ACCOUNT_DISABLED")
"""How the codes begin of refusals that concern who signs in; any other concerns this gateway."""
_OVER = ("AUTH_INVALID", "AUTH_EXPIRED")


def finish(values: Mapping[str, str], browser: str, *, address: str, now: datetime) -> SignedIn:
    """Finish a sign-in that was begun here. The account and the session of the answer are the Primary's; neither is a row here.

    Raises the refusals of `accounts.sso`, this node's and the Primary's, and `Unavailable` (PRIMARY_NEEDED) without the Primary.
    """
    supervisor = current.registered()
    proof, tokens = sso.redeem(values, browser, address=address, now=now)
    message = EntraProof(id_token=proof.id_token, nonce=proof.nonce, access_token=proof.access, address=address[:64])
    give_connection_back()
    with sso.refusals_noted(address), _answers_of_the_primary(), _no_pull_meanwhile():
        opened = supervisor.channel.call(paths.SIGN_IN, message, SessionOpened, timeout=SIGN_IN_SECONDS)
        _store(opened, address)
    personal.remember(opened.token, tokens, datetime.fromisoformat(opened.expires_at), now)
    return _signed_in(opened)


def sign_out(token: str, principal: Principal, *, address: str, now: datetime) -> datetime | None:
    """End a session: here in any case, at the Primary if it answers. None when it ended there too, else when it expires there."""
    if token.startswith(API_TOKEN_PREFIX):
        raise PermissionRefused("this needs the session of a sign-in; the token is an API token")
    give_connection_back()
    ended = _end_at_primary(EndSession(token=token, address=address[:64]))
    waited = replica.pulling.acquire(timeout=COPY_SECONDS)  # a page that is being stored may still have the token
    try:
        until = _forget(token, principal, ended, address=address, now=now)
    finally:
        if waited:
            replica.pulling.release()
    return None if ended else until


def _forget(token: str, principal: Principal, ended: bool, *, address: str, now: datetime) -> datetime:
    """End it here, and say when it expires. Without a wait for the copy the next page takes it away again, if it ended there."""
    with transaction.atomic():
        mine = ReplicaToken.objects.filter(hash=hash_token(token))
        until = mine.values_list("expires_at", flat=True).first() or now
        mine.delete()
        personal.forget(token)
        audit.record(
            actor=principal.actor, action="auth.logout", entity=principal.kind.value, entity_id=principal.id, address=address,
            details={"ended_at_primary": ended},
        )  # fmt: skip
    return until


@contextmanager
def _no_pull_meanwhile() -> Iterator[None]:
    """No page of the copy comes between the Primary's answer and its storing: a newer one would be written over by it. Raises
    `Unavailable` (PRIMARY_NEEDED) when that takes long: whoever waits here holds a thread that others need."""
    if not replica.pulling.acquire(timeout=COPY_SECONDS):
        raise _needed("this gateway is busy reading from it")
    try:
        yield
    finally:
        replica.pulling.release()


@contextmanager
def _answers_of_the_primary() -> Iterator[None]:
    """What the Primary says of the person is passed on; whatever else goes wrong between the nodes is a 503 with one sentence."""
    try:
        yield
    except PrimaryRefused as refused:
        if refused.code.startswith(_OF_THE_PERSON) and refused.code != "ENTRA_DISABLED":
            raise MazeVaultError(
                refused.sentence, code=refused.code, status=refused.status, details=refused.details or None
            ) from refused
        log.warning("the Primary does not take a sign-in of this gateway: %s", refused)
        raise _needed(f"the Primary does not take sign-ins from this gateway now ({refused.code})") from refused
    except PrimaryUnreachable as error:
        raise _needed("this gateway cannot reach the Primary, which opens every session") from error


def _needed(why: str) -> Unavailable:
    return Unavailable(
        f"signing in needs the Primary: {why}; try again, a session you have already goes on working here",
        code="PRIMARY_NEEDED", retry_after=30,
    )  # fmt: skip


def _store(opened: SessionOpened, address: str) -> None:
    """The holder's record as a page of changes would bring it. A Primary whose database is another one than the copy's is not
    believed, or credentials that were revoked long ago would come back (I4)."""
    with transaction.atomic():
        row = NodeState.objects.select_for_update().get(id=1)
        if row.replica_generation not in ("", opened.generation):
            raise _needed("its database is of another life than the copy here")
        copying.store_principals([opened.principal], row.replica_round)
        actor = f"user:{opened.principal.id}"
        audit.record(actor=actor, action="sso_login", entity="user", entity_id=opened.principal.id, address=address)


def _signed_in(opened: SessionOpened) -> SignedIn:
    user = User(
        id=uuid.UUID(opened.principal.id), email=opened.email, full_name=opened.full_name, role=opened.role,
        created_at=datetime.fromisoformat(opened.created_at),
    )  # fmt: skip
    session = Session(token_hash=hash_token(opened.token), expires_at=datetime.fromisoformat(opened.expires_at))
    return SignedIn(user, session, opened.token)


def _end_at_primary(wish: EndSession) -> bool:
    try:
        current.registered().channel.call(paths.SIGN_OUT, wish, Acknowledged, timeout=SIGN_OUT_SECONDS)
    except PrimaryRefused as refused:
        return refused.code in _OVER
    except PrimaryUnreachable:
        return False
    return True
