"""Telling the sandbox what to do and asking what happened, from this machine only: faults, users, roles, keys, vaults, reset."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from sandbox.azure.directory import EXCHANGE_AUDIENCE
from sandbox.azure.faults import FaultMistake
from sandbox.azure.web import Answer, ApiRefusal, Handler, Request, Route, json_answer
from sandbox.azure.world import World

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
USER_FIELDS = ("enabled", "app_roles", "groups", "name")


def _local(handle: Handler) -> Handler:
    """Only from loopback, and only as JSON: a web page in a browser cannot send that here without being asked first."""

    def guarded(world: World, request: Request) -> Answer:
        if request.peer not in LOOPBACK:
            raise ApiRefusal(403, "Forbidden", "the control paths answer to this machine only")
        if request.method != "GET" and not request.headers.get("content-type", "").startswith("application/json"):
            raise ApiRefusal(415, "UnsupportedMediaType", "send Content-Type: application/json")
        return handle(world, request)

    return guarded


@_local
def show_faults(world: World, request: Request) -> Answer:
    return json_answer(world.faults.as_json())


@_local
def set_faults(world: World, request: Request) -> Answer:
    """Change the named faults; the others stay."""
    with world.lock:
        try:
            world.faults = world.faults.changed(_body(request))
        except FaultMistake as mistake:
            raise ApiRefusal(400, "BadRequest", str(mistake)) from mistake
        return json_answer(world.faults.as_json())


@_local
def reset(world: World, request: Request) -> Answer:
    world.reset()
    return Answer(204)


@_local
def rotate_key(world: World, request: Request) -> Answer:
    """Sign with a new key; `{"keep_old": false}` also takes the old one out of the key set."""
    with world.lock:
        world.keys.rotate(keep_old=_body(request).get("keep_old", True) is True)
        return json_answer(world.keys.key_set())


@_local
def show_users(world: World, request: Request) -> Answer:
    return json_answer({"value": [asdict(user) for user in world.directory.users.values()]})


@_local
def change_user(world: World, request: Request) -> Answer:
    """Enable or disable somebody, or give them other App Roles and groups (by display name or id)."""
    body = _body(request)
    unknown = set(body) - set(USER_FIELDS)
    if unknown:
        raise ApiRefusal(400, "BadRequest", f"{sorted(unknown)[0]}: only {', '.join(USER_FIELDS)} can be changed")
    with world.lock:
        user = world.directory.users.get(request.parts["upn"])
        if user is None:
            raise ApiRefusal(404, "NotFound", "there is no such user")
        changed: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in body.items()}
        if "groups" in changed:
            changed["groups"] = tuple(_group_id(world, text) for text in changed["groups"])
        world.directory.users[user.upn] = replace(user, **changed)
        return json_answer(asdict(world.directory.users[user.upn]))


@_local
def federated_token(world: World, request: Request) -> Answer:
    """The service account token that Kubernetes projects into a gateway's pod: `{"identity": "mi-mazevault-npr"}`."""
    body = _body(request)
    identity = next((one for one in world.directory.identities if one.name == body.get("identity")), None)
    if identity is None:
        raise ApiRefusal(404, "NotFound", "identity: there is no such managed identity")
    second = int(world.now())
    claims = {"iss": world.cluster_issuer, "sub": identity.subject, "aud": [EXCHANGE_AUDIENCE], "iat": second, "nbf": second,
              "exp": second + 3600}  # fmt: skip
    return json_answer({"token": world.cluster_keys.sign({**claims, **body.get("claims", {})}), "client_id": identity.client_id})


@_local
def show_requests(world: World, request: Request) -> Answer:
    """The latest requests, oldest first: method, path, grant, status, host and caller only."""
    return json_answer({"value": [asdict(seen) for seen in world.seen]})


@_local
def show_vault_writes(world: World, request: Request) -> Answer:
    """Every change of every vault, oldest first, without values; `?after=` leaves out those up to a sequence number."""
    after = request.query.get("after", "0")
    if not after.isdecimal():
        raise ApiRefusal(400, "BadRequest", "after: must be a sequence number")
    with world.lock:
        return json_answer({"value": [one.as_json() for one in world.vaults.journal[int(after) :]]})


@_local
def show_vaults(world: World, request: Request) -> Answer:
    domain = world.vault_domain
    shown = [
        {"name": one.name, "url": f"https://{one.name}.{domain}", "id": one.resource_id, "location": one.location}
        for one in world.vaults.all()
    ]
    return json_answer({"value": shown})


@_local
def grant_role(world: World, request: Request) -> Answer:
    """`{"principal": "paul.project@bank.example", "role": "Key Vault Secrets Officer", "vault": "kv-mazevault-npr"}`."""
    body = _body(request)
    vault = world.vaults.named(str(body.get("vault", "")))
    if vault is None:
        raise ApiRefusal(404, "NotFound", "vault: there is no such vault")
    with world.lock:
        try:
            made = world.access.grant(str(body.get("principal", "")), str(body.get("role", "")), vault.resource_id)
        except LookupError as error:
            raise ApiRefusal(404, "NotFound", str(error.args[0])) from error
        return json_answer({"name": made.name, "principal_id": made.principal_id}, 201)


@_local
def revoke_role(world: World, request: Request) -> Answer:
    with world.lock:
        if not world.access.revoke(request.parts["name"]):
            raise ApiRefusal(404, "NotFound", "there is no such role assignment")
        return Answer(204)


ROUTES = (
    Route("GET", "/_control/faults", show_faults),
    Route("POST", "/_control/faults", set_faults),
    Route("POST", "/_control/reset", reset),
    Route("POST", "/_control/rotate-key", rotate_key),
    Route("GET", "/_control/users", show_users),
    Route("PATCH", "/_control/users/{upn}", change_user),
    Route("POST", "/_control/federated-token", federated_token),
    Route("GET", "/_control/requests", show_requests),
    Route("GET", "/_control/vaults", show_vaults),
    Route("GET", "/_control/vault-writes", show_vault_writes),
    Route("POST", "/_control/role-assignments", grant_role),
    Route("DELETE", "/_control/role-assignments/{name}", revoke_role),
)


def _body(request: Request) -> dict[str, Any]:
    try:
        return request.json_object()
    except ValueError as error:
        raise ApiRefusal(400, "BadRequest", "the body must be a JSON object") from error


def _group_id(world: World, text: str) -> str:
    found = next((group.id for group in world.directory.groups.values() if text in (group.name, group.id)), None)
    if found is None:
        raise ApiRefusal(400, "BadRequest", f"groups: there is no group {text}")
    return found
