"""Sign-in with Entra: begin, finish, and what the token says about account and roles. No transaction waits for the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.db import transaction

from accounts import attempts, diagnoses, obo, rates, refusals, sessions
from accounts.addresses import folded
from accounts.claims import ClaimsRefused, GroupsAsRoles, MappingRow, Person, person_of, reasons_for, shown_role
from accounts.entra import Entra, EntraError, Tokens
from accounts.entra_settings import EntraSettings
from accounts.id_token import TokenRefused
from accounts.models import BY_DEFAULT, GroupMapping, Role, RoleGrant, Session, User
from accounts.sessions import SignedIn
from common import audit
from common.clock import now as clock_now
from common.errors import AuthenticationInvalid, Conflict, MazeVaultError, NotFound, PermissionRefused
from common.locks import transaction_lock
from common.rows import share

PROVIDER = "entra"
RESOURCES = ("https://graph.microsoft.com", "https://vault.azure.net", "https://management.azure.com")
"""The APIs of the app registration (seed §4.2), tried one by one by `check`."""


@dataclass(frozen=True)
class Beginning:
    """Send the browser to `url` and give it `browser` as a cookie."""

    url: str
    browser: str = field(repr=False)


@dataclass(frozen=True)
class Proof:
    """What a node that carried out a sign-in shows to the one that decides. `access` only where Graph must be asked."""

    id_token: str = field(repr=False)
    nonce: str = field(repr=False)
    access: str = field(default="", repr=False)


@dataclass(frozen=True)
class Checked:
    """Whether one API can be reached in the user's name; `error` says what is missing."""

    resource: str
    error: EntraError | None


def entra() -> Entra:
    """The adapter for this node's settings. Raises `NotFound` when sign-in with Entra is switched off."""
    own: EntraSettings = settings.MAZEVAULT.entra
    if not own.enabled:
        raise NotFound("sign-in with Entra is switched off here; set ENTRA_ENABLED to true", code="ENTRA_DISABLED")
    return _adapter(own)


def begin(browser: str, *, address: str, now: datetime) -> Beginning:
    """Start a sign-in bound to this browser. Raises `TooManyRequests`, as `finish` and `redeem` do."""
    adapter = entra()
    with _counted("begin", address, now):
        begun = adapter.begin()
        attempts.begin(begun.state, begun.flow, browser, address=address, now=now)
    return Beginning(begun.url, browser)


def finish(values: Mapping[str, str], browser: str, *, address: str, now: datetime) -> SignedIn:
    """Finish a sign-in: who is it, may they come in, what may they do; then a session. Every refusal is in the audit."""
    adapter = entra()
    with _counted("callback", address, now), refusals_noted(address):
        tokens = _redeemed(adapter, values, browser, now)
        person = _person(tokens.claims)
        groups = adapter.groups_of(tokens.access) if person.overage else person.groups
        return _come_in(person, groups, tokens, address=address, now=now)


def redeem(values: Mapping[str, str], browser: str, *, address: str, now: datetime) -> tuple[Proof, Tokens]:
    """A gateway's half of `finish`: the sign-in is redeemed and believed here; what it gives is decided at the Primary.

    The tokens stay at the gateway, for calls in the person's own name.
    """
    adapter = entra()
    with _counted("callback", address, now), refusals_noted(address):
        tokens = _redeemed(adapter, values, browser, now)
        return Proof(tokens.id_token, tokens.nonce, tokens.access if _person(tokens.claims).overage else ""), tokens


def accept(proof: Proof, *, gateway_environment: str, address: str, now: datetime) -> SignedIn:
    """The Primary's half: verify the proof as if nobody had, then the same as at our own callback.

    A gateway's word counts for nothing: claims and groups come from Entra's signature and from Graph. The session counts in
    that gateway environment only.
    """
    adapter = entra()
    with refusals_noted(address):
        claims = adapter.verified(proof.id_token, proof.nonce, now)
        person = _person(claims)
        attempts.spend(proof.nonce, now)
        groups = person.groups
        if person.overage:
            adapter.refuse_of_another(proof.access, claims, now)
            groups = adapter.groups_of(proof.access)
        return _come_in(person, groups, None, address=address, now=now, gateway_environment=gateway_environment)


