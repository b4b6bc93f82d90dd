"""What every API behind Entra checks of a bearer token."""

from __future__ import annotations

from typing import Any

from sandbox.azure.tokens import BadToken, parted
from sandbox.azure.web import ApiRefusal, Request
from sandbox.azure.world import World

SKEW_SECONDS = 300


def claims_of(world: World, request: Request, audience: str) -> dict[str, Any]:
    """The claims of the request's token: signed by this tenant, for this audience, in time. Raises `ApiRefusal`."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise _refused("Access token is empty.")
    try:
        claims = world.keys.read(token.strip())
    except BadToken as error:
        raise _refused(str(error)) from error
    if claims.get("aud") != audience:
        raise _refused("Access token validation failure. Invalid audience.")
    if claims.get("exp", 0) <= world.now() or claims.get("nbf", 0) > world.now() + SKEW_SECONDS:
        raise _refused("Lifetime validation failed, the token is expired.")
    if claims.get("tid") != world.directory.tenant_id:
        raise _refused("Access token validation failure. Invalid tenant.")
    return claims


def caller_of(request: Request) -> str:
    """The object id a bearer token claims, for the log only: nothing is verified. Empty without a token."""
    try:
        return str(parted(request.headers.get("authorization", "").partition(" ")[2].strip())[1].get("oid", ""))
    except BadToken:
        return ""


def _refused(message: str) -> ApiRefusal:
    return ApiRefusal(401, "InvalidAuthenticationToken", message, {"WWW-Authenticate": 'Bearer realm=""'})
