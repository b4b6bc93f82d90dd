"""From the Authorization header to a person. Only the bearer scheme; no token is ever read from a URL."""

from __future__ import annotations

from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts.models import Session, User
from accounts.sessions import session_of
from common.clock import now
from common.errors import AuthenticationInvalid

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


def user_of_bearer(request: HttpRequest) -> User:
    """The person behind the header. Raises `AuthenticationInvalid` or `AuthenticationExpired`."""
    return session_of(bearer_text(request), now()).user


def person_of(request: Request) -> User:
    """The signed-in person of an authenticated request."""
    if not isinstance(request.user, User):
        raise AuthenticationInvalid("nobody is signed in")
    return request.user


def session_in(request: Request) -> Session:
    """The session behind the token of an authenticated request."""
    if not isinstance(request.auth, Session):
        raise AuthenticationInvalid("nobody is signed in")
    return request.auth


class BearerAuthentication(BaseAuthentication):
    """Django REST framework's hook; `request.auth` is the session."""

    def authenticate(self, request: Request) -> tuple[User, Session] | None:
        token = bearer_text(request)
        if not token:
            return None
        session = session_of(token, now())
        return session.user, session

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"
