"""From the text of a `scope` parameter to one resource and what may be done there, as Entra reads it."""

from __future__ import annotations

from dataclasses import dataclass

from sandbox.azure.aadsts import Aadsts
from sandbox.azure.directory import GRAPH, Resource
from sandbox.azure.world import World

SIGN_IN = frozenset({"openid", "profile", "email", "offline_access"})


@dataclass(frozen=True)
class Ask:
    """`names` are scopes of the resource, or `.default`; `sign_in` the OpenID scopes beside them."""

    resource: Resource
    names: tuple[str, ...]
    sign_in: frozenset[str]


def asked(world: World, text: str) -> Ask:
    """Read a scope parameter. Raises `Aadsts` when it is malformed, mixed, or names something that does not exist."""
    words = text.split()
    pairs = [_pair(word) for word in words if word.lower() not in SIGN_IN]
    uris = {uri.rstrip("/").lower() for uri, _ in pairs} or {GRAPH}
    if len(uris) > 1:
        raise Aadsts(28000, scope=text)
    uri = pairs[0][0] if pairs else GRAPH
    resource = world.directory.resource(uri)
    if resource is None:
        raise Aadsts(500011, resource=uri, tenant=world.directory.tenant_id)
    names = tuple(name for _, name in pairs) or ("User.Read",)
    for name in names:
        if name != ".default" and name not in resource.scopes:
            raise Aadsts(650053, name=world.directory.registration.name, scope=name, resource=resource.app_id)
    return Ask(resource, names, SIGN_IN & {word.lower() for word in words})


def consented(world: World, text: str) -> tuple[Ask, tuple[str, ...]]:
    """The same, and the scopes the token will carry. Raises AADSTS65001 when an administrator has not agreed."""
    ask = asked(world, text)
    registration = world.directory.registration
    if ask.resource.app_id == registration.client_id and ".default" in ask.names and "api://" in text:
        raise Aadsts(90009, client=registration.client_id, name=registration.name)
    granted = registration.consents.get(ask.resource.uri, ())
    missing = not granted or any(name not in granted for name in ask.names if name != ".default")
    if missing or world.faults.lacks_consent(ask.resource.uri):
        raise Aadsts(65001, client=registration.client_id, name=registration.name)
    return ask, granted if ".default" in ask.names else ask.names


def application_resource(world: World, text: str) -> Resource:
    """The resource of a client-credentials request, which must ask for exactly one `/.default`."""
    if not text.endswith("/.default") or " " in text.strip():
        raise Aadsts(1002012, scope=text)
    return asked(world, text).resource


def _pair(word: str) -> tuple[str, str]:
    """`https://vault.azure.net/.default` is a resource and a name; a bare name belongs to Graph."""
    uri, slash, name = word.rpartition("/")
    if not name or (slash and not uri):
        raise Aadsts(70011, scope=word)
    return (uri, name) if slash else (GRAPH, name)
