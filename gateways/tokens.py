"""Bootstrap tokens: made once, shown once, kept as a hash (DESIGN §6)."""

from __future__ import annotations

import ipaddress
import re
import secrets
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from django.conf import settings
from django.db import transaction

from common import audit
from common.errors import Conflict, NotFound, ValidationFailed
from gateways import routes
from gateways.models import BootstrapTokenRow, Gateway
from protocol.bootstrap_token import BootstrapToken, hash_secret
from protocol.vocabulary import Role, StandbyMode
from vault import authorities

LIFE_HOURS, LONGEST_LIFE_HOURS = 24, 72
NAME_RULE = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?\Z")
"""A gateway's name is a DNS label chain of at most 63 characters, because servers and metrics carry it."""
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
OWN_MACHINE = ("localhost", "127.0.0.1")
DNS_NAME_RULE = re.compile(rf"^(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\Z")


@dataclass(frozen=True)
class TokenWish:
    """What the caller asks for. Empty environment and role mean the defaults: PRO must be named, a gateway never chooses."""

    name: str
    environment: str = ""
    role: str = ""
    standby_mode: str = ""
    ttl_hours: int = LIFE_HOURS
    server_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class NewToken:
    row: BootstrapTokenRow
    text: str


def create_token(wish: TokenWish, *, actor: str, address: str, now: datetime) -> NewToken:
    """Make a bootstrap token bound to name, environment, role and standby mode. Refuses what could never be redeemed."""
    checked = _checked(wish)
    environment = routes.environment_of(checked.environment)
    secret = secrets.token_urlsafe(32)
    with transaction.atomic():
        _refuse_taken(checked, environment.code)
        row = BootstrapTokenRow.objects.create(
            secret_hash=hash_secret(secret),
            name=checked.name,
            environment=environment,
            role=checked.role,
            standby_mode=checked.standby_mode,
            server_names=list(checked.server_names),
            created_by=actor,
            expires_at=now + timedelta(hours=checked.ttl_hours),
        )
        audit.record(
            actor=actor,
            action="gateway.bootstrap.created",
            entity="bootstrap",
            entity_id=str(row.id),
            environment=environment.code,
            address=address,
            details={"name": row.name, "role": row.role, "expires_at": row.expires_at.isoformat()},
        )
    package = BootstrapToken(
        id=str(row.id),
        secret=secret,
        urls=settings.MAZEVAULT.advertised_urls,
        pin=authorities.pin(),
        expires_at=row.expires_at,
    )
    return NewToken(row, package.pack())


def revoke_token(identifier: uuid.UUID, *, actor: str, address: str, now: datetime) -> None:
    """Make an unused token useless. A used or unknown one is refused by name."""
    with transaction.atomic():
        row = BootstrapTokenRow.objects.select_for_update().filter(id=identifier).first()
        if row is None:
            raise NotFound("there is no bootstrap token with this id")
        if row.used_at:
            raise Conflict("this bootstrap token was used already; ban or decommission its gateway instead")
        if row.revoked_at is None:
            BootstrapTokenRow.objects.filter(pk=row.pk).update(revoked_at=now)
            audit.record(
                actor=actor,
                action="gateway.bootstrap.revoked",
                entity="bootstrap",
                entity_id=str(row.id),
                environment=row.environment_id,
                address=address,
                details={"name": row.name},
            )


def _checked(wish: TokenWish) -> TokenWish:
    if not NAME_RULE.match(wish.name):
        raise ValidationFailed(
            "name must be 1 to 63 lower-case letters, digits, dots or hyphens, starting and ending with a letter or digit"
        )
    role = wish.role or Role.PRIMARY.value
    if role not in {item.value for item in Role}:
        raise ValidationFailed("role must be primary or dr-standby")
    mode = wish.standby_mode or StandbyMode.WARM.value
    if mode not in {item.value for item in StandbyMode}:
        raise ValidationFailed("standby_mode must be warm or cold")
    if mode == StandbyMode.COLD and role != Role.DR_STANDBY:
        raise ValidationFailed("standby_mode cold is for the role dr-standby only")
    if not 1 <= wish.ttl_hours <= LONGEST_LIFE_HOURS:
        raise ValidationFailed(f"ttl_hours must be a whole number from 1 to {LONGEST_LIFE_HOURS}")
    if len(wish.server_names) > 20 or not all(_is_server_name(name) for name in wish.server_names):
        raise ValidationFailed("server_names must be at most 20 DNS names or IP addresses")
    environment = wish.environment or settings.MAZEVAULT.default_gateway_environment
    names = wish.server_names or (wish.name, *_names_of_this_machine())
    _refuse_names_of_the_primary(names)
    return TokenWish(wish.name, environment, role, mode, wish.ttl_hours, names)


def _names_of_this_machine() -> tuple[str, ...]:
    """By default only where the Primary itself stands under such a name: else they would be worth something on every machine."""
    return OWN_MACHINE if settings.MAZEVAULT.domain.lower() in OWN_MACHINE else ()


def _refuse_names_of_the_primary(names: Iterable[str]) -> None:
    """A gateway's certificate leads to the root people check the Primary with, so it must not bear the Primary's name."""
    node = settings.MAZEVAULT
    hosts = {urlsplit(url).hostname or "" for url in node.advertised_urls}
    own = {name.lower() for name in (node.domain, *node.server_names, *hosts)} - set(OWN_MACHINE)
    for name in names:
        if name.lower().rstrip(".") in own:
            raise ValidationFailed(f"server_names: {name} is a name of the Primary; a gateway needs names of its own")


def _is_server_name(name: str) -> bool:
    """A DNS name or an IP address; what looks like an address but is none is a mistake."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return bool(DNS_NAME_RULE.match(name)) and not name.rsplit(".", 1)[-1].isdecimal()
    return True


def _refuse_taken(wish: TokenWish, environment: str) -> None:
    """A filled role is no reason to refuse: a replacement's token is made before its predecessor goes (ADR 8)."""
    living = Gateway.objects.filter(decommissioned_at__isnull=True)
    named = living.filter(name=wish.name).first()
    if named and (named.environment_id, named.role) != (environment, wish.role):
        raise Conflict(
            f"a gateway named {wish.name} already exists as {named.role} of {named.environment_id}; "
            "choose another name or decommission it first"
        )
    if named and named.banned_at:
        raise Conflict(f"the gateway {wish.name} is banned; decommission it before you enrol one with this name")
