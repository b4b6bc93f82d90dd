"""What strangers typed where a name belongs, in the form it is kept: people type passwords into the wrong field.

A plain hash would do for random text. A password is guessed from it in minutes, so the hash has a key, which no dump of the
database has: it comes from MAZEVAULT_SESSION_SECRET, which all processes and replicas of an installation share.
"""

from __future__ import annotations

from django.utils.crypto import salted_hmac

_PURPOSE = "mazevault.accounts.typed"


def kept(text: str) -> str:
    """The text as 64 hex digits (HMAC-SHA256); the same for the same text in this installation."""
    return salted_hmac(_PURPOSE, text.encode(errors="replace"), algorithm="sha256").hexdigest()
