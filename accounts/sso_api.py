"""Sign-in with Entra over HTTP: to Entra, back from it, and what Entra allows in the caller's name."""

from __future__ import annotations

import uuid
from datetime import datetime
from html import escape
from typing import Any

from django.conf import settings
from django.http import HttpResponse, HttpResponseRedirect
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import attempts, browser, cookies, people, sso
from accounts.api import TokenAnswer, token_answer
from accounts.authentication import person_of, session_in
from accounts.operations import Signed
from accounts.rbac_api import PersonRow, person_row
from accounts.roles import USERS_WRITE
from accounts.sessions import SignedIn
from common.api import SIGNED_IN, Operation, is_read, translate
from common.clock import now
from common.described import described
from common.errors import AuthenticationInvalid, MazeVaultError, ValidationFailed

PARAMETERS = ("state", "code", "error", "error_description", "client_info", "session_state")
LONGEST_PARAMETER = 4096


class AnyAccept(BaseContentNegotiation):
    """Browsers ask for HTML here; what they get is decided by the operation."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class CheckedResource(serializers.Serializer):
    resource = serializers.CharField()
    ok = serializers.BooleanField()
    code = serializers.CharField(help_text="empty when ok")
    error = serializers.CharField(help_text="the cause; empty when ok")
    details = serializers.CharField(help_text="fix and owner; empty when ok")


class CheckAnswer(serializers.Serializer):
    user = serializers.CharField()
    role = serializers.CharField()
    mapped_roles = serializers.ListField(child=serializers.CharField(), help_text="given by mappings at the last sign-in")
    mappings = serializers.IntegerField(help_text="how many there are")
    resources = CheckedResource(many=True)


class EntraLogin(Operation):
    """Send the browser to Entra to sign in."""

    public = True
    authentication_classes = ()
    content_negotiation_class = AnyAccept

    @described(operation_id="entraLogin", responses={302: None}, auth=[])
    def get(self, request: Request) -> HttpResponse:
        begun = sso.begin(cookies.browser_of(request), address=self.address, now=now())
        response = HttpResponseRedirect(begun.url)
        cookies.give_browser(response, begun.browser, int(attempts.LIFE.total_seconds()))
        return response


class EntraCallback(Operation):
    """Where Entra sends the browser back to: a session as cookie and a redirect, or as JSON for who does not ask for HTML."""

    public = True
    authentication_classes = ()
    content_negotiation_class = AnyAccept

    @described(
        operation_id="entraCallback",
        parameters=[OpenApiParameter(name, str) for name in PARAMETERS],
        more_parameters=True,  # RFC 6749 §4.1.2: what an authorization server adds must be passed over
        responses={200: TokenAnswer, 302: None},
        auth=[],
    )
    def get(self, request: Request) -> HttpResponse:
        response: HttpResponse
        try:
            opened = self.finish(_parameters(request), cookies.browser_of(request), now())
        except AuthenticationInvalid as refused:
            if not (refused.code == attempts.REPLAYED and prefers_html(request) and browser.token_in(request)):
                raise
            response = HttpResponseRedirect(settings.MAZEVAULT.entra.frontend_url)  # loaded again, where a session is
            response["Referrer-Policy"] = "no-referrer"
            return response
        response = Response(token_answer(opened))
        if prefers_html(request):
            response = HttpResponseRedirect(settings.MAZEVAULT.entra.frontend_url)
            browser.give(response, opened)
        response["Referrer-Policy"] = "no-referrer"
        return response

    def finish(self, values: dict[str, str], browser_value: str, moment: datetime) -> SignedIn:
        return sso.finish(values, browser_value, address=self.address, now=moment)

    def handle_exception(self, exc: Exception) -> HttpResponse:  # type: ignore[override]
        """People see a page with cause, fix and owner; programs the error shape."""
        if not prefers_html(self.request):
            return super().handle_exception(exc)
        return _page(translate(exc, is_read=is_read(self.request)))


class EntraCheck(Operation):
    """Try each API of the app registration in the caller's name. Needs a session that began at Entra."""

    permissions = {"GET": SIGNED_IN}

    @described(operation_id="entraCheck", responses=CheckAnswer)
    def get(self, request: Request) -> Response:
        person, session = person_of(request), session_in(request)
        rows = [_checked_row(row) for row in sso.check(session, now())]
        roles, mappings = sso.standing(person)
        return Response(
            {"user": person.email, "role": person.role, "mapped_roles": list(roles), "mappings": mappings, "resources": rows}
        )


def _checked_row(row: sso.Checked) -> dict[str, Any]:
    if row.error is None:
        return {"resource": row.resource, "ok": True, "code": "", "error": "", "details": ""}
    error = row.error
    return {"resource": row.resource, "ok": False, "code": error.code, "error": error.sentence, "details": error.details or ""}


class GiveToEntra(Signed):
    """Let the person of this address in Entra have this account; its password, sessions and tokens end."""

    permissions = {"POST": USERS_WRITE}

    @described(operation_id="giveUserToEntra", request=None, responses=PersonRow)
    def post(self, request: Request, identifier: uuid.UUID) -> Response:
        return Response(person_row(people.give_to_entra(identifier, self.by, now())))


def prefers_html(request: Request) -> bool:
    """Whether the Accept header names HTML, and not JSON before it."""
    wanted = [part.strip().split(";")[0].strip().lower() for part in request.META.get("HTTP_ACCEPT", "").split(",")]
    if "text/html" not in wanted:
        return False
    return "application/json" not in wanted or wanted.index("text/html") < wanted.index("application/json")


def _parameters(request: Request) -> dict[str, str]:
    """What Entra sent, each at most once. Raises `ValidationFailed` for anything Entra would not send."""
    found = {}
    for name in PARAMETERS:
        values = request.query_params.getlist(name)
        if len(values) > 1 or any(len(value) > LONGEST_PARAMETER for value in values):
            raise ValidationFailed(f"{name}: comes more than once or is too long; begin the sign-in again")
        if values:
            found[name] = values[0]
    if "code" not in found and "error" not in found:
        raise ValidationFailed("code: is missing; begin the sign-in at /api/v1/auth/sso/entra/login")
    return found


def _page(error: MazeVaultError) -> HttpResponse:
    details = f"<p>{escape(error.details)}</p>" if error.details else ""
    body = _PAGE.format(sentence=escape(error.sentence), details=details, code=escape(error.code))
    response = HttpResponse(body, status=error.status, content_type="text/html; charset=utf-8")
    response["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
    response["Referrer-Policy"] = "no-referrer"
    return response


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign-in failed</title><style>
:root {{ color-scheme: light dark }} body {{ font: 16px/1.5 system-ui, sans-serif; padding: 10vh 1rem }}
main {{ max-width: 36rem; margin: auto }} code {{ opacity: .7 }} a {{ color: LinkText }}
</style></head><body><main>
<h1>Sign-in failed</h1>
<p><strong>{sentence}</strong></p>
{details}
<p><a href="/api/v1/auth/sso/entra/login">Sign in again</a></p>
<p><code>{code}</code></p>
</main></body></html>
"""
