"""A bootstrap token becomes a gateway with a certificate, exactly once (DESIGN §6, I11, I12)."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction

from accounts import rates, refusals
from common import audit
from common.errors import Conflict, MazeVaultError, PermissionRefused, ValidationFailed
from common.statements import fetch, insert, plain, run
from gateways import fleet, losses, routes
from gateways.models import (
    BootstrapTokenRow,
    Gateway,
    GatewayCertificate,
    GatewayLife,
    GatewayStatus,
)
from gateways.quarantine import has_two_lives
from protocol.bootstrap_token import BootstrapToken, BootstrapTokenError, hash_secret, unpack
from protocol.certificates import CsrFacts, CsrRefused, inspect_csr
from protocol.envelope import EnvelopeRefused, decode_encryption_key, decode_signing_key
from protocol.messages import Register, Renew
from vault import authorities
from vault.profiles import GATEWAY_CLIENT, GATEWAY_SERVER, San

log = logging.getLogger("mazevault.gateways.enrollment")

LOST_REPLY_WINDOW = timedelta(minutes=10)
"""The same public key may redeem its token again this long, because the first answer may have been lost."""


_KEPT_FIELDS = (
    "id", "secret_hash", "name", "environment_id", "role", "standby_mode", "server_names", "expires_at", "revoked_at", "used_at",
)  # fmt: skip
_KEPT = f"SELECT {', '.join(_KEPT_FIELDS)} FROM gateways_bootstraptokenrow WHERE id = %(id)s::uuid"  # noqa: S608  names above
_CONSUME = """
UPDATE gateways_bootstraptokenrow SET used_at = %(now)s::timestamptz, used_spki = %(spki)s
 WHERE id = %(id)s AND used_at IS NULL AND revoked_at IS NULL AND expires_at > %(now)s::timestamptz RETURNING 1
