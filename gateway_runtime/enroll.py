"""From bootstrap token to identity: the gateway's first conversation, and the renewal of its keys (DESIGN §6)."""

from __future__ import annotations

import logging
import uuid
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from django.conf import settings

from gateway_runtime import identity as identities
from gateway_runtime import state
from gateway_runtime.client import Channel, Known, PrimaryRefused, own_keys_of
from gateway_runtime.identity import Identity, Keys
from gateway_runtime.state import Sequences
from protocol import paths
from protocol.bootstrap_token import BootstrapToken, BootstrapTokenError, unpack
from protocol.certificates import build_csr
from protocol.messages import Register, Registered, Renew, Renewed

log = logging.getLogger("mazevault.gateway")

REGISTER_SECONDS = 30.0
FINAL_CODES = frozenset({
    "TOKEN_INVALID", "TOKEN_UNKNOWN", "TOKEN_REVOKED", "TOKEN_EXPIRED", "TOKEN_USED", "TOKEN_BOUND_ELSEWHERE", "CSR_REFUSED",
    "KEY_OF_ANOTHER", "GATEWAY_BANNED", "GENERATION_REUSED", "VALIDATION_ERROR",
})  # fmt: skip
"""Answers that the same token will get for ever. A filled role is none of them: it may become free."""
ROLE_FILLED = "ROLE_FILLED"
ANOTHER_LIFE = "the state file belongs to another life of this gateway's database"


class EnrolmentImpossible(Exception):
    """Only a person can help; the sentence says how."""


def stored_identity() -> Identity | None:
    """The identity of the state file if it belongs to this database and no newer token was given; else None.

    Raises `EnrolmentImpossible` when only a new token helps.
    """
    node, gateway = settings.MAZEVAULT, settings.MAZEVAULT.own_gateway
    found = identities.load(gateway.state_file, node.master_key, *node.former_master_keys)
    if found is None:
        return None
    _finish_registration(found)
    if _is_newer(gateway.bootstrap_token, found):
        log.info("a new bootstrap token was given: registering again")
        return None
    if state.this_life().generation != found.generation:
        if gateway.bootstrap_token:
            raise EnrolmentImpossible(
                f"{ANOTHER_LIFE} and its bootstrap token is used; "
                "create a new bootstrap token on the Primary and set GATEWAY_BOOTSTRAP_TOKEN to it"
            )
        raise EnrolmentImpossible(
            f"{ANOTHER_LIFE} (a backup was restored, or the database is new); "
            "create a bootstrap token for this gateway on the Primary and set GATEWAY_BOOTSTRAP_TOKEN"
        )
    _tell_of_other_url(found)
    return found


def primary_urls(known: tuple[str, ...]) -> tuple[str, ...]:
    """Where the Primary is looked for, in this order: PRIMARY_BACKEND_URL, then what token or state file know.

    Wherever it is found it has to show the pinned authority, so another address is never another Primary.
    """
    return tuple(dict.fromkeys(url for url in (*settings.MAZEVAULT.own_gateway.primary_urls, *known) if url))


def _tell_of_other_url(stored: Identity) -> None:
    given = settings.MAZEVAULT.own_gateway.primary_urls
    if given and stored.urls and given != stored.urls[: len(given)]:
        log.info("PRIMARY_BACKEND_URL is %s: it counts before %s of the state file", ", ".join(given), ", ".join(stored.urls))


def register(sequences: Sequences, instance: uuid.UUID) -> Identity:
    """Redeem the token. Raises `EnrolmentImpossible` for a final answer and `PrimaryUnreachable` when trying again helps.

    Keys and generation are stored before the first try, so that a lost answer or a crash repeats with the same key. They count
    once the Primary has taken them: a token that is refused leaves an identity that still works as it was, and that one goes on.
    """
    gateway = settings.MAZEVAULT.own_gateway
    if not gateway.bootstrap_token:
        raise EnrolmentImpossible(
            f"this gateway is not registered and GATEWAY_BOOTSTRAP_TOKEN is not set (no state file at {gateway.state_file}); "
            "create a bootstrap token on the Primary: POST /api/v1/gateways/bootstrap"
        )
    try:
        return _redeem(_token(gateway.bootstrap_token), sequences, instance)
    except (EnrolmentImpossible, PrimaryRefused) as refused:
        return _go_on_without(refused)


def _redeem(token: BootstrapToken, sequences: Sequences, instance: uuid.UUID) -> Identity:
    node, gateway = settings.MAZEVAULT, settings.MAZEVAULT.own_gateway
    draft = _draft(token)
    urls = primary_urls(token.urls)
    channel = Channel(
        urls=urls, known=Known((token.pin,)), keys=draft.keys, generation=draft.generation, sequences=sequences,
        sender=f"token:{token.id}", environment="", identity=None, tls_file=None, instance=instance, master_key=node.master_key,
    )  # fmt: skip
    try:
        answer = channel.call(paths.REGISTER, _registration(draft), Registered, timeout=REGISTER_SECONDS)
        registered = _identity(answer, token, draft, urls, *channel.trusted())
    finally:
        channel.close()
    identities.store(gateway.state_file, registered, node.master_key)
    _finish_registration(registered)
    return registered


