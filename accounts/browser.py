"""The browser's session: the opaque token in a cookie that scripts cannot read, and a second proof for every change (DESIGN §5).

The cookie alone changes nothing: an unsafe method also needs the header X-CSRF-Token with a text that is bound to the session and
that only a page of ours can learn, from the answer of the sign-in or from GET auth/session.
"""

from __future__ import annotations

import hashlib
import hmac

from django.conf import settings
from django.http import HttpResponseBase
from rest_framework.request import Request

from accounts.sessions import SignedIn, hash_token
from common.clock import now
from common.errors import PermissionRefused

COOKIE = "__Host-mazevault"
HEADER = "HTTP_X_CSRF_TOKEN"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def give(response: HttpResponseBase, opened: SignedIn) -> None:
    """Put the session into the browser."""
    response.set_cookie(
        COOKIE, opened.token, max_age=opened.seconds_left(now()), path="/", secure=True, httponly=True, samesite="Strict"
    )


def take(response: HttpResponseBase) -> None:
    """Take the session out of the browser."""
    response.delete_cookie(COOKIE, path="/", samesite="Strict")


def token_in(request: Request) -> str:
    """The session's token as the cookie brings it, or an empty text. It alone changes nothing."""
    return str(request.COOKIES.get(COOKIE, ""))


def refuse_without_proof(request: Request, token: str) -> None:
    """Raises `PermissionRefused` for an unsafe method that comes without the second proof of this token's session."""
    presented, expected = str(request.META.get(HEADER, "")), csrf_token(hash_token(token))
    if request.method not in SAFE_METHODS and not hmac.compare_digest(presented.encode(), expected.encode()):
        raise PermissionRefused("the header X-CSRF-Token is missing or wrong; GET auth/session says it", code="CSRF_INVALID")


def csrf_token(token_hash: str) -> str:
    """The proof of the session whose token has this hash. It tells nothing of the token."""
    return hmac.new(str(settings.SECRET_KEY).encode(), b"csrf|" + token_hash.encode(), hashlib.sha256).hexdigest()