"""
_LOCK_ROUTE = "SELECT 1 FROM gateways_route WHERE environment_id = %(environment)s FOR UPDATE"
_NAMED = "SELECT 1 FROM gateways_gateway WHERE name = %(name)s AND decommissioned_at IS NULL"
_OWN_KEYS = """
WITH fresh AS (
    INSERT INTO gateways_certifiedkey (spki, gateway_id) SELECT one, %(gateway)s::uuid FROM unnest(%(spki)s::text[]) one
    ON CONFLICT DO NOTHING RETURNING spki
)
SELECT spki FROM fresh UNION ALL
SELECT spki FROM gateways_certifiedkey WHERE spki = ANY(%(spki)s::text[]) AND gateway_id = %(gateway)s::uuid
"""


@dataclass(frozen=True)
class Enrolled:
    """`chain` (PEM) goes after its certificates; empty for one that was issued before."""

    gateway: Gateway
    certificate: GatewayCertificate
    repeated: bool
    chain: str = ""


@dataclass(frozen=True)
class _Wish:
    """A registration whose every part was looked at before anything is changed."""

    row: BootstrapTokenRow
    body: Register
    client: CsrFacts
    server: CsrFacts
    generation: uuid.UUID


def register(body: Register, *, address: str, now: datetime) -> Enrolled:
    """Redeem a token. Every refusal leaves the token as it was, except a foreign key on a used one, which raises an alarm."""
    row = _token_row(body, address, now)
    wish = _Wish(
        row=row,
        body=body,
        client=_inspected(body.csr, "csr", row, address),
        server=_inspected(body.server_csr, "server_csr", row, address),
        generation=uuid.UUID(body.generation),
    )
    _refuse_unreadable_keys(body)
    _refuse_one_key_for_both(wish.client, wish.server)
    try:
        with transaction.atomic():
            if not _consume(wish, now):
                return _repeat_or_refuse(wish, address, now)
            return _enrol(wish, address, now)
    except IntegrityError as error:
        if GatewayLife.objects.filter(generation=wish.generation).exists():
            raise _generation_reused() from error
        taken = f"the role {row.role} of {row.environment_id} is already filled; decommission that gateway first"
        raise Conflict(taken, code="ROLE_FILLED") from error
    except _ForeignKeyOnUsedToken as alarm:
        _raise_alarm(alarm, address, now)
        raise Conflict("this bootstrap token was used already, by another key", code="TOKEN_USED") from alarm


def renew(gateway: Gateway, body: Renew, *, now: datetime) -> tuple[GatewayCertificate, str]:
    """Certify new keys of a gateway that proved to hold its current ones. The old certificate goes on until it expires.

    Returns the certificate and the chain that goes after it (PEM)."""
    client, server = _inspect(body.csr, "csr"), _inspect(body.server_csr, "server_csr")
    _refuse_one_key_for_both(client, server)
    with transaction.atomic():
        locked = Gateway.objects.select_for_update().get(pk=gateway.pk)
        if locked.banned_at or locked.decommissioned_at or locked.generation != gateway.generation:
            raise PermissionRefused("this gateway was banned, ended or enrolled anew meanwhile", code="CERTIFICATE_REVOKED")
        certificate, chain = _certify(locked, client, server, now)
        audit.record(
            actor=f"gateway:{gateway.id}",
            action="gateway.certificate.renewed",
            entity="gateway",
            entity_id=str(gateway.id),
            environment=gateway.environment_id,
            details={"serial": certificate.serial, "ignored_extensions": list(client.ignored_extensions)},
        )
    return certificate, chain


def _token_row(body: Register, address: str, now: datetime) -> BootstrapTokenRow:
    try:
        token: BootstrapToken = unpack(body.token)
    except BootstrapTokenError as error:
        raise ValidationFailed(f"token: {error}", code="TOKEN_INVALID") from error
    row = _kept(token.id)
    if row is None or not hmac.compare_digest(row.secret_hash, hash_secret(token.secret)):
        log.warning("an unknown bootstrap token was sent from %s", address)
        refusals.note("gateway.bootstrap.refused", rates.ANONYMOUS, "bootstrap-token", str(token.id), address=address, now=now,
                      details={"code": "TOKEN_UNKNOWN"})  # fmt: skip
        rates.count_guess("bootstrap", address, now)
        raise PermissionRefused("this bootstrap token is not known here", code="TOKEN_UNKNOWN")
    if row.revoked_at:
        raise PermissionRefused("this bootstrap token was revoked; ask for a new one", code="TOKEN_REVOKED")
    if row.used_at is None and row.expires_at <= now:
        raise PermissionRefused("this bootstrap token has expired; ask for a new one", code="TOKEN_EXPIRED")
    _refuse_other_binding(body, row)
    return row


def _kept(identifier: str) -> BootstrapTokenRow | None:
    """What of a token counts when it is redeemed."""
    for found in fetch(_KEPT, {"id": identifier}):
        facts = dict(zip(_KEPT_FIELDS, found, strict=True))
        return BootstrapTokenRow(**{**facts, "server_names": plain(facts["server_names"])})
    return None


def _refuse_other_binding(body: Register, row: BootstrapTokenRow) -> None:
    claims = (
        ("GATEWAY_NAME", body.name, row.name),
        ("MAZEVAULT_GATEWAY_ENVIRONMENT", body.environment.upper(), row.environment_id),
        ("MAZEVAULT_GATEWAY_ROLE", body.role, row.role),
    )
    for variable, claimed, bound in claims:
        if claimed and claimed != bound:
            raise Conflict(
                f"{variable} says {claimed}, but this bootstrap token is bound to {bound}; set {variable} to {bound} "
                "or ask for a token for what you want",
                code="TOKEN_BOUND_ELSEWHERE",
            )


def _inspected(pem: str, field: str, row: BootstrapTokenRow, address: str) -> CsrFacts:
    """Inspect a request; what a refused one asked for is audited, since it may be an attack."""
    try:
        return _inspect(pem, field)
    except MazeVaultError as refused:
        with transaction.atomic():
            audit.record(
                actor=f"bootstrap:{row.id}",
                action="gateway.csr.refused",
                entity="bootstrap",
                entity_id=str(row.id),
                severity=audit.Severity.WARNING,
                environment=row.environment_id,
                address=address,
                details={"field": field, "reason": refused.code},
            )
        raise


def _inspect(pem: str, field: str) -> CsrFacts:
    try:
        return inspect_csr(pem)
    except CsrRefused as refused:
        raise ValidationFailed(f"{field}: {refused}", code="CSR_REFUSED", details=refused.reason.value) from refused


def _refuse_one_key_for_both(client: CsrFacts, server: CsrFacts) -> None:
    if client.spki_sha256 == server.spki_sha256:
        raise ValidationFailed("csr and server_csr must carry two different keys")


def _refuse_unreadable_keys(body: Register) -> None:
    for field, decode_key in (("encryption_key", decode_encryption_key), ("signing_key", decode_signing_key)):
        try:
            decode_key(getattr(body, field))
        except (ValueError, EnvelopeRefused) as error:
            raise ValidationFailed(f"{field} must be a raw public key in base64url") from error


def _consume(wish: _Wish, now: datetime) -> bool:
    """The one guarded update that makes a token single use, whatever number of racers stand here."""
    return bool(fetch(_CONSUME, {"now": now, "spki": wish.client.spki_sha256, "id": wish.row.id}))


def _enrol(wish: _Wish, address: str, now: datetime) -> Enrolled:
    gateway, reborn = _gateway_row(wish, now)
    certificate, chain = _certify(gateway, wish.client, wish.server, now)
    _begin_life(gateway, now, reborn=reborn)
    run("UPDATE gateways_bootstraptokenrow SET gateway_id = %(gateway)s WHERE id = %(token)s",
        {"gateway": gateway.id, "token": wish.row.id})  # fmt: skip
    audit.record_all(
        [
            audit.entry_of(
                actor=f"bootstrap:{wish.row.id}",
                action="gateway.enrolled",
                entity="gateway",
                entity_id=str(gateway.id),
                environment=gateway.environment_id,
                address=address,
                details={
                    "name": gateway.name,
                    "role": gateway.role,
                    "serial": certificate.serial,
                    "again": reborn,
                    "ignored_extensions": [*wish.client.ignored_extensions, *wish.server.ignored_extensions],
                },
            )
        ]
    )
    routes.wake(gateway.environment_id)
    log.info("gateway %s enrolled as %s of %s: %s", gateway.name, gateway.role, gateway.environment_id, gateway.id)
    return Enrolled(gateway, certificate, repeated=False, chain=chain)


def _gateway_row(wish: _Wish, now: datetime) -> tuple[Gateway, bool]:
    """The gateway of this name, reborn with new keys and a new generation, or a new one."""
    facts = {
        "standby_mode": wish.row.standby_mode,
        "generation": wish.generation,
        "signing_key": wish.body.signing_key,
        "encryption_key": wish.body.encryption_key,
        "server_names": wish.row.server_names,
        "version": wish.body.version,
        "enrolled_at": now,
    }
    fetch(_LOCK_ROUTE, {"environment": wish.row.environment_id})  # before the gateway, as everywhere
    named = Gateway.objects.select_for_update().filter(name=wish.row.name, decommissioned_at__isnull=True)
    existing = named.first() if fetch(_NAMED, {"name": wish.row.name}) else None
    if existing is None:
        created = Gateway(name=wish.row.name, environment_id=wish.row.environment_id, role=wish.row.role, **facts)
        insert(created)
        return created, False
    if (existing.environment_id, existing.role) != (wish.row.environment_id, wish.row.role):
        raise Conflict(
            f"{existing.name} is the {existing.role} of {existing.environment_id}, and this bootstrap token is bound to the "
            f"{wish.row.role} of {wish.row.environment_id}; ask for a token for what it is, or decommission it first",
            code="TOKEN_BOUND_ELSEWHERE",
        )
    if existing.banned_at:
        raise PermissionRefused("a banned gateway cannot enrol again", code="GATEWAY_BANNED")
    if existing.generation == wish.generation:
        raise _generation_reused()
    GatewayCertificate.objects.filter(gateway=existing, revoked_at__isnull=True).update(
        revoked_at=now, revoked_reason="enrolled again"
    )
    losses.open_for_ended_life(existing, now)
    routes.block_lease_after_rebirth(existing)
    if has_two_lives(existing):  # the copy is left behind with the keys of the former life
        facts |= {"held_at": None, "held_reason": "", "held_code": ""}
    for name, value in facts.items():
        setattr(existing, name, value)
    existing.save()
    return existing, True


def _generation_reused() -> Conflict:
    return Conflict("a new enrolment begins a new generation; this one was used before", code="GENERATION_REUSED")


def _begin_life(gateway: Gateway, now: datetime, *, reborn: bool) -> None:
    """Keep the key of every generation, so that writes of an earlier one can still be proven (DESIGN §9)."""
    if reborn:
        GatewayLife.objects.filter(gateway=gateway, ended_at=None).update(ended_at=now)
        GatewayStatus.objects.get_or_create(gateway=gateway)
    else:
        insert(GatewayStatus(gateway=gateway))
    insert(GatewayLife(gateway=gateway, generation=gateway.generation, signing_key=gateway.signing_key, began_at=now))


def _certify(gateway: Gateway, client: CsrFacts, server: CsrFacts, now: datetime) -> tuple[GatewayCertificate, str]:
    """Issue both certificates from our row and the profiles; nothing of the request but its public key is used (I12).

    Returns the row and the chain that goes after both (PEM)."""
    _own_keys(gateway, client, server)
    signer = authorities.signer(gateway.environment_id, now)
    identity = San.uri(f"mzv://default/{gateway.environment_id}/gateway/{gateway.id}")
    issued = signer.issue(GATEWAY_CLIENT, common_name=str(gateway.id), sans=(identity,), public_key=client.public_key, now=now)
    listener = signer.issue(
        GATEWAY_SERVER, common_name=gateway.name, sans=_server_sans(gateway), public_key=server.public_key, now=now
    )
    row = GatewayCertificate(
        fingerprint=issued.fingerprint,
        gateway=gateway,
        spki=client.spki_sha256,
        serial=issued.serial,
        pem=issued.pem,
        server_pem=listener.pem,
        not_before=issued.not_before,
        not_after=issued.not_after,
        issuer_key=issued.issuer_key,
    )
    insert(row)
    return row, signer.chain


def _own_keys(gateway: Gateway, *keys: CsrFacts) -> None:
    """Each key becomes this gateway's for ever, or is it already. One that somebody else registers at this moment is not."""
    spki = sorted(facts.spki_sha256 for facts in keys)  # in one order for everybody: two who wait for each other cannot be
    mine = {row[0] for row in fetch(_OWN_KEYS, {"spki": spki, "gateway": gateway.id})}
    if mine != set(spki):
        raise ValidationFailed("this key was certified for another gateway before; make a new one", code="KEY_OF_ANOTHER")


