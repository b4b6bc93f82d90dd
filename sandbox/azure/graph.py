"""Microsoft Graph, as far as sign-in needs it: who am I, and which groups am I in, page by page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from sandbox.azure.bearer import claims_of
from sandbox.azure.directory import GRAPH, Group, User
from sandbox.azure.web import Answer, ApiRefusal, Request, Route, json_answer
from sandbox.azure.world import World

PAGE, LARGEST_PAGE = 100, 999
DIRECTORY_ROLE = {"@odata.type": "#microsoft.graph.directoryRole", "id": "88d8e3e3-8f55-4a1e-953a-9b9898b8876b",
                  "displayName": "Directory Readers"}  # fmt: skip
"""memberOf lists directory roles too; a client must not take them for groups."""


def me(world: World, request: Request) -> Answer:
    user, _ = _caller(world, request, "User.Read")
    context = f"{world.base_url}/v1.0/$metadata#users/$entity"
    shown = {"id": user.oid, "displayName": user.name, "mail": user.upn, "userPrincipalName": user.upn}
    return json_answer({"@odata.context": context, **shown})


def member_of(world: World, request: Request) -> Answer:
    """Direct memberships: groups and directory roles."""
    user, scopes = _caller(world, request, "User.Read", "GroupMember.Read.All")
    groups = [group for group in world.directory.groups.values() if group.id in user.groups]
    return _page(world, request, [DIRECTORY_ROLE, *(_shown(group, scopes) for group in groups)])


def transitive_member_of(world: World, request: Request) -> Answer:
    """Nested groups too: of these the `groups` claim of a token holds the ids."""
    user, scopes = _caller(world, request, "User.Read", "GroupMember.Read.All")
    return _page(world, request, [DIRECTORY_ROLE, *(_shown(group, scopes) for group in world.directory.all_groups_of(user))])


def member_groups(world: World, request: Request) -> Answer:
    """The same as a plain list of ids."""
    user, _ = _caller(world, request, "User.Read", "GroupMember.Read.All")
    try:
        only_security = request.json_object().get("securityEnabledOnly")
    except ValueError as error:
        raise ApiRefusal(400, "Request_BadRequest", "The body is not JSON.") from error
    if not isinstance(only_security, bool):
        raise ApiRefusal(400, "Request_BadRequest", "securityEnabledOnly: must be a boolean.")
    return json_answer({"value": [group.id for group in world.directory.all_groups_of(user)]})


def application(world: World, request: Request) -> Answer:
    """The app registration as it may look at itself: its secrets by their first characters and their ends, never their values."""
    claims = claims_of(world, request, GRAPH)
    if "Application.Read.All" not in claims.get("roles", ()):
        raise ApiRefusal(403, "Authorization_RequestDenied", "Insufficient privileges to complete the operation.")
    registration = world.directory.registration
    if request.parts["app"] != registration.client_id:
        raise ApiRefusal(404, "Request_ResourceNotFound", "Resource does not exist or one of its queried references does not.")
    end = datetime.fromtimestamp(world.now() + world.faults.secret_days_left * 86_400, UTC)
    earlier = {"hint": "old", "endDateTime": "2020-01-01T00:00:00Z", "displayName": "the one before"}
    shown = {"hint": registration.secret[:3], "endDateTime": end.strftime("%Y-%m-%dT%H:%M:%SZ"), "displayName": "mazevault"}
    return json_answer({"appId": registration.client_id, "passwordCredentials": [earlier, shown]})


ROUTES = (
    Route("GET", "/v1.0/applications(appId='{app}')", application),
    Route("GET", "/v1.0/me", me),
    Route("GET", "/v1.0/me/memberOf", member_of),
    Route("GET", "/v1.0/me/transitiveMemberOf", transitive_member_of),
    Route("POST", "/v1.0/me/getMemberGroups", member_groups),
)


def _caller(world: World, request: Request, *needed: str) -> tuple[User, set[str]]:
    claims = claims_of(world, request, GRAPH)
    scopes = set(str(claims.get("scp", "")).split())
    if not scopes & set(needed):
        raise ApiRefusal(403, "Authorization_RequestDenied", "Insufficient privileges to complete the operation.")
    user = world.directory.user(str(claims.get("oid")))
    if user is None or not user.enabled:
        raise ApiRefusal(401, "InvalidAuthenticationToken", "The user account is disabled.")
    return user, scopes


def _shown(group: Group, scopes: set[str]) -> dict[str, Any]:
    """Without the permission to read groups Graph gives ids only."""
    name = group.name if "GroupMember.Read.All" in scopes else None
    return {"@odata.type": "#microsoft.graph.group", "id": group.id, "displayName": name, "securityEnabled": True}


def _page(world: World, request: Request, rows: list[dict[str, Any]]) -> Answer:
    size, start = _number(request, "$top", PAGE), _number(request, "$skiptoken", 0)
    if not 1 <= size <= LARGEST_PAGE:
        raise ApiRefusal(400, "Request_BadRequest", f"$top: must be from 1 to {LARGEST_PAGE}.")
    body: dict[str, Any] = {"value": rows[start : start + size]}
    if start + size < len(rows):
        query = urlencode({**request.query, "$top": size, "$skiptoken": start + size})
        body["@odata.nextLink"] = f"{world.base_url}{request.path}?{query}"
    return json_answer(body)


def _number(request: Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isdecimal():
        raise ApiRefusal(400, "Request_BadRequest", f"{name}: must be a number.")
    return int(text)
