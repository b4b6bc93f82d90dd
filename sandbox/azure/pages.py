"""The two HTML pages. No script, no picture, readable in light and dark."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from sandbox.azure.directory import User

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --accent: #0a5ad4; }
@media (prefers-color-scheme: dark) { :root { --accent: #7fb2ff; } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; display: grid; place-items: start center; padding: 8vh 1rem; }
main { width: min(30rem, 100%); }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; }
p { margin: .25rem 0 1.25rem; }
form { display: grid; gap: .6rem; }
button { font: inherit; text-align: left; padding: .7rem .9rem; border: 1px solid var(--line); border-radius: .5rem;
  background: Canvas; color: CanvasText; cursor: pointer; }
button:hover, button:focus-visible { border-color: var(--accent); outline: 2px solid var(--accent); outline-offset: 1px; }
button strong, button span { display: block; }
button span { opacity: .75; font-size: .9rem; }
button.cancel { text-align: center; border-style: dashed; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--line); border-radius: .5rem; padding: .9rem; }
"""


def pick(application: str, users: Iterable[User], hint: str) -> str:
    """Everybody of the cast as a button; the one of the hint comes first."""
    ordered = sorted(users, key=lambda user: user.upn != hint)
    body = f"""<h1>Pick an account</h1>
<p>to continue to {escape(application)}. This is a local stand-in for Entra ID: nobody is asked for a password.</p>
<form method="post">
{"".join(_button(user) for user in ordered)}
<button class="cancel" name="user" value="">Cancel</button>
</form>"""
    return _page("Sign in to your account", body)


def error(description: str) -> str:
    body = f"""<h1>Sign in</h1>
<p>Sorry, but we are having trouble signing you in.</p>
<pre>{escape(description)}</pre>
<p>This is a local stand-in for Entra ID.</p>"""
    return _page("Sign in to your account", body)


def _button(user: User) -> str:
    return (
        f'<button name="user" value="{escape(user.upn)}"><strong>{escape(user.name)}</strong>'
        f"<span>{escape(user.upn)}</span><span>{escape(user.about)}</span></button>\n"
    )


def _page(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{_STYLE}</style></head>
<body><main>
{body}
</main></body>
</html>
"""