@contextmanager
def refusals_noted(address: str) -> Iterator[None]:
    """Every refusal of a sign-in is in the audit and has a code of its own."""
    try:
        yield
    except TokenRefused as refused:
        _note_refusal(refused.fault.value, address)
        sentence = f"Entra's token is not accepted: {refused.sentence}"
        raise AuthenticationInvalid(sentence, code=f"SSO_TOKEN_{refused.fault.name}") from refused
    except ClaimsRefused as refused:
        _note_refusal("claims", address)
        raise AuthenticationInvalid(f"Entra's token is not accepted: {refused}", code="SSO_TOKEN_CLAIMS") from refused
    except MazeVaultError as error:
        _note_refusal(error.code, address)
        raise


def check(session: Session, now: datetime) -> list[Checked]:
    """Try each API of the app registration in the name of the user of this session (doctor, consent)."""
    return [_checked(entra(), session, resource, now) for resource in RESOURCES]


def standing(user: User) -> tuple[tuple[str, ...], int]:
    """The roles that mappings gave at the last sign-in, and how many mappings there are."""
    mapped = GroupMapping.objects.filter(source=PROVIDER)
    held = RoleGrant.objects.filter(user=user, assigned_by_sso=True, role__in=mapped.values("role"))
    return tuple(held.order_by("role__name").values_list("role__name", flat=True)), mapped.count()


@lru_cache(maxsize=4)
def _adapter(own: EntraSettings) -> Entra:
    return Entra(own)


def _redeemed(adapter: Entra, values: Mapping[str, str], browser: str, now: datetime) -> Tokens:
    attempt = attempts.finish(values.get("state", ""), browser, now)
    if "error" in values:
        raise EntraError(*diagnoses.diagnose(values))
    return adapter.finish(attempt.flow, values, now)


def _person(claims: Mapping[str, Any]) -> Person:
    """Who the token speaks of. If their groups cannot be read, the sign-in is refused: no silent loss of rights."""
    try:
        return person_of(claims)
    except GroupsAsRoles as mistake:
        raise EntraError(diagnoses.GROUPS_AS_ROLES) from mistake


def _come_in(
    person: Person,
    groups: tuple[str, ...],
    tokens: Tokens | None,
    *,
    address: str,
    now: datetime,
    gateway_environment: str = "",
) -> SignedIn:
    with transaction.atomic():
        transaction_lock(f"entra-account:{person.external_id}")  # two tabs of a newcomer make one account
        reasons = _reasons((*person.app_roles, *groups))
        user = _account(person, address)
        _confirm(user, person.said_at, now)
        _give_roles(user, reasons, address)
        opened = sessions.open_session(
            user, address=address, now=now, action="sso_login", gateway_environment=gateway_environment
        )
        if tokens is not None:
            obo.remember(opened.session, tokens, now)
    return opened


def _account(person: Person, address: str) -> User:
    """The account of this person, made or brought up to date. Raises when it is not theirs, switched off, or may not be made."""
    user = _known(person)
    if user is None:
        return _made(person, address)
    if not user.is_active and not user.disabled_by_sso:
        raise PermissionRefused("this account is switched off here; ask an administrator", code="ACCOUNT_DISABLED")
    if not user.is_active:
        _audit_user("user.enabled", user, address, {"reason": "signed in with Entra again"})
    user.is_active, user.disabled_by_sso = True, False
    user.sso_external_id, user.full_name = person.external_id, person.name or user.full_name
    if user.email_folded != folded(person.address) and User.objects.by_email(person.address) is None:
        _audit_user("user.updated", user, address, {"email": person.address})
        user.email = person.address
    user.save(update_fields=["is_active", "disabled_by_sso", "sso_external_id", "full_name", "email"])
    return user


def _confirm(user: User, said_at: datetime, now: datetime) -> None:
    """Note when Entra let them in: what it said counts from then, however late it is shown, and no older word takes back a newer
    one. The clock of Entra does not go before ours."""
    former = user.entra_confirmed_at or datetime.min.replace(tzinfo=UTC)
    user.entra_confirmed_at = min(now, max(said_at, former))
    User.objects.filter(pk=user.pk).update(entra_confirmed_at=user.entra_confirmed_at)


