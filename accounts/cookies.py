"""A browser's session: the same opaque token as for everybody, in a cookie no script can read (DESIGN §5).

Unsafe methods also need the header X-CSRF-Token. Its value is derived from the session and readable in a second cookie, so only
a page of our own origin can send it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import datetime

from django.http import HttpRequest, HttpResponse
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts.access import Principal
from accounts.models import Session
from accounts.principals import principal_of
from accounts.sessions import SignedIn, session_of
from common.clock import now
from common.errors import PermissionRefused

SESSION, CSRF, BROWSER = "__Host-mazevault", "__Host-mazevault-csrf", "__Host-mazevault-sign-in"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_BROWSER_VALUE = re.compile(r"[A-Za-z0-9_-]{43}")


def give_session(response: HttpResponse, opened: SignedIn, moment: datetime) -> None:
    """Both cookies of a session. Lax: the way back from Entra is a navigation from another site."""
    seconds = int((opened.session.expires_at - moment).total_seconds())
    _set(response, SESSION, opened.token, seconds)
    _set(response, CSRF, csrf_value(opened.token), seconds, readable=True)


def browser_of(request: HttpRequest | Request) -> str:
    """What binds sign-ins to this browser: the value of its cookie, or a new one."""
    value = str(request.COOKIES.get(BROWSER, ""))
    return value if _BROWSER_VALUE.fullmatch(value) else secrets.token_urlsafe(32)


def give_browser(response: HttpResponse, value: str, seconds: int) -> None:
    _set(response, BROWSER, value, seconds)


def forget_browser(response: HttpResponse) -> None:
    _set(response, BROWSER, "", 0)


def csrf_value(token: str) -> str:
    return hmac.digest(token.encode(), b"csrf", hashlib.sha256).hex()


class CookieAuthentication(BaseAuthentication):
    """Django REST framework's hook. A request with an Authorization header is not a browser's and is not looked at."""

    def authenticate(self, request: Request) -> tuple[Principal, Session] | None:
        token = str(request.COOKIES.get(SESSION, ""))
        if not token or request.META.get("HTTP_AUTHORIZATION"):
            return None
        moment = now()
        session = session_of(token, moment)
        shown = str(request.META.get("HTTP_X_CSRF_TOKEN", ""))
        if request.method not in SAFE_METHODS and not hmac.compare_digest(shown.encode(), csrf_value(token).encode()):
            raise PermissionRefused("send the value of the cookie __Host-mazevault-csrf as header X-CSRF-Token", code="CSRF")
        return principal_of(session, moment), session

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


def _set(response: HttpResponse, name: str, value: str, seconds: int, *, readable: bool = False) -> None:
    response.set_cookie(name, value, max_age=seconds, path="/", secure=True, httponly=not readable, samesite="Lax")
