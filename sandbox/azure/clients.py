"""Who asks the token endpoint: the app registration by its secret, or a managed identity by a federated assertion."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from sandbox.azure.aadsts import Aadsts
from sandbox.azure.directory import EXCHANGE_AUDIENCE, ManagedIdentity
from sandbox.azure.tokens import BadToken, parted
from sandbox.azure.world import World

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True)
class Client:
    """An authenticated client. `principal` is the object its own tokens speak for."""

    client_id: str
    name: str
    principal: str


def authenticated(world: World, form: Mapping[str, str]) -> Client:
    """The client behind a token request. Raises `Aadsts` with Entra's number for what is wrong."""
    client_id = form.get("client_id", "")
    if not client_id:
        raise Aadsts(900144, parameter="client_id")
    identity = world.directory.identity(client_id)
    if identity is None and client_id != world.directory.registration.client_id:
        raise Aadsts(700016, client=client_id, tenant=world.directory.tenant_id)
    if "client_assertion" in form and form.get("client_assertion_type") == ASSERTION_TYPE:
        return _by_assertion(world, client_id, identity, form["client_assertion"])
    if not form.get("client_secret"):
        raise Aadsts(7000218)
    return _by_secret(world, client_id, form["client_secret"])


def _by_secret(world: World, client_id: str, secret: str) -> Client:
    registration = world.directory.registration
    right = client_id == registration.client_id and hmac.compare_digest(secret.encode(), registration.secret.encode())
    if not right:
        raise Aadsts(7000215, client=client_id)
    if world.faults.secret_expired:
        raise Aadsts(7000222, client=client_id)
    return Client(client_id, registration.name, client_id)


def _by_assertion(world: World, client_id: str, identity: ManagedIdentity | None, assertion: str) -> Client:
    try:
        claims = parted(assertion)[1]
    except BadToken as error:
        raise Aadsts(700027) from error
    if claims.get("iss") != world.cluster_issuer or identity is None:
        raise Aadsts(700211, value=str(claims.get("iss")))
    if claims.get("sub") != identity.subject:
        raise Aadsts(700213, value=str(claims.get("sub")))
    audiences = claims["aud"] if isinstance(claims.get("aud"), list) else [claims.get("aud")]
    if EXCHANGE_AUDIENCE not in audiences:
        raise Aadsts(700212, value=", ".join(map(str, audiences)))
    try:
        world.cluster_keys.read(assertion)
    except BadToken as error:
        raise Aadsts(700027) from error
    if not claims.get("nbf", 0) <= world.now() + 300 or claims.get("exp", 0) <= world.now():
        raise Aadsts(700024)
    return Client(client_id, identity.name, identity.principal_id)