def _finish_registration(stored: Identity) -> None:
    """Begin the life of a stored identity that came from the draft. Safe to repeat: a crash may end it at any point."""
    draft = _stored_draft()
    if draft is None or draft.generation != stored.generation:
        return
    if state.this_life().generation != stored.generation:
        state.begin_new_life(stored.generation)
    _draft_path().unlink(missing_ok=True)


def _former() -> Identity | None:
    """The identity of the state file, if it is still the one of this database."""
    node = settings.MAZEVAULT
    found = identities.load(node.own_gateway.state_file, node.master_key, *node.former_master_keys)
    return found if found and found.generation == state.this_life().generation else None


def _go_on_without(refused: EnrolmentImpossible | PrimaryRefused) -> Identity:
    """The former identity where the token does not count and there is one. Raises the refusal else, as final for a final code."""
    code = refused.code if isinstance(refused, PrimaryRefused) else ""
    former = _former() if not code or code in FINAL_CODES or code == ROLE_FILLED else None
    if former is not None:
        log.warning("GATEWAY_BOOTSTRAP_TOKEN does not count, going on as %s by the state file: %s", former.gateway_id, refused)
        return former
    if isinstance(refused, PrimaryRefused) and code in FINAL_CODES:
        raise EnrolmentImpossible(f"the Primary refused the registration: {refused.sentence}") from refused
    raise refused


def renew(current: Identity, channel: Channel) -> Identity:
    """Have new TLS keys certified under the current ones and store them. The signing and recipient keys stay."""
    fresh = Keys.generate()
    keys = replace(current.keys, client=fresh.client, server=fresh.server)
    answer = channel.call(
        paths.RENEW,
        Renew(csr=build_csr(keys.client, current.name), server_csr=build_csr(keys.server, current.name)),
        Renewed,
        timeout=REGISTER_SECONDS,
    )
    renewed = replace(
        current, keys=keys, certificate=answer.certificate, chain=answer.chain, server_certificate=answer.server_certificate
    )
    identities.store(settings.MAZEVAULT.own_gateway.state_file, renewed, settings.MAZEVAULT.master_key)
    return renewed


def _token(text: str) -> BootstrapToken:
    try:
        return unpack(text)
    except BootstrapTokenError as error:
        raise EnrolmentImpossible(f"GATEWAY_BOOTSTRAP_TOKEN: {error}") from error


def _is_newer(text: str, known: Identity) -> bool:
    """Whether another token than that of this identity was given. What is no token at all is told when it is redeemed."""
    with suppress(BootstrapTokenError):
        return bool(text) and unpack(text).id != known.token_id
    return True


def _draft_path() -> Path:
    path: Path = settings.MAZEVAULT.own_gateway.state_file
    return path.with_suffix(".registering.json")


def _stored_draft() -> Identity | None:
    node = settings.MAZEVAULT
    return identities.load(_draft_path(), node.master_key, *node.former_master_keys)


def _draft(token: BootstrapToken) -> Identity:
    """Keys and generation of a registration under way; the same ones again after a crash with the same token."""
    node, found = settings.MAZEVAULT, _stored_draft()
    if found and found.token_id == token.id:
        return found
    draft = Identity(
        gateway_id="", name=node.own_gateway.name, environment=node.own_gateway.environment, role=node.own_gateway.role,
        generation=uuid.uuid4(), token_id=token.id, urls=token.urls, pin=token.pin, root="", certificate="", chain="",
        server_certificate="", keys=Keys.generate(),
    )  # fmt: skip
    identities.store(_draft_path(), draft, node.master_key)
    return draft


def _registration(draft: Identity) -> Register:
    node = settings.MAZEVAULT
    signing, encryption = own_keys_of(draft.keys)
    common_name = draft.name or "gateway"
    return Register(
        token=node.own_gateway.bootstrap_token,
        csr=build_csr(draft.keys.client, common_name),
        server_csr=build_csr(draft.keys.server, common_name),
        signing_key=signing,
        encryption_key=encryption,
        generation=str(draft.generation),
        version=node.version,
        name=draft.name,
        environment=draft.environment,
        role=draft.role,
    )


def _identity(answer: Registered, token: BootstrapToken, draft: Identity, urls: tuple[str, ...], roots: str,
              revision: int | None) -> Identity:  # fmt: skip
    return replace(
        draft,
        gateway_id=answer.gateway_id,
        name=answer.name,
        environment=answer.environment,
        role=answer.role.value,
        urls=urls,
        pin=token.pin,
        root=roots,
        roots_revision=revision or 0,
        certificate=answer.certificate,
        chain=answer.chain,
        server_certificate=answer.server_certificate,
    )
