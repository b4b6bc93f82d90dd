"""From the Authorization header to a person. Only the bearer scheme; no token is ever read from a URL."""

from __future__ import annotations

from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts.access import Principal
from accounts.models import Session, User
from accounts.principals import principal_of
from accounts.sessions import session_of
from common.clock import now
from common.errors import AuthenticationInvalid, PermissionRefused

LONGEST_HEADER = 4096


def bearer_text(request: HttpRequest | Request) -> str:
    """The token of the Authorization header, or an empty text when there is no header. Raises for any other form."""
    header = request.META.get("HTTP_AUTHORIZATION", "")
    if not header:
        return ""
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip() or len(header) > LONGEST_HEADER:
        raise AuthenticationInvalid("the Authorization header must be: Bearer <token>")
    return str(token.strip())


def principal_of_bearer(request: HttpRequest) -> Principal:
    """Who stands behind the header. Raises `AuthenticationInvalid` or `AuthenticationExpired`."""
    moment = now()
    return principal_of(session_of(bearer_text(request), moment), moment)


def principal_in(request: Request) -> Principal:
    """Who calls, on an authenticated request."""
    if not isinstance(request.user, Principal):
        raise AuthenticationInvalid("nobody is signed in")
    return request.user


def person_of(request: Request) -> User:
    """The signed-in person of an authenticated request. Raises for a service identity, which is nobody."""
    user = session_in(request).user
    if user is None:
        raise PermissionRefused("this is for people; the token belongs to a service identity")
    return user


def session_in(request: Request) -> Session:
    """The session behind the token of an authenticated request."""
    if not isinstance(request.auth, Session):
        raise AuthenticationInvalid("nobody is signed in")
    return request.auth


class BearerAuthentication(BaseAuthentication):
    """Django REST framework's hook; `request.auth` is the session."""

    def authenticate(self, request: Request) -> tuple[Principal, Session] | None:
        token = bearer_text(request)
        if not token:
            return None
        moment = now()
        session = session_of(token, moment)
        return principal_of(session, moment), session

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"
