"""What binds a sign-in to the browser it was begun in. The session itself is `accounts.browser`."""

from __future__ import annotations

import re
import secrets

from django.http import HttpRequest, HttpResponseBase
from rest_framework.request import Request

BROWSER = "__Host-mazevault-sign-in"
_VALUE = re.compile(r"[A-Za-z0-9_-]{43}")


def browser_of(request: HttpRequest | Request) -> str:
    """The value of this browser's cookie, or a new one. The same for all sign-ins it has under way."""
    value = str(request.COOKIES.get(BROWSER, ""))
    return value if _VALUE.fullmatch(value) else secrets.token_urlsafe(32)


def give_browser(response: HttpResponseBase, value: str, seconds: int) -> None:
    """Lax: the way back from Entra is a navigation from another site. It stays until its time is over: other tabs of the same
    browser may have a sign-in under way, and each of these counts once whatever the browser holds."""
    response.set_cookie(BROWSER, value, max_age=seconds, path="/", secure=True, httponly=True, samesite="Lax")
