"""Azure Resource Manager, as far as access to vaults goes: role assignments and role definitions, page by page."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlencode

from sandbox.azure.bearer import claims_of
from sandbox.azure.directory import MANAGEMENT
from sandbox.azure.roles import PROVIDER, READ_ASSIGNMENTS, ROLES, Assignment, Role, is_at_or_below, role_named
from sandbox.azure.web import Answer, ApiRefusal, Request, Route, json_answer
from sandbox.azure.world import World

PAGE = 5
"""Azure's pages are longer; short ones make sure that clients read on."""
FILTERS = re.compile(
    r"\s*(?:(?P<at>atScope\(\))|assignedTo\('(?P<assigned>[^']+)'\)|principalId eq '(?P<principal>[^']+)')\s*", re.I
)


def assignments(world: World, request: Request) -> Answer:
    """Role assignments that bear on a scope."""
    scope = _scope(request)
    _admitted(world, request, scope, READ_ASSIGNMENTS)
    rows = [_shown(one) for one in world.access.assignments if _is_wanted(world, one, scope, request.query.get("$filter", ""))]
    return _page(world, request, rows)


def assignment(world: World, request: Request) -> Answer:
    scope, name = _scope(request), request.parts["name"]
    _admitted(world, request, scope, READ_ASSIGNMENTS)
    found = next((one for one in world.access.assignments if one.name == name and one.scope.lower() == scope.lower()), None)
    if found is None:
        raise ApiRefusal(404, "RoleAssignmentNotFound", f"The role assignment '{name}' is not found.")
    return json_answer(_shown(found))


def definitions(world: World, request: Request) -> Answer:
    """Role definitions; `$filter=roleName eq '…'` picks one by its name."""
    scope = _scope(request)
    _admitted(world, request, scope, "Microsoft.Authorization/roleDefinitions/read")
    text = request.query.get("$filter", "")
    named = re.fullmatch(r"\s*roleName eq '([^']+)'\s*", text)
    if text and not named and not re.fullmatch(r"\s*(atScope\(\)|atScopeAndBelow\(\)|type eq '\w+')\s*", text):
        raise _bad_filter(text)
    return _page(world, request, [_definition(role) for role in ROLES if named is None or role.name == named[1]])


def definition(world: World, request: Request) -> Answer:
    _admitted(world, request, _scope(request), "Microsoft.Authorization/roleDefinitions/read")
    try:
        return json_answer(_definition(role_named(request.parts["id"])))
    except LookupError as error:
        raise ApiRefusal(404, "RoleDefinitionDoesNotExist", "The specified role definition does not exist.") from error


ROUTES = (
    Route("GET", f"{{scope*}}/{PROVIDER}/roleAssignments", assignments),
    Route("GET", f"{{scope*}}/{PROVIDER}/roleAssignments/{{name}}", assignment),
    Route("GET", f"{{scope*}}/{PROVIDER}/roleDefinitions", definitions),
    Route("GET", f"{{scope*}}/{PROVIDER}/roleDefinitions/{{id}}", definition),
)


def _scope(request: Request) -> str:
    return "/" + request.parts["scope"].strip("/")


def _admitted(world: World, request: Request, scope: str, action: str) -> None:
    claims = claims_of(world, request, MANAGEMENT)
    if "api-version" not in request.query:
        raise ApiRefusal(400, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required.")
    oid = str(claims.get("oid"))
    if not world.access.allows(oid, scope, action):
        raise ApiRefusal(
            403,
            "AuthorizationFailed",
            f"The client '{claims.get('appid')}' with object id '{oid}' does not have authorization to perform action '{action}' "
            f"over scope '{scope}' or the scope is invalid. If access was recently granted, please refresh your credentials.",
        )


def _is_wanted(world: World, one: Assignment, scope: str, text: str) -> bool:
    """Above, at and below the scope, unless the filter says otherwise."""
    conditions = [FILTERS.fullmatch(part) for part in text.split(" and ")] if text else []
    if None in conditions:
        raise _bad_filter(text)
    if not (is_at_or_below(scope, one.scope) or is_at_or_below(one.scope, scope)):
        return False
    return all(_meets(world, one, scope, found) for found in conditions if found)


def _meets(world: World, one: Assignment, scope: str, condition: re.Match[str]) -> bool:
    if condition["at"]:
        return is_at_or_below(scope, one.scope)
    if condition["assigned"]:
        return one.principal_id in world.access.memberships(condition["assigned"])
    return one.principal_id == condition["principal"]


def _bad_filter(text: str) -> ApiRefusal:
    return ApiRefusal(400, "UnsupportedQuery", f"The filter '{text}' is not supported.")


def _shown(one: Assignment) -> dict[str, Any]:
    properties = {"roleDefinitionId": one.role.resource_id, "principalId": one.principal_id, "principalType": one.principal_type,
                  "scope": one.scope}  # fmt: skip
    return {"id": one.resource_id, "name": one.name, "type": "Microsoft.Authorization/roleAssignments", "properties": properties}


def _definition(role: Role) -> dict[str, Any]:
    allowed = {"actions": list(role.actions), "notActions": [], "dataActions": list(role.data_actions), "notDataActions": []}
    properties = {"roleName": role.name, "type": "BuiltInRole", "assignableScopes": ["/"], "permissions": [allowed]}
    return {"id": role.resource_id, "name": role.id, "type": "Microsoft.Authorization/roleDefinitions", "properties": properties}


def _page(world: World, request: Request, rows: list[dict[str, Any]]) -> Answer:
    text = request.query.get("$skiptoken", "0")
    if not text.isdecimal():
        raise ApiRefusal(400, "BadRequest", "$skiptoken: must be a number")
    start, body = int(text), {"value": rows[int(text) : int(text) + PAGE]}
    if start + PAGE >= len(rows):
        return json_answer(body)
    following = urlencode({**request.query, "$skiptoken": start + PAGE})
    return json_answer({**body, "nextLink": f"{world.base_url}{request.path}?{following}"})
