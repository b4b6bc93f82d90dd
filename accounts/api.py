"""Sign-in, sign-out and who am I."""

from __future__ import annotations

import uuid
from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import browser, people, sessions
from accounts.access import Grant
from accounts.authentication import bearer_text, person_of, principal_in, session_in
from accounts.fields import AUDIENCE, Flag, Texts
from accounts.models import Session, User
from accounts.sessions import SignedIn
from common.api import SIGNED_IN, Operation, Text, checked, rfc3339
from common.clock import now
from common.described import described
from common.paging import PAGE, page_of


class Credentials(serializers.Serializer):
    email = Text(max_length=254)
    password = Text(max_length=1024, trim_whitespace=False)
    audience = Texts(required=False, allow_null=True, help_text=AUDIENCE)
    cookie = Flag(required=False, help_text="true: the session goes into a cookie of the browser, and no token is in the answer")


class UserRow(serializers.Serializer):
    id = serializers.UUIDField()
    email = serializers.CharField()
    full_name = serializers.CharField()
    role = serializers.CharField()
    must_change_passwd = serializers.BooleanField()
    created_at = serializers.DateTimeField()


class TokenAnswer(serializers.Serializer):
    token = serializers.CharField(help_text="the bearer token; `access_token` is the same value")
    access_token = serializers.CharField()
    token_type = serializers.CharField()
    expires_in = serializers.IntegerField(help_text="seconds")
    expires_at = serializers.DateTimeField()
    user = UserRow()


class BrowserAnswer(serializers.Serializer):
    csrf_token = serializers.CharField(help_text="to send as X-CSRF-Token with every change")
    expires_at = serializers.DateTimeField()
    user = UserRow()


class PlaceRow(serializers.Serializer):
    organization_id = serializers.UUIDField(allow_null=True)
    project_id = serializers.UUIDField(allow_null=True)
    environment = serializers.CharField(allow_null=True)
    expires_at = serializers.DateTimeField(allow_null=True)
    permissions = serializers.ListField(child=serializers.CharField())


class Permissions(serializers.Serializer):
    permissions = serializers.ListField(child=serializers.CharField(), help_text="held in at least one place")
    everywhere = serializers.ListField(child=serializers.CharField())
    places = PlaceRow(many=True)


class SessionRow(serializers.Serializer):
    id = serializers.UUIDField()
    audience = serializers.ListField(child=serializers.CharField(), allow_null=True, help_text=AUDIENCE)
    address = serializers.CharField()
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()
    last_used_at = serializers.DateTimeField(allow_null=True, help_text="exact to five minutes")
    current = serializers.BooleanField()


class PasswordChange(serializers.Serializer):
    current_password = Text(max_length=1024, trim_whitespace=False)
    new_password = Text(max_length=4096, trim_whitespace=False)
    keep_tokens = Flag(required=False, help_text="true: your API tokens go on; else they end with your other sessions")


class Login(Operation):
    """Open a session with email address and password."""

    public = True
    authentication_classes = ()  # an old token in the header must not stop a new sign-in

    @described(operation_id="login", request=Credentials, responses=TokenAnswer, auth=[])
    def post(self, request: Request) -> Response:
        wish = checked(Credentials, request.data)
        opened = sessions.sign_in(wish["email"], wish["password"], address=self.address, now=now(), audience=wish.get("audience"))
        return _browser_response(opened) if wish.get("cookie") else Response(token_answer(opened))


class Refresh(Operation):
    """Exchange the token for a new one; the old one ends."""

    open_before_password_change = True
    permissions = {"POST": SIGNED_IN}

    @described(operation_id="refreshToken", request=None, responses=TokenAnswer)
    def post(self, request: Request) -> Response:
        opened = sessions.refresh(session_in(request), address=self.address, now=now())
        return Response(token_answer(opened)) if bearer_text(request) else _browser_response(opened)


class Logout(Operation):
    """End the session of the token."""

    open_before_password_change = True
    permissions = {"POST": SIGNED_IN}

    @described(operation_id="logout", request=None, responses={204: None})
    def post(self, request: Request) -> Response:
        sessions.sign_out(session_in(request), address=self.address, now=now())
        response = Response(status=204)
        if not bearer_text(request):
            browser.take(response)
        return response