def _server_sans(gateway: Gateway) -> tuple[San, ...]:
    return tuple(San.ip(name) if _is_address(name) else San.dns(name) for name in gateway.server_names)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class _ForeignKeyOnUsedToken(Exception):
    def __init__(self, row: BootstrapTokenRow) -> None:
        super().__init__()
        self.row = row


def _repeat_or_refuse(wish: _Wish, address: str, now: datetime) -> Enrolled:
    """The token is used: the same key gets the same certificate for ten minutes, any other key is an alarm."""
    row = BootstrapTokenRow.objects.select_related("gateway").get(pk=wish.row.pk)
    if row.revoked_at or row.used_at is None:
        raise PermissionRefused("this bootstrap token is no longer valid; ask for a new one", code="TOKEN_REVOKED")
    if not hmac.compare_digest(row.used_spki, wish.client.spki_sha256):
        raise _ForeignKeyOnUsedToken(row)
    certificate = GatewayCertificate.objects.filter(gateway=row.gateway, spki=row.used_spki, revoked_at__isnull=True).first()
    if row.gateway is None or certificate is None or now - row.used_at > LOST_REPLY_WINDOW:
        raise Conflict("this bootstrap token was used already; ask for a new one", code="TOKEN_USED")
    if row.gateway.generation != wish.generation:
        raise Conflict("the repeated registration names another generation", code="TOKEN_USED")
    return Enrolled(row.gateway, certificate, repeated=True)


