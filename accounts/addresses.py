"""E-mail addresses: which of them are the same. Pure, so that no locale of a database or of a machine has a say in it.

`folded` is stored beside each address, unique among living accounts and the only thing that is looked up. PostgreSQL's own
`lower` and `upper` depend on the locale of the database: in C.UTF-8 a dotless i becomes `I`, in C it stays, and the administrator
was found as somebody else.
"""

from __future__ import annotations

import unicodedata

from protocol.spelling import hidden

LONGEST = 254
"""Characters of an address (RFC 5321 §4.5.3.1.3 without the brackets)."""
LONGEST_FOLDED = 1024


def folded(address: str) -> str:
    """The form under which an address is known: compatibility letters as plain ones, no case, a domain in its ASCII form."""
    text = address.strip()
    for _ in range(2):  # folding may leave letters that compose anew (Unicode §3.13, toNFKC_Casefold)
        text = unicodedata.normalize("NFKC", text).casefold()
    name, at, domain = unicodedata.normalize("NFKC", text).rpartition("@")
    return f"{name}{at}{_ascii(domain)}"[:LONGEST_FOLDED]


def fault(address: str) -> str:
    """Why an address is not taken, as the rest of a sentence about it; empty for one that may be."""
    if len(address) > LONGEST or len(folded(address)) > LONGEST:
        return f"may have at most {LONGEST} characters"
    if found := hidden(address):
        return f"must not have {found}"
    for letter in address:
        if not letter.isascii() and (twin := _twin(letter)):
            return f"must not have U+{ord(letter):04X}, which counts as {twin!r} where case does not matter; write that"
    return ""


def _twin(letter: str) -> str:
    """The ASCII letters that a letter becomes in some folding; empty for none. With it an address looks like somebody else's."""
    plain = unicodedata.normalize("NFKC", letter)
    forms = (plain, plain.casefold(), letter.casefold(), letter.lower(), letter.upper(), letter.upper().lower())
    return next((found for form in forms if (found := "".join(one for one in form if one.isascii()))), "").lower()


def _ascii(domain: str) -> str:
    try:
        return domain.encode("idna").decode() if domain else ""
    except UnicodeError:
        return domain
