"""The paths that secrets, keys and certificates have alike: list, versions, update, delete, recover, purge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sandbox.azure import vault_refusals
from sandbox.azure.vault_api import (
    Call,
    VaultRefusal,
    admitted,
    attributes_of,
    changed,
    deletion_of,
    found,
    found_version,
    page,
    write,
    written,
)
from sandbox.azure.vaults import Item, Version
from sandbox.azure.web import Answer, Handler, Request, Route, json_answer
from sandbox.azure.world import World

Bundle = Callable[[Call, Item, Version], dict[str, Any]]


@dataclass(frozen=True)
class Actions:
    """The data actions that the common paths need, as role definitions name them."""

    read: str
    update: str
    delete: str
    recover: str
    purge: str


def row(call: Call, item: Item, version: Version, *, with_version: bool = False) -> dict[str, Any]:
    """An object or a version as lists show it: without its value."""
    path = f"{item.kind}/{item.name}/{version.id}" if with_version else f"{item.kind}/{item.name}"
    shown: dict[str, Any] = {
        "kid" if item.kind == "keys" else "id": f"{call.base}/{path}",
        "attributes": attributes_of(call, version),
    }
    optional = {
        "tags": dict(version.tags),
        "contentType": version.content_type,
        "managed": version.managed,
        "x5t": version.data.get("x5t"),
    }
    return shown | {name: value for name, value in optional.items() if value}


def routes(kind: str, actions: Actions, bundle: Bundle) -> tuple[Route, ...]:
    """The common routes of one kind. `bundle` shows a whole object; secrets leave the value out of what these paths answer."""
    live, dead = f"/{kind}/{{name}}", f"/deleted{kind}/{{name}}"

    def guarded(action: str, handle: Callable[[Call], Answer]) -> Handler:
        def admitted_first(world: World, request: Request) -> Answer:
            with world.lock:
                return handle(admitted(world, request, action))

        return admitted_first

    def listed(call: Call) -> Answer:
        return page(call, [row(call, item, item.latest) for item in _settled(call, call.vault.listed(kind))])

    def versions(call: Call) -> Answer:
        item = call.vault.item(kind, call.request.parts["name"])
        return page(call, [row(call, item, version, with_version=True) for version in item.versions.values()] if item else [])

    def update(call: Call) -> Answer:
        item, version = found_version(call, kind)
        _refuse_managed(version)
        after = changed(call, version, call.body())
        if kind == "secrets":
            vault_refusals.by_azure_policy(call, after)
        write(call, "update", kind, item.name, after)
        return written(call, bundle(call, item, after))

    def delete(call: Call) -> Answer:
        item = found(call, kind)
        _refuse_managed(item.latest)
        if call.told != "agreed":
            _each(call, "delete", item)
        return written(call, {**bundle(call, item, item.latest), **deletion_of(call, item)})

    def deleted_list(call: Call) -> Answer:
        items = _settled(call, call.vault.listed(kind, deleted=True))
        return page(call, [{**row(call, item, item.latest), **deletion_of(call, item)} for item in items])

    def deleted_one(call: Call) -> Answer:
        item = found(call, kind, deleted=True)
        return json_answer({**bundle(call, item, item.latest), **deletion_of(call, item)})

    def recover(call: Call) -> Answer:
        item = found(call, kind, deleted=True)
        if call.told != "agreed":
            _each(call, "recover", item)
        return written(call, bundle(call, item, item.latest))

    def purge(call: Call) -> Answer:
        item = found(call, kind, deleted=True)
        if call.vault.purge_protection:
            raise vault_refusals.protected(call)
        if call.told != "agreed":
            _each(call, "purge", item)
        return written(call, None, 204)

    return (
        Route("GET", f"/{kind}", guarded(actions.read, listed)),
        Route("GET", f"{live}/versions", guarded(actions.read, versions)),
        Route("PATCH", live, guarded(actions.update, update)),
        Route("PATCH", f"{live}/{{version}}", guarded(actions.update, update)),
        Route("DELETE", live, guarded(actions.delete, delete)),
        Route("GET", f"/deleted{kind}", guarded(actions.read, deleted_list)),
        Route("GET", dead, guarded(actions.read, deleted_one)),
        Route("POST", f"{dead}/recover", guarded(actions.recover, recover)),
        Route("DELETE", dead, guarded(actions.purge, purge)),
    )


def _each(call: Call, action: str, item: Item) -> None:
    """A change of the object, and of the secret and key that belong to it when it is a certificate."""
    write(call, action, item.kind, item.name, item.latest)
    item.settles_at = call.world.now() + call.world.faults.vault_settle_seconds
    for kind in ("secrets", "keys") if item.kind == "certificates" else ():
        own = call.vault.item(kind, item.name, deleted=action != "delete")
        if own and own.latest.managed:
            write(call, action, kind, own.name, own.latest)


def _settled(call: Call, items: list[Item]) -> list[Item]:
    return [item for item in items if item.settles_at <= call.world.now()]


def _refuse_managed(version: Version) -> None:
    if version.managed:
        raise VaultRefusal(403, "Forbidden", "Operation is not allowed on an object whose lifetime is managed by Key Vault.")
