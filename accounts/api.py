"""Sign-in, sign-out and who am I."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import sessions
from accounts.authentication import person_of, principal_in, session_in
from accounts.models import User
from accounts.sessions import LIFE, SignedIn
from common.api import SIGNED_IN, Operation, Text, checked, rfc3339
from common.clock import now


class Credentials(serializers.Serializer):
    email = Text(max_length=254)
    password = Text(max_length=1024, trim_whitespace=False)


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


class Permissions(serializers.Serializer):
    permissions = serializers.ListField(child=serializers.CharField())


class Login(Operation):
    """Open a session with email address and password."""

    public = True
    authentication_classes = ()  # an old token in the header must not stop a new sign-in

    @extend_schema(operation_id="login", request=Credentials, responses=TokenAnswer, auth=[])
    def post(self, request: Request) -> Response:
        wish = checked(Credentials, request.data)
        return Response(token_answer(sessions.sign_in(wish["email"], wish["password"], address=self.address, now=now())))


class Refresh(Operation):
    """Exchange the token for a new one; the old one ends."""

    permissions = {"POST": SIGNED_IN}

    @extend_schema(operation_id="refreshToken", request=None, responses=TokenAnswer)
    def post(self, request: Request) -> Response:
        return Response(token_answer(sessions.refresh(session_in(request), address=self.address, now=now())))


class Logout(Operation):
    """End the session of the token."""

    permissions = {"POST": SIGNED_IN}

    @extend_schema(operation_id="logout", request=None, responses={204: None})
    def post(self, request: Request) -> Response:
        sessions.sign_out(session_in(request), address=self.address, now=now())
        return Response(status=204)


class Me(Operation):
    """The account behind the token."""

    permissions = {"GET": SIGNED_IN}

    @extend_schema(operation_id="whoAmI", responses=UserRow)
    def get(self, request: Request) -> Response:
        return Response(user_row(person_of(request)))


class MyPermissions(Operation):
    """What the account behind the token may do."""

    permissions = {"GET": SIGNED_IN}

    @extend_schema(operation_id="myPermissions", responses=Permissions)
    def get(self, request: Request) -> Response:
        return Response({"permissions": sorted(principal_in(request).permissions_anywhere)})


def user_row(user: User) -> dict[str, Any]:
    return {
        "id": str(user.id),
        "email": user.email,
        "full_name": user.full_name,
        "role": user.role,
        "must_change_passwd": user.must_change_password,
        "created_at": rfc3339(user.created_at),
    }


def token_answer(opened: SignedIn) -> dict[str, Any]:
    return {
        "token": opened.token,
        "access_token": opened.token,
        "token_type": "Bearer",
        "expires_in": int(LIFE.total_seconds()),
        "expires_at": rfc3339(opened.session.expires_at),
        "user": user_row(opened.user),
    }
