"""Sign-in with Entra, the browser's session and sign-out over HTTP at a gateway, in the form of the Primary's."""

from __future__ import annotations

from datetime import datetime

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import browser, sso_api
from accounts.authentication import bearer_text, principal_in
from accounts.sessions import SignedIn, hash_token
from common.api import SIGNED_IN, Operation, rfc3339
from common.clock import now
from common.described import described
from common.errors import NotFound
from gateway_runtime import sign_in
from gateway_runtime.models import ReplicaToken


class HalfSignedOut(serializers.Serializer):
    ended_here = serializers.BooleanField()
    ended_at_primary = serializers.BooleanField()
    expires_at = serializers.DateTimeField(help_text="until when the session counts elsewhere if nobody ends it there")
    message = serializers.CharField()


class SessionHere(serializers.Serializer):
    csrf_token = serializers.CharField(help_text="to send as X-CSRF-Token with every change")
    expires_at = serializers.DateTimeField()
    user = serializers.DictField()


class EntraCallback(sso_api.EntraCallback):
    """Where Entra sends the browser back to at this gateway; the Primary opens the session."""

    def finish(self, values: dict[str, str], browser_value: str, moment: datetime) -> SignedIn:
        return sign_in.finish(values, browser_value, address=self.address, now=moment)


class BrowserSession(Operation):
    """What a page needs of the session in its cookie."""

    permissions = {"GET": SIGNED_IN}

    @described(operation_id="browserSessionHere", responses=SessionHere)
    def get(self, request: Request) -> Response:
        caller, token_hash = principal_in(request), hash_token(str(request.auth))
        held = ReplicaToken.objects.filter(hash=token_hash).first()
        if held is None:
            raise NotFound("this session has just ended")
        user = {"id": caller.id, "email": caller.name}
        return Response({"csrf_token": browser.csrf_token(token_hash), "expires_at": rfc3339(held.expires_at), "user": user})


class Logout(Operation):
    """End the session of the token: here at once, and at the Primary (204); if that cannot be reached, 202 says what is left."""

    permissions = {"POST": SIGNED_IN}

    @described(operation_id="logoutHere", request=None, responses={204: None, 202: HalfSignedOut})
    def post(self, request: Request) -> Response:
        until = sign_in.sign_out(str(request.auth), principal_in(request), address=self.address, now=now())
        response = Response(status=204) if until is None else _half(until)
        if not bearer_text(request):
            browser.take(response)
        return response


def _half(until: datetime) -> Response:
    body = {
        "ended_here": True,
        "ended_at_primary": False,
        "expires_at": rfc3339(until),
        "message": "signed out here, but the Primary cannot be reached: who has the token may use it elsewhere until it expires, "
        "unless you end your sessions at the Primary when it is back",
    }
    return Response(body, status=202)
