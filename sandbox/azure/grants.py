"""The token endpoint: one function for each kind of grant."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping

from sandbox.azure.aadsts import Aadsts
from sandbox.azure.claims import application_token, id_token, user_token
from sandbox.azure.clients import Client, authenticated
from sandbox.azure.discovery import refuse_other_tenant
from sandbox.azure.scopes import Ask, application_resource, consented
from sandbox.azure.tokens import BadToken, challenge_of, client_info
from sandbox.azure.web import Answer, Request, Route, json_answer
from sandbox.azure.world import ACCESS_SECONDS, World

Form = Mapping[str, str]
SKEW_SECONDS = 300
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


def token(world: World, request: Request) -> Answer:
    """Check who asks, then hand the request to its grant."""
    refuse_other_tenant(world, request.parts["tenant"])
    form = request.form()
    if "grant_type" not in form:
        raise Aadsts(900144, parameter="grant_type")
    grant = GRANTS.get(form["grant_type"])
    if grant is None:
        raise Aadsts(70003, grant=form["grant_type"])
    return grant(world, form, authenticated(world, form))


def by_code(world: World, form: Form, client: Client) -> Answer:
    """An authorization code: used once, in time, by the client, address and browser session it was made for."""
    grant = world.take_code(_needed(form, "code"))
    if grant is None or grant.client_id != client.client_id:
        raise Aadsts(70000)
    if grant.used:
        raise Aadsts(54005)
    if grant.expires_at <= world.now():
        raise Aadsts(70008)
    if form.get("redirect_uri", "") != grant.redirect_uri:
        raise Aadsts(500112, uri=form.get("redirect_uri", ""), asked=grant.redirect_uri)
    if not hmac.compare_digest(challenge_of(form.get("code_verifier", "")), grant.challenge):
        raise Aadsts(501481)
    return _for_user(world, form, client, grant.oid, form.get("scope") or grant.scope, nonce=grant.nonce)


def by_refresh_token(world: World, form: Form, client: Client) -> Answer:
    """A refresh token, for the same or another resource. The old one goes on to work, as Entra's does."""
    grant = world.refresh_tokens.get(_needed(form, "refresh_token"))
    if grant is None or grant.client_id != client.client_id:
        raise Aadsts(70000)
    if grant.expires_at <= world.now():
        raise Aadsts(70008)
    return _for_user(world, form, client, grant.oid, form.get("scope") or grant.scope)


def by_client_credentials(world: World, form: Form, client: Client) -> Answer:
    """The application itself."""
    resource = application_resource(world, _needed(form, "scope"))
    return json_answer({**_lifetime(), "access_token": application_token(world, client, resource)})


def on_behalf_of(world: World, form: Form, client: Client) -> Answer:
    """A user's token for this client, exchanged for one to another resource on behalf of the same user."""
    if form.get("requested_token_use") != "on_behalf_of":
        raise Aadsts(900144, parameter="requested_token_use")
    oid = _user_of_assertion(world, _needed(form, "assertion"), client)
    return _for_user(world, form, client, oid, _needed(form, "scope"))


GRANTS: dict[str, Callable[[World, Form, Client], Answer]] = {
    "authorization_code": by_code,
    "refresh_token": by_refresh_token,
    "client_credentials": by_client_credentials,
    JWT_BEARER: on_behalf_of,
}
ROUTES = (Route("POST", "/{tenant}/oauth2/v2.0/token", token),)


def _for_user(world: World, form: Form, client: Client, oid: str, scope: str, nonce: str = "") -> Answer:
    user = world.directory.user(oid)
    if user is None or not user.enabled:
        raise Aadsts(50057)
    ask, granted = consented(world, scope)
    access = user_token(world, user, client.client_id, ask.resource, granted)
    body = {**_lifetime(), "scope": _shown(ask, granted), "access_token": access}
    if "offline_access" in ask.sign_in:
        body["refresh_token"] = world.give_refresh_token(client.client_id, user, scope)
    if "openid" in ask.sign_in:
        body["id_token"] = id_token(world, user, client.client_id, nonce, ask.sign_in)
    if form.get("client_info") == "1":
        body["client_info"] = client_info(user.oid, world.directory.tenant_id)
    return json_answer(body)


def _user_of_assertion(world: World, assertion: str, client: Client) -> str:
    try:
        claims = world.keys.read(assertion)
    except BadToken as error:
        raise Aadsts(50013, reason=str(error)) from error
    if claims.get("idtyp") == "app":
        raise Aadsts(7000114, client=client.client_id)
    audience = str(claims.get("aud"))
    if audience not in (client.client_id, f"api://{client.client_id}"):
        raise Aadsts(500131, audience=audience, client=client.client_id)
    if "scp" not in claims:
        raise Aadsts(240002)
    if claims.get("exp", 0) <= world.now() or claims.get("nbf", 0) > world.now() + SKEW_SECONDS:
        raise Aadsts(500133)
    return str(claims.get("oid"))


def _lifetime() -> dict[str, object]:
    return {"token_type": "Bearer", "expires_in": ACCESS_SECONDS, "ext_expires_in": ACCESS_SECONDS}


def _shown(ask: Ask, granted: tuple[str, ...]) -> str:
    prefix = "" if ask.resource.uri.startswith("https://graph") else f"{ask.resource.uri}/"
    return " ".join([*sorted(ask.sign_in - {"offline_access"}), *(prefix + name for name in granted)])


def _needed(form: Form, name: str) -> str:
    if not form.get(name):
        raise Aadsts(900144, parameter=name)
    return form[name]
