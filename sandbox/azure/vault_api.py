"""What every path of Key Vault has in common: which vault, who asks, may they, pages, and the shapes of answers and refusals."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlencode

from sandbox.azure import vault_refusals
from sandbox.azure.bearer import SKEW_SECONDS
from sandbox.azure.directory import KEY_VAULT
from sandbox.azure.tokens import BadToken
from sandbox.azure.vault_refusals import VaultRefusal as VaultRefusal
from sandbox.azure.vault_refusals import bad_parameter as bad_parameter
from sandbox.azure.vaults import Item, Vault, Version, Write, new_version_id
from sandbox.azure.web import LOST, Answer, Request, json_answer
from sandbox.azure.world import World

PAGE = 25
_SECRETS = ("/secrets", "/deletedsecrets")
MOST_TAGS, LONGEST_TAG = 15, 256
RECOVERABLE_DAYS = 90
NAME = re.compile(r"[0-9a-zA-Z-]{1,127}")
ONE = {"secrets": "secret", "keys": "key", "certificates": "certificate"}
CODES = {"secrets": "SecretNotFound", "keys": "KeyNotFound", "certificates": "CertificateNotFound"}


@dataclass(frozen=True)
class Call:
    """An admitted request: the vault it is for and the claims of who sends it."""

    world: World
    vault: Vault
    claims: Mapping[str, Any]
    request: Request
    action: str

    @property
    def told(self) -> str:
        """The way this action shall fail (`sandbox.azure.faults.WAYS`), or nothing."""
        last = [word for word in self.action.split("/") if word != "action"][-1]
        return self.world.faults.vault_fails.get(last, "") if self.request.path.startswith(_SECRETS) else ""

    @property
    def caller(self) -> str:
        """Who asks, in the words of refusals."""
        claims = self.claims
        return f"appid={claims.get('appid')};oid={claims.get('oid')};iss={claims.get('iss')}"

    @property
    def base(self) -> str:
        return f"https://{self.vault.name}.{self.world.vault_domain}"

    def body(self) -> dict[str, Any]:
        try:
            return self.request.json_object()
        except ValueError as error:
            raise bad_parameter("The request body is not a JSON object.") from error


def vault_name(world: World, request: Request) -> str | None:
    """The vault in the address of a request, or None when it is not for a vault at all."""
    host = request.headers.get("host", "").lower()
    name, dot, rest = host.partition(".")
    return name if dot and rest == world.vault_domain else None


def admitted(world: World, request: Request, action: str) -> Call:
    """Check in Key Vault's order: the token, the network, the access. Raises `VaultRefusal`."""
    vault = world.vaults.named(vault_name(world, request) or "")
    if vault is None:
        raise VaultRefusal(404, "VaultNotFound", "There is no vault at this address; in Azure its name would not resolve.")
    claims = _claims(world, request)
    if "api-version" not in request.query:
        raise bad_parameter("The api-version query parameter must be provided.")
    call = Call(world, vault, claims, request, action)
    vault_refusals.by_network(call)
    vault_refusals.by_access(call)
    vault_refusals.by_told_fault(call)
    return call


def found(call: Call, kind: str, *, deleted: bool = False) -> Item:
    """The object of the path. Raises 404 in Key Vault's words."""
    name = call.request.parts["name"]
    refuse_settling(call, kind, name, reading=call.request.method == "GET")
    item = call.vault.item(kind, name, deleted=deleted)
    if item is None or item.settles_at > call.world.now():
        state = "deleted " if deleted else ""
        raise _not_found(
            kind,
            f"A {state}{ONE[kind]} with (name/id) {name} was not found in this key vault. If you recently deleted this "
            f"{ONE[kind]} you may be able to recover it using the correct recovery command.",
        )
    return item


def refuse_settling(call: Call, kind: str, name: str, *, reading: bool = False) -> None:
    """A change of what is just being deleted or recovered is 409; a read does not find it."""
    item = call.vault.items.get((kind, name.lower()))
    if item is not None and not reading and item.settles_at > call.world.now():
        raise vault_refusals.being("deleted" if item.deleted_at is not None else "recovered", ONE[kind])


def found_version(call: Call, kind: str) -> tuple[Item, Version]:
    """The object and the version of the path; without a version the latest one."""
    item, wanted = found(call, kind), call.request.parts.get("version", "")
    version = item.versions.get(wanted) if wanted else item.latest
    if version is None:
        raise _not_found(kind, f"A {ONE[kind]} with (name/id) {item.name}/{wanted} was not found in this key vault.")
    return item, version


def refuse_taken_name(call: Call, kind: str, name: str) -> None:
    """A name that cannot be written: malformed, or of an object that is deleted but recoverable."""
    if not NAME.fullmatch(name):
        raise bad_parameter(f"The request URI contains an invalid name: {name}")
    one, item = ONE[kind], call.vault.items.get((kind, name.lower()))
    refuse_settling(call, kind, name)
    if item and item.deleted_at is not None:
        raise VaultRefusal(
            409,
            "Conflict",
            f"{one.capitalize()} {name} is currently in a deleted but recoverable state, and its name cannot be reused; in this "
            f"state, the {one} can only be recovered or purged.",
            "ObjectIsDeletedButRecoverable",
        )


