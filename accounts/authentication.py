"""From the Authorization header, or the browser's cookie, to a principal. No token is ever read from a URL."""

from __future__ import annotations

from datetime import datetime

from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts import audiences, browser, rates, refusals, rights
from accounts.access import Principal
from accounts.models import ApiToken, Session, User
from accounts.rights import Rights
from accounts.sessions import hash_token
from accounts.tokens import PREFIX as TOKEN_PREFIX
from common.clock import now
from common.errors import AuthenticationExpired, AuthenticationInvalid, PermissionRefused, TooManyRequests

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


def rights_of(token: str, moment: datetime) -> Rights:
    """The living session or API token of this text. Raises `AuthenticationInvalid` or `AuthenticationExpired`."""
    return _rights_of_token(token, moment) if token.startswith(TOKEN_PREFIX) else rights_of_session(token, moment)


def rights_of_session(token: str, moment: datetime) -> Rights:
    """The living session behind a token, for the Primary's own API. Raises as `rights_of`."""
    found = rights.of_session(hash_token(token))
    if found is None or not found.lives:
        raise AuthenticationInvalid("this token is not valid; sign in again")
    if found.expires_at <= moment:
        raise AuthenticationExpired("this token has expired; sign in again")
    if found.gateway_environment:
        raise AuthenticationInvalid("this session was opened at a gateway and counts there only; sign in here")
    _refuse_elsewhere(found)
    return found


def _rights_of_token(text: str, moment: datetime) -> Rights:
    found = rights.of_token(hash_token(text))
    if found is None or not found.lives:
        raise AuthenticationInvalid("this token is not valid; ask its holder for a new one")
    if found.expires_at <= moment and found.unconfirmed:
        raise AuthenticationExpired(
            "the holder of this token has not signed in with Entra for too long; it counts again when they have"
        )
    if found.expires_at <= moment:
        raise AuthenticationExpired("this token has expired; ask its holder for a new one")
    _refuse_elsewhere(found)
    return found


def _refuse_elsewhere(found: Rights) -> None:
    """A credential that a gateway was shown is no key to the Primary, unless it was made for both."""
    if not audiences.at_primary(found.audience):
        raise AuthenticationInvalid(audiences.sentence(found.audience))


def principal_of_bearer(request: HttpRequest) -> Principal:
    """Who stands behind the header of a plain view, under the same conditions as everywhere. Raises what they raise."""
    moment = now()
    found = rights_of(bearer_text(request), moment)
    admit(found, request, moment)
    return found.principal(moment)


def principal_in(request: Request) -> Principal:
    """Who calls, on an authenticated request."""
    if not isinstance(request.user, Principal):
        raise AuthenticationInvalid("nobody is signed in")
    return request.user


def credential_in(request: Request) -> Session | ApiToken:
    """The session or API token of an authenticated request, read again: what ended meanwhile is refused."""
    if not isinstance(request.auth, Rights):
        raise AuthenticationInvalid("nobody is signed in")
    found: Session | ApiToken | None = getattr(request, "credential_row", None) or rights.row_of(request.auth)
    if found is None:
        raise AuthenticationInvalid("this token is not valid; sign in again")
    request.credential_row = found  # type: ignore[attr-defined]  # one statement for a request
    return found


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
    """Django REST framework's hook: the Authorization header, else the browser's cookie. `request.auth` is what was shown."""

    def authenticate(self, request: Request) -> tuple[Principal, Rights] | None:
        moment = now()
        token = bearer_text(request)
        found = rights_of(token, moment) if token else _rights_in_cookie(request, moment)
        if found is None:
            return None
        admit(found, request._request, moment)
        return found.principal(moment), found

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


def admit(found: Rights, request: HttpRequest, moment: datetime) -> None:
    """Count the call, and refuse one who must change their password first. The view that was resolved decides what is open to
    them: a path is what somebody wrote."""
    count(str(found.id), found.account, request, moment)
    if found.must_change_password and not _is_open_before_password_change(request):
        raise PermissionRefused("change your password first, with POST /api/v1/auth/password", code="PASSWORD_CHANGE_REQUIRED")
    rights.note_use(found, moment)


def _is_open_before_password_change(request: HttpRequest) -> bool:
    """What the resolved operation declares (`common.api.Operation`); nothing else counts."""
    view = getattr(getattr(request, "resolver_match", None), "func", None)
    return bool(getattr(getattr(view, "cls", None), "open_before_password_change", False))


def count(credential: str, actor: str, request: HttpRequest, moment: datetime) -> None:
    """Count the call of a credential, once in a request. Raises `TooManyRequests`, and notes that."""
    if hasattr(request, "response_headers"):
        return
    if (refused := getattr(request, "refused_call", None)) is not None:
        raise refused
    try:
        with refusals.noting_limits(actor, address=str(request.META.get("REMOTE_ADDR", "")), now=moment):
            limit = rates.count_call(credential, moment)
    except TooManyRequests as refused:
        request.refused_call = refused  # type: ignore[attr-defined]  # a short way gave up; the whole way says the same
        raise
    request.response_headers = {"X-RateLimit-Limit": str(limit)}  # type: ignore[attr-defined]


def _rights_in_cookie(request: Request, moment: datetime) -> Rights | None:
    """Those of the living session of the cookie, or None without a cookie. Raises `PermissionRefused` for a change without its
    proof."""
    token = browser.token_in(request)
    if not token:
        return None
    found = rights_of_session(token, moment)
    browser.refuse_without_proof(request, token)
    return found
