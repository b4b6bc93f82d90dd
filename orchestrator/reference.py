"""`GET /api/v1/docs`: the API's reference as a page that can try calls. All its files come with us; nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import drf_spectacular_sidecar
from django.http import HttpRequest, HttpResponse

from common.api import guarded
from common.errors import MethodNotAllowed, NotFound

_FILES = Path(drf_spectacular_sidecar.__file__).parent / "static" / "drf_spectacular_sidecar" / "swagger-ui-dist"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>MazeVault API</title><link rel="stylesheet" href="/api/v1/docs/swagger-ui.css">
<link rel="stylesheet" href="/api/v1/docs/own.css"></head>
<body><div id="ui"></div>
<script src="/api/v1/docs/swagger-ui-bundle.js"></script><script src="/api/v1/docs/own.js"></script></body></html>
"""
_OWN_STYLE = "body{margin:0} html.dark-mode body{background:#1c2022}"
_OWN_SCRIPT = """
document.documentElement.classList.toggle("dark-mode", matchMedia("(prefers-color-scheme: dark)").matches);
SwaggerUIBundle({url: "/api/v1/openapi.json", dom_id: "#ui", deepLinking: true, validatorUrl: null, docExpansion: "none"});
"""
_ASSETS = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
_OWN = {"own.css": ("text/css", _OWN_STYLE), "own.js": ("text/javascript", _OWN_SCRIPT)}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@guarded
def reference_page(request: HttpRequest) -> HttpResponse:
    """Public, as the description it shows. A token typed there stays in the page's memory."""
    _only_get(request)
    response = HttpResponse(_PAGE, content_type="text/html; charset=utf-8")
    response["Content-Security-Policy"] = _POLICY
    response["Referrer-Policy"] = "no-referrer"
    return response


@guarded
def reference_asset(request: HttpRequest, name: str) -> HttpResponse:
    """One of the files of the page, by its listed name only."""
    _only_get(request)
    if name in _OWN:
        kind, text = _OWN[name]
        return HttpResponse(text, content_type=kind)
    if name not in _ASSETS:
        raise NotFound("there is nothing at this path")
    response = HttpResponse((_FILES / name).read_bytes(), content_type=_ASSETS[name])
    response["Cache-Control"] = "public, max-age=86400"
    return response


def _only_get(request: HttpRequest) -> None:
    if request.method not in ("GET", "HEAD"):
        raise MethodNotAllowed("this path takes GET only")