def _raise_alarm(alarm: _ForeignKeyOnUsedToken, address: str, now: datetime) -> None:
    """Hold the gateway whose token it is. One of the past does no harm in anybody's hands: the gateway has other keys since, or
    the token could not be redeemed any more, so only the audit hears of it, once a minute from a network."""
    row = alarm.row
    if not _is_current(row, now):
        refusals.note("gateway.bootstrap.reused", rates.ANONYMOUS, "gateway", str(row.gateway_id), address=address, now=now,
                      details={"name": row.name, "token": str(row.id), "held": False}, kind=row.name)  # fmt: skip
        log.warning("bootstrap token %s of %s, which is of the past, was presented again from %s", row.id, row.name, address)
        return
    with transaction.atomic():
        copied = Gateway.objects.filter(bootstraptokenrow=row)
        fleet.hold(row.environment_id, copied, "its bootstrap token was presented again with another key", now)
        audit.record(
            actor=f"bootstrap:{row.id}",
            action="gateway.bootstrap.reused",
            entity="gateway",
            entity_id=str(row.gateway_id),
            severity=audit.Severity.CRITICAL,
            environment=row.environment_id,
            address=address,
            details={"name": row.name, "held": True},
        )
    log.error("bootstrap token %s of %s was presented again with another key; the gateway is held", row.id, row.name)


def _is_current(row: BootstrapTokenRow, now: datetime) -> bool:
    """Whether the gateway is what this token made it, and the token would still live had nobody used it."""
    later = BootstrapTokenRow.objects.filter(gateway=row.gateway_id, used_at__gt=row.used_at)
    return row.gateway_id is not None and now < row.expires_at and not later.exists()
