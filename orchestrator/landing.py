"""`/ui/`: where a browser arrives after its sign-in (`FRONTEND_URL`) as long as no console is there. Says what is there."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse

from common.api import guarded

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>MazeVault</title><style>
:root { color-scheme: light dark } body { font: 16px/1.5 system-ui, sans-serif; padding: 10vh 1rem }
main { max-width: 36rem; margin: auto } a { color: LinkText }
</style></head><body><main>
<h1>MazeVault</h1>
<p>There is no web console in this release. If you came here from a sign-in, it was successful: this browser holds a session.</p>
<ul>
<li><a href="/api/v1/docs">The API, described and to be tried</a></li>
<li><a href="/api/v1/auth/me">Who you are</a></li>
<li><a href="/api/v1/auth/sso/entra/check">What Entra lets this application do in your name</a></li>
</ul>
<p>Whoever has a console elsewhere sets FRONTEND_URL to its address.</p>
</main></body></html>
"""


@guarded
def landing_page(request: HttpRequest) -> HttpResponse:
    response = HttpResponse(_PAGE, content_type="text/html; charset=utf-8")
    response["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
    response["Referrer-Policy"] = "no-referrer"
    return response
