"""Secrets of a vault, as the secrets client speaks of them."""

from __future__ import annotations

from typing import Any

from sandbox.azure import vault_objects, vault_refusals
from sandbox.azure.vault_api import (
    Call,
    VaultRefusal,
    admitted,
    attributes_of,
    bad_parameter,
    found_version,
    new_version,
    refuse_taken_name,
    write,
    written,
)
from sandbox.azure.vaults import Item, Version
from sandbox.azure.web import Answer, Request, Route, json_answer
from sandbox.azure.world import World

LARGEST_VALUE = 25 * 1024


def put(world: World, request: Request) -> Answer:
    """A new version, and the secret itself with its first one."""
    with world.lock:
        call = admitted(world, request, "secrets/setSecret/action")
        name, body = request.parts["name"], call.body()
        refuse_taken_name(call, "secrets", name)
        item = call.vault.item("secrets", name) or Item("secrets", name)
        if item.versions and item.latest.managed:
            raise VaultRefusal(409, "Conflict", f"Secret {name} belongs to a certificate of the same name.")
        version = new_version(call, body, {"value": _value(body)})
        vault_refusals.by_azure_policy(call, version)
        write(call, "set", "secrets", item.name, version)
        return written(call, _with_value(call, item, version))


def get(world: World, request: Request) -> Answer:
    """The latest version or a named one, with its value."""
    with world.lock:
        call = admitted(world, request, "secrets/getSecret/action")
        item, version = found_version(call, "secrets")
        if not version.enabled:
            raise VaultRefusal(403, "Forbidden", "Operation get is not allowed on a disabled secret.", "SecretDisabled")
        return json_answer(_with_value(call, item, version))


def _bundle(call: Call, item: Item, version: Version) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": f"{call.base}/secrets/{item.name}/{version.id}", "attributes": attributes_of(call, version)}
    kid = f"{call.base}/keys/{item.name}/{version.id}" if version.managed else None
    optional = {"tags": dict(version.tags), "contentType": version.content_type, "managed": version.managed, "kid": kid}
    return shown | {name: value for name, value in optional.items() if value}


ROUTES = (
    *vault_objects.routes("secrets", vault_objects.Actions(
        read="secrets/readMetadata/action", update="secrets/update/action", delete="secrets/delete",
        recover="secrets/recover/action", purge="secrets/purge/action"), _bundle),
    Route("PUT", "/secrets/{name}", put),
    Route("GET", "/secrets/{name}", get),
    Route("GET", "/secrets/{name}/{version}", get),
)  # fmt: skip


def _with_value(call: Call, item: Item, version: Version) -> dict[str, Any]:
    return {**_bundle(call, item, version), "value": version.data["value"]}


def _value(body: dict[str, Any]) -> str:
    value = body.get("value")
    if not isinstance(value, str):
        raise bad_parameter("Property value has an invalid value: it must be a string.")
    if len(value.encode()) > LARGEST_VALUE:
        raise bad_parameter(f"Property value has an invalid value: it must have at most {LARGEST_VALUE} bytes.")
    return value
