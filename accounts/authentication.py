"""From the Authorization header, or the browser's cookie, to a principal. No token is ever read from a URL."""

from __future__ import annotations

from datetime import datetime

from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts import browser, rates, refusals
from accounts.access import Principal
from accounts.models import ApiToken, Session, User
from accounts.principals import principal_of
from accounts.sessions import note_use, session_of
from accounts.tokens import PREFIX as TOKEN_PREFIX
from accounts.tokens import token_of
from common.clock import now
from common.errors import AuthenticationInvalid, PermissionRefused

LONGEST_HEADER = 4096
OWN_ACCOUNT = "/api/v1/auth/"


def bearer_text(request: HttpRequest | Request) -> str:
    """The token of the Authorization header, or an empty text when there is no header. Raises for any other form."""
    header = request.META.get("HTTP_AUTHORIZATION", "")
    if not header:
        return ""
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip() or len(header) > LONGEST_HEADER:
        raise AuthenticationInvalid("the Authorization header must be: Bearer <token>")
    return str(token.strip())


def credential_of(token: str, moment: datetime) -> Session | ApiToken:
    """The living session or API token of this text. Raises `AuthenticationInvalid` or `AuthenticationExpired`."""
    return token_of(token, moment) if token.startswith(TOKEN_PREFIX) else session_of(token, moment)


def principal_of_bearer(request: HttpRequest) -> Principal:
    """Who stands behind the header of a plain view, under the same conditions as everywhere. Raises what they raise."""
    moment = now()
    credential = credential_of(bearer_text(request), moment)
    _admit(credential, request, moment)
    return principal_of(credential, moment)


def principal_in(request: Request) -> Principal:
    """Who calls, on an authenticated request."""
    if not isinstance(request.user, Principal):
        raise AuthenticationInvalid("nobody is signed in")
    return request.user


def credential_in(request: Request) -> Session | ApiToken:
    """The session or API token of an authenticated request."""
    if not isinstance(request.auth, Session | ApiToken):
        raise AuthenticationInvalid("nobody is signed in")
    return request.auth


def person_of(request: Request) -> User:
    """The signed-in person of an authenticated request. Raises for a service identity, which is nobody."""
    user = credential_in(request).user
    if user is None:
        raise PermissionRefused("this is for people; the token belongs to a service identity")
    return user


def session_in(request: Request) -> Session:
    """The session of an authenticated request. Raises for an API token, which has none."""
    credential = credential_in(request)
    if not isinstance(credential, Session):
        raise PermissionRefused("this needs the session of a sign-in; the token is an API token")
    return credential


class BearerAuthentication(BaseAuthentication):
    """Django REST framework's hook: the Authorization header, else the browser's cookie. `request.auth` is the credential."""

    def authenticate(self, request: Request) -> tuple[Principal, Session | ApiToken] | None:
        moment = now()
        token = bearer_text(request)
        credential = credential_of(token, moment) if token else browser.session_in_cookie(request, moment)
        if credential is None:
            return None
        _admit(credential, request._request, moment)
        return principal_of(credential, moment), credential

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


def _admit(credential: Session | ApiToken, request: HttpRequest, moment: datetime) -> None:
    """Count the call, and refuse one who must change their password first."""
    holder = f"user:{credential.user_id}" if credential.user_id else f"service:{credential.service_id}"
    with refusals.noting_limits(holder, address=str(request.META.get("REMOTE_ADDR", "")), now=moment):
        limit = rates.count_call(str(credential.id), moment)
    request.response_headers = {"X-RateLimit-Limit": str(limit)}  # type: ignore[attr-defined]
    _refuse_until_password_changed(credential, request)
    note_use(credential, moment)


def _refuse_until_password_changed(credential: Session | ApiToken, request: HttpRequest) -> None:
    must = credential.user is not None and credential.user.must_change_password
    if must and not request.path.startswith(OWN_ACCOUNT):
        raise PermissionRefused("change your password first, with POST /api/v1/auth/password", code="PASSWORD_CHANGE_REQUIRED")