class BrowserSession(Operation):
    """What a page needs of the session in its cookie."""

    open_before_password_change = True
    permissions = {"GET": SIGNED_IN}

    @described(operation_id="browserSession", responses=BrowserAnswer)
    def get(self, request: Request) -> Response:
        return Response(_browser_answer(session_in(request), person_of(request)))


class Sessions(Operation):
    """Your living sessions, the newest first."""

    open_before_password_change = True
    permissions = {"GET": SIGNED_IN}

    @described(operation_id="listSessions", parameters=PAGE, responses=SessionRow(many=True))
    def get(self, request: Request) -> Response:
        current = session_in(request)
        return Response([_session_row(row, current) for row in page_of(sessions.sessions_of(current, now()), request)])


class SessionOne(Operation):
    """End one of your sessions at once."""

    open_before_password_change = True
    permissions = {"DELETE": SIGNED_IN}

    @described(operation_id="revokeSession", responses={204: None})
    def delete(self, request: Request, identifier: uuid.UUID) -> Response:
        sessions.revoke_one(session_in(request), identifier, address=self.address, now=now())
        return Response(status=204)


class Password(Operation):
    """Change your password; your other sessions end, and your API tokens unless you keep them."""

    open_before_password_change = True
    permissions = {"POST": SIGNED_IN}

    @described(operation_id="changePassword", request=PasswordChange, responses={204: None})
    def post(self, request: Request) -> Response:
        wish = checked(PasswordChange, request.data)
        people.change_password(
            session_in(request), wish["current_password"], wish["new_password"], address=self.address, now=now(),
            keep_tokens=bool(wish.get("keep_tokens")),
        )  # fmt: skip
        return Response(status=204)


class Me(Operation):
    """The account behind the token."""

    open_before_password_change = True
    permissions = {"GET": SIGNED_IN}

    @described(operation_id="whoAmI", responses=UserRow)
    def get(self, request: Request) -> Response:
        return Response(user_row(person_of(request)))


class MyPermissions(Operation):
    """What the account behind the token may do."""

    open_before_password_change = True
    permissions = {"GET": SIGNED_IN}

    @described(operation_id="myPermissions", responses=Permissions)
    def get(self, request: Request) -> Response:
        principal = principal_in(request)
        return Response(
            {
                "permissions": sorted(principal.permissions_anywhere),
                "everywhere": sorted(principal.permissions),
                "places": [place_row(grant) for grant in principal.living()],
            }
        )


def user_row(user: User) -> dict[str, Any]:
    return {
        "id": str(user.id),
        "email": user.email,
        "full_name": user.full_name,
        "role": user.role,
        "must_change_passwd": user.must_change_password,
        "created_at": rfc3339(user.created_at),
    }


def place_row(grant: Grant) -> dict[str, Any]:
    """What is held in one scope; a null part stands for all."""
    return {
        "organization_id": grant.scope.organization or None,
        "project_id": grant.scope.project or None,
        "environment": grant.scope.environment or None,
        "expires_at": rfc3339(grant.expires_at),
        "permissions": sorted(grant.permissions),
    }


def _session_row(row: Session, current: Session) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "audience": [row.gateway_environment] if row.gateway_environment else row.audience,
        "address": row.address,
        "created_at": rfc3339(row.created_at),
        "expires_at": rfc3339(row.expires_at),
        "last_used_at": rfc3339(row.last_used_at),
        "current": row.id == current.id,
    }


def _browser_response(opened: SignedIn) -> Response:
    response = Response(_browser_answer(opened.session, opened.user))
    browser.give(response, opened)
    return response


def _browser_answer(session: Session, user: User) -> dict[str, Any]:
    return {
        "csrf_token": browser.csrf_token(session.token_hash),
        "expires_at": rfc3339(session.expires_at),
        "user": user_row(user),
    }


def token_answer(opened: SignedIn) -> dict[str, Any]:
    return {
        "token": opened.token,
        "access_token": opened.token,
        "token_type": "Bearer",
        "expires_in": opened.seconds_left(now()),
        "expires_at": rfc3339(opened.session.expires_at),
        "user": user_row(opened.user),
    }
