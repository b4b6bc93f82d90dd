"""The page where somebody signs in by picking a user, and the way back to the application."""

from __future__ import annotations

from urllib.parse import urlencode

from sandbox.azure import pages
from sandbox.azure.aadsts import Aadsts
from sandbox.azure.directory import User
from sandbox.azure.discovery import refuse_other_tenant
from sandbox.azure.scopes import consented
from sandbox.azure.tokens import client_info
from sandbox.azure.web import Answer, Request, Route, html_answer, redirect
from sandbox.azure.world import CODE_SECONDS, Grant, World


def show(world: World, request: Request) -> Answer:
    """The page, or Entra's error page when the request itself is wrong: then nothing is sent to its redirect URI."""
    try:
        _refuse_wrong_application(world, request)
        try:
            _refuse_wrong_request(world, request)
            if request.query.get("prompt") == "none":
                raise Aadsts(50058)
        except Aadsts as refusal:
            return _back_with_error(request, refusal)
    except Aadsts as refusal:
        return html_answer(pages.error(refusal.description()), 400)
    hint = request.query.get("login_hint", "")
    return html_answer(pages.pick(world.directory.registration.name, world.directory.users.values(), hint))


def pick(world: World, request: Request) -> Answer:
    """Somebody was picked: back to the application with a code, or with the reason why there is none."""
    try:
        _refuse_wrong_application(world, request)
        user = world.directory.users.get(request.form().get("user", ""))
        try:
            _refuse_wrong_request(world, request)
            if user is None:
                raise Aadsts(65004)
        except Aadsts as refusal:
            return _back_with_error(request, refusal)
        if not user.enabled:
            raise Aadsts(50057)
    except Aadsts as refusal:
        return html_answer(pages.error(refusal.description()), 400)
    return _back_with_code(world, request, user)


ROUTES = (
    Route("GET", "/{tenant}/oauth2/v2.0/authorize", show),
    Route("POST", "/{tenant}/oauth2/v2.0/authorize", pick),
)


def _refuse_wrong_application(world: World, request: Request) -> None:
    """What makes it unsafe to go back: unknown tenant, application or address."""
    refuse_other_tenant(world, request.parts["tenant"])
    registration, query = world.directory.registration, request.query
    if query.get("client_id") != registration.client_id:
        raise Aadsts(700016, client=query.get("client_id", ""), tenant=world.directory.tenant_id)
    if query.get("redirect_uri") not in registration.redirect_uris:
        raise Aadsts(50011, uri=query.get("redirect_uri", ""), client=registration.client_id)


def _refuse_wrong_request(world: World, request: Request) -> None:
    query = request.query
    if query.get("response_type") != "code" or query.get("response_mode", "query") != "query":
        raise Aadsts(900144, parameter="response_type=code, response_mode=query")
    if query.get("code_challenge_method") != "S256" or not query.get("code_challenge"):
        raise Aadsts(9002325)
    consented(world, query.get("scope", ""))


def _back_with_code(world: World, request: Request, user: User) -> Answer:
    query, registration = request.query, world.directory.registration
    if world.faults.assignment_required and not user.app_roles and not user.groups:
        return _back_with_error(request, Aadsts(50105, name=registration.name, client=registration.client_id))
    code = world.give_code(
        Grant(
            client_id=registration.client_id,
            oid=user.oid,
            scope=query.get("scope", ""),
            expires_at=world.now() + CODE_SECONDS,
            nonce=query.get("nonce", ""),
            challenge=query["code_challenge"],
            redirect_uri=query["redirect_uri"],
        )
    )
    more = {"client_info": client_info(user.oid, world.directory.tenant_id)} if query.get("client_info") == "1" else {}
    return _back(request, {"code": code, **more})


def _back_with_error(request: Request, refusal: Aadsts) -> Answer:
    return _back(request, {"error": refusal.oauth_error, "error_description": refusal.description()})


def _back(request: Request, values: dict[str, str]) -> Answer:
    state = {"state": request.query["state"]} if "state" in request.query else {}
    address = request.query["redirect_uri"]
    return redirect(f"{address}{'&' if '?' in address else '?'}{urlencode({**values, **state})}")