def new_version(call: Call, body: Mapping[str, Any], data: Mapping[str, Any], **more: Any) -> Version:
    """A version made now from the fields all kinds share."""
    second = int(call.world.now())
    fresh = Version(id=new_version_id(), created=second, updated=second, data=data, **more)
    return changed(call, fresh, body)


def changed(call: Call, version: Version, body: Mapping[str, Any]) -> Version:
    """A version with the attributes and tags of a body. Raises 400 for what Key Vault does not take."""
    attributes = body.get("attributes") or {}
    wishes: dict[str, Any] = {name: attributes[name] for name in ("enabled", "nbf", "exp") if attributes.get(name) is not None}
    if body.get("tags") is not None:
        wishes["tags"] = _tags(body["tags"])
    if body.get("contentType") is not None:
        wishes["content_type"] = str(body["contentType"])
    if not isinstance(wishes.get("enabled", True), bool):
        raise bad_parameter("Property attributes.enabled has an invalid value.")
    return replace(version, updated=int(call.world.now()), **wishes)


def write(call: Call, action: str, kind: str, name: str, version: Version) -> None:
    """Record one change in the journal."""
    world, claims = call.world, call.claims
    oid = str(claims.get("oid", ""))
    world.vaults.record(Write(
        sequence=len(world.vaults.journal) + 1, at=world.now(), vault=call.vault.name, action=action, kind=kind, name=name,
        version=version.id, tags=dict(version.tags), caller=oid, caller_name=_caller_name(world, oid),
        application=str(claims.get("appid", "")),
        state=None if action in ("delete", "recover", "purge") else asdict(version),
    ))  # fmt: skip


def written(call: Call, shown: Mapping[str, Any] | None, status: int = 200) -> Answer:
    """The answer to a change, unless it is to be lost on the way."""
    if call.told == "lost" or call.world.count_down("vault_replies_lost"):
        return Answer(LOST)
    return json_answer(shown, status) if shown is not None else Answer(status)


def attributes_of(call: Call, version: Version) -> dict[str, Any]:
    level = "Recoverable" if call.vault.purge_protection else "Recoverable+Purgeable"
    shown = {"enabled": version.enabled, "created": version.created, "updated": version.updated,
             "recoveryLevel": level, "recoverableDays": RECOVERABLE_DAYS}  # fmt: skip
    return shown | {name: value for name, value in (("nbf", version.nbf), ("exp", version.exp)) if value is not None}


def deletion_of(call: Call, item: Item) -> dict[str, Any]:
    """What a deleted object shows besides itself."""
    at = item.deleted_at or 0
    return {"recoveryId": f"{call.base}/deleted{item.kind}/{item.name}", "deletedDate": at,
            "scheduledPurgeDate": at + RECOVERABLE_DAYS * 86400}  # fmt: skip


def page(call: Call, rows: list[dict[str, Any]]) -> Answer:
    """One page of a list and the link to the next."""
    query = call.request.query
    size, start = _number(query, "maxresults", PAGE), _number(query, "$skiptoken", 0)
    if not 1 <= size <= PAGE:
        raise bad_parameter(f"Property maxresults has an invalid value: it must be from 1 to {PAGE}.")
    following = None
    if start + size < len(rows):
        following = f"{call.base}{call.request.path}?{urlencode({**query, 'maxresults': size, '$skiptoken': start + size})}"
    return json_answer({"value": rows[start : start + size], "nextLink": following})


def _claims(world: World, request: Request) -> Mapping[str, Any]:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise _challenge(world, "AKV10000: Request is missing a Bearer or PoP token.")
    try:
        claims = world.keys.read(token.strip())
    except BadToken as error:
        raise _challenge(world, f"AKV10046: Unable to validate the token: {error}") from error
    if claims.get("aud") != KEY_VAULT:
        raise _challenge(world, f"AKV10022: Invalid audience. Expected {KEY_VAULT}, found: {claims.get('aud')}.")
    if claims.get("exp", 0) <= world.now() or claims.get("nbf", 0) > world.now() + SKEW_SECONDS:
        raise _challenge(world, "AKV10063: Token lifetime validation failed. The token is expired or not yet valid.")
    return claims


def _challenge(world: World, message: str) -> VaultRefusal:
    authority = f"{world.base_url}/{world.directory.tenant_id}"
    header = f'Bearer authorization="{authority}", resource="{world.vault_resource}"'
    return VaultRefusal(401, "Unauthorized", message, headers={"WWW-Authenticate": header})


def _caller_name(world: World, oid: str) -> str:
    user = world.directory.user(oid)
    if user:
        return user.upn
    named = {one.principal_id: one.name for one in world.directory.identities}
    return named.get(oid, world.directory.registration.name if oid == world.directory.registration.client_id else "")


def _not_found(kind: str, message: str) -> VaultRefusal:
    return VaultRefusal(404, CODES[kind], message)


def _tags(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MOST_TAGS:
        raise bad_parameter(f"Property tags has an invalid value: at most {MOST_TAGS} tags.")
    if any(not isinstance(text, str) or len(text) > LONGEST_TAG or len(name) > LONGEST_TAG for name, text in value.items()):
        raise bad_parameter(f"Property tags has an invalid value: names and values have at most {LONGEST_TAG} characters.")
    return dict(value)


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not text.isdecimal():
        raise bad_parameter(f"Property {name} has an invalid value.")
    return int(text)
