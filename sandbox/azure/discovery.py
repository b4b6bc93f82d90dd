"""What a tenant says about itself: its OpenID configuration and its public keys."""

from __future__ import annotations

from sandbox.azure.aadsts import Aadsts
from sandbox.azure.web import Answer, Request, Route, json_answer
from sandbox.azure.world import World


def refuse_other_tenant(world: World, tenant: str) -> None:
    """The sandbox has one tenant; the words for many (`common`, `organizations`) name it too."""
    if tenant.lower() not in (world.directory.tenant_id, "common", "organizations"):
        raise Aadsts(90002, tenant=tenant)


def configuration(world: World, request: Request) -> Answer:
    refuse_other_tenant(world, request.parts["tenant"])
    tenant = f"{world.base_url}/{world.directory.tenant_id}"
    return json_answer({
        "issuer": world.issuer,
        "authorization_endpoint": f"{tenant}/oauth2/v2.0/authorize",
        "token_endpoint": f"{tenant}/oauth2/v2.0/token",
        "jwks_uri": f"{tenant}/discovery/v2.0/keys",
        "end_session_endpoint": f"{tenant}/oauth2/v2.0/logout",
        "response_modes_supported": ["query"],
        "response_types_supported": ["code"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "tenant_region_scope": "EU",
        "cloud_instance_name": "localhost",
        "msgraph_host": world.base_url.removeprefix("https://"),
    })  # fmt: skip


def keys(world: World, request: Request) -> Answer:
    refuse_other_tenant(world, request.parts["tenant"])
    return json_answer(world.keys.key_set())


ROUTES = (
    Route("GET", "/{tenant}/v2.0/.well-known/openid-configuration", configuration),
    Route("GET", "/{tenant}/discovery/v2.0/keys", keys),
)