def _known(person: Person) -> User | None:
    """By Entra's own id, which never changes; by address only when an administrator prepared that account for Entra."""
    living = User.objects.select_for_update().filter(deleted_at__isnull=True)
    user = living.filter(sso_provider=PROVIDER, sso_external_id=person.external_id).first()
    if user is not None:
        return user
    same = living.filter(email_folded=folded(person.address)).first()
    if same is None or (same.sso_provider == PROVIDER and not same.sso_external_id):
        return same
    raise Conflict(
        "an account with this address already exists and is not this Entra identity; "
        "an administrator can give it over with POST /api/v1/rbac/users/{id}/entra",
        code="SSO_ACCOUNT_CONFLICT",
    )


def _made(person: Person, address: str) -> User:
    own: EntraSettings = settings.MAZEVAULT.entra
    if not own.auto_create_users:
        raise PermissionRefused("there is no account for this person here; ask an administrator", code="SSO_NO_ACCOUNT")
    user = User(email=person.address, full_name=person.name, sso_provider=PROVIDER, sso_external_id=person.external_id)
    user.set_unusable_password()
    user.save(force_insert=True)
    _audit_user("user.created", user, address, {"provider": PROVIDER})
    return user


def _give_roles(user: User, wanted: dict[str, list[str]], address: str) -> None:
    """Hold exactly the roles the mappings give now, with the mappings that give them. Roles given by hand stay."""
    held = {grant.role.name: grant for grant in RoleGrant.objects.filter(user=user, assigned_by_sso=True).select_related("role")}
    for name in held.keys() - wanted.keys():
        held[name].delete()
    for name in held.keys() & wanted.keys():
        if held[name].given_by != wanted[name]:
            RoleGrant.objects.filter(pk=held[name].pk).update(given_by=wanted[name])
    for role in Role.objects.filter(name__in=wanted.keys() - held.keys()):
        RoleGrant.objects.create(user=user, role=role, assigned_by_sso=True, given_by=wanted[role.name])
    shown = shown_role(list(wanted), settings.MAZEVAULT.entra.default_role)
    if wanted.keys() != held.keys() or user.role != shown:
        User.objects.filter(pk=user.pk).update(role=shown)
        user.role = shown
        _audit_user("sso_role_sync", user, address, {"before": sorted(held), "after": list(wanted)})


def _reasons(identifiers: tuple[str, ...]) -> dict[str, list[str]]:
    """Role names and why they are held. The mappings that count are shared, so that two sign-ins do not wait for each other and
    whoever deletes one comes before or after."""
    rows = [
        MappingRow(row.group_external_id, row.group_display_name, row.role.name, str(row.id))
        for row in GroupMapping.objects.filter(source=PROVIDER).select_related("role")
    ]
    named = {identifier for reasons in reasons_for(identifiers, rows).values() for identifier in reasons}
    there = {str(identifier) for identifier in share(GroupMapping, named)}
    found = reasons_for(identifiers, [row for row in rows if row.id in there])
    return found or {settings.MAZEVAULT.entra.default_role: [BY_DEFAULT]}


def _checked(adapter: Entra, session: Session, resource: str, now: datetime) -> Checked:
    try:
        obo.token_for(adapter, session, resource, now)
    except EntraError as error:
        return Checked(resource, error)
    return Checked(resource, None)


def _note_refusal(reason: str, address: str) -> None:
    """Each reason once a minute from a network: a stranger with a script fills no trail, and hides no other reason."""
    refusals.note(
        "sso_login_failed", rates.ANONYMOUS, "account", PROVIDER, address=address, now=clock_now(), details={"reason": reason},
        kind=reason,
    )  # fmt: skip


@contextmanager
def _counted(step: str, address: str, now: datetime) -> Iterator[None]:
    with refusals.noting_limits(rates.ANONYMOUS, address=address, now=now):
        rates.count_entra_sign_in(step, address, now)
        yield


def _audit_user(action: str, user: User, address: str, details: Mapping[str, object]) -> None:
    audit.record(
        actor=f"user:{user.id}", action=action, entity="user", entity_id=str(user.id), address=address, details=dict(details)
    )
