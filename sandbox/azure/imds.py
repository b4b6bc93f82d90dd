"""The instance metadata service: managed identities of a machine, over plain HTTP, for who sends `Metadata: true`.

`/hosts/npr` and `/hosts/pro` are two machines with one identity each, as in the product's isolation rule; the root has both.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.azure.claims import application_token
from sandbox.azure.clients import Client
from sandbox.azure.directory import ManagedIdentity
from sandbox.azure.web import Answer, Refusal, Request, Route, json_answer
from sandbox.azure.world import ACCESS_SECONDS, World

API_VERSION = "2018-02-01"


class ImdsRefusal(Refusal):
    """A refusal in the words of the metadata service."""

    def __init__(self, description: str, error: str = "invalid_request") -> None:
        super().__init__(description)
        self.description, self.error = description, error

    def answer(self) -> Answer:
        return json_answer({"error": self.error, "error_description": self.description}, 400)


def token(world: World, request: Request) -> Answer:
    """A token for a managed identity of the machine that asks."""
    if request.headers.get("metadata", "").lower() != "true":
        raise ImdsRefusal("Required metadata header not specified")
    if "x-forwarded-for" in request.headers:
        raise ImdsRefusal("Request contains X-Forwarded-For header")
    if request.query.get("api-version") != API_VERSION:
        raise ImdsRefusal(f"api-version must be {API_VERSION}")
    resource = world.directory.resource(request.query.get("resource", ""))
    if resource is None:
        raise ImdsRefusal("AADSTS500011: The resource principal was not found in the tenant", "invalid_resource")
    identity = _identity(world, request)
    access = application_token(world, Client(identity.client_id, identity.name, identity.principal_id), resource)
    return json_answer({
        "access_token": access, "client_id": identity.client_id, "expires_in": str(ACCESS_SECONDS),
        "expires_on": str(int(world.now()) + ACCESS_SECONDS), "resource": resource.uri, "token_type": "Bearer",
    })  # fmt: skip


ROUTES = (
    Route("GET", "/metadata/identity/oauth2/token", token, plain=True),
    Route("GET", "/hosts/{host}/metadata/identity/oauth2/token", token, plain=True),
)


def _identity(world: World, request: Request) -> ManagedIdentity:
    query = request.query
    here = [one for one in world.directory.identities if request.parts.get("host", one.host) == one.host]
    if query.keys() & {"client_id", "object_id", "msi_res_id"}:
        here = [one for one in here if _is_meant(one, query)]
    if not here:
        raise ImdsRefusal("Identity not found")
    if len(here) > 1:
        raise ImdsRefusal("Multiple user assigned identities exist, please specify the clientId / resourceId of the identity")
    return here[0]


def _is_meant(identity: ManagedIdentity, query: Mapping[str, str]) -> bool:
    own = {"client_id": identity.client_id, "object_id": identity.principal_id, "msi_res_id": identity.resource_id}
    return all(query[name].lower() == value.lower() for name, value in own.items() if name in query)
