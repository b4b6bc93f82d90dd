"""What stands in the tokens that Entra gives out."""

from __future__ import annotations

import secrets
from typing import Any

from sandbox.azure.clients import Client
from sandbox.azure.directory import GROUPS_IN_A_TOKEN, Resource, User, identifier
from sandbox.azure.tokens import spoiled
from sandbox.azure.world import ACCESS_SECONDS, World


def id_token(world: World, user: User, client_id: str, nonce: str, sign_in: frozenset[str]) -> str:
    """The token that says who signed in. Told to, it is issued with something wrong in it."""
    claims = {
        **_common(world, client_id, world.issuer),
        "sub": identifier(f"{client_id}/{user.oid}"),
        "oid": user.oid,
        "tid": world.directory.tenant_id,
        "ver": "2.0",
        **({"nonce": nonce} if nonce else {}),
        **({"name": user.name, "preferred_username": user.upn} if "profile" in sign_in else {}),
        **({"email": user.upn} if "email" in sign_in else {}),
        **_roles_and_groups(world, user),
    }
    return spoiled(world.keys, claims, world.faults.id_token_changes)


def user_token(world: World, user: User, client: str, resource: Resource, scopes: tuple[str, ...]) -> str:
    """An access token for a resource on behalf of a user."""
    more = {"sub": identifier(f"{client}/{user.oid}"), "oid": user.oid, "scp": " ".join(scopes), "upn": user.upn}
    return _access_token(world, client, resource, more)


def application_token(world: World, client: Client, resource: Resource) -> str:
    """An access token for a resource that speaks for an application or a managed identity itself."""
    registration = world.directory.registration
    granted = registration.application_permissions.get(resource.uri, ()) if client.client_id == registration.client_id else ()
    roles = {"roles": list(granted)} if granted else {}
    more = {"sub": client.principal, "oid": client.principal, "idtyp": "app", **roles}
    return _access_token(world, client.client_id, resource, more)


def _access_token(world: World, client: str, resource: Resource, more: dict[str, Any]) -> str:
    own = resource.uri.startswith("api://")
    issuer = world.issuer if own else f"https://sts.windows.net/{world.directory.tenant_id}/"
    application = {"azp": client, "ver": "2.0"} if own else {"appid": client, "ver": "1.0"}
    claims = {**_common(world, resource.audience, issuer), "tid": world.directory.tenant_id, **application, **more}
    return world.keys.sign(claims)


def _common(world: World, audience: str, issuer: str) -> dict[str, Any]:
    second = int(world.now())
    times = {"iat": second, "nbf": second, "exp": second + ACCESS_SECONDS}
    return {"aud": audience, "iss": issuer, **times, "uti": secrets.token_urlsafe(16)}


def _roles_and_groups(world: World, user: User) -> dict[str, Any]:
    """App Roles always; groups if the registration asks for them, by a link to Graph when there are too many."""
    roles = list(user.app_roles)
    groups = [group.id for group in world.directory.all_groups_of(user)]
    if world.faults.groups_claim_missing or not world.directory.registration.groups_claim:
        return {"roles": roles} if roles else {}
    if world.faults.emit_as_roles:
        return {"roles": groups} if groups else {}  # App Roles do not appear beside them
    found: dict[str, Any] = {"roles": roles} if roles else {}
    if len(groups) > GROUPS_IN_A_TOKEN or world.faults.group_overage:
        endpoint = f"https://graph.windows.net/{world.directory.tenant_id}/users/{user.oid}/getMemberObjects"
        return {**found, "_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": endpoint}}}
    return {**found, "groups": groups} if groups else found
