"""What went wrong in a TLS handshake, from the error it ended with: each cause has another owner and another fix.

OpenSSL names the cause of a refused certificate by a number (X509_V_ERR_* of x509_vfy.h, `verify_code` in Python) and everything
else by a reason (`ssl.SSLError.reason`). Libraries wrap these errors several times.
"""

from __future__ import annotations

import re
import ssl
from enum import StrEnum


class TlsFault(StrEnum):
    EXPIRED = "expired"
    """The certificate has ended, or the clock here is ahead."""
    NOT_YET = "not_yet"
    """It does not count yet, or the clock here is behind."""
    OTHER_NAME = "other_name"
    """It is for another host or address than the one that was asked for."""
    FOREIGN_ROOT = "foreign_root"
    """It leads to no authority that is trusted here."""
    BAD_CERTIFICATE = "bad_certificate"
    """It is refused for something else: its purpose, its signature, its chain."""
    OUR_CERTIFICATE = "our_certificate"
    """The other side refuses the certificate shown here, or misses one."""
    NO_TLS = "no_tls"
    """What answers speaks no TLS on this port."""
    PROTOCOL = "protocol"
    """Both sides speak TLS and agree on no version or cipher, or the handshake was broken off."""


_OF_NUMBER = {9: TlsFault.NOT_YET, 10: TlsFault.EXPIRED, 62: TlsFault.OTHER_NAME, 64: TlsFault.OTHER_NAME} | dict.fromkeys(
    (2, 18, 19, 20, 21, 27), TlsFault.FOREIGN_ROOT
)
_OF_REASON = (
    (
        re.compile(
            r"ALERT_(?:BAD|UNSUPPORTED|UNKNOWN)_?(?:CERTIFICATE|CA)|CERTIFICATE_(?:REVOKED|EXPIRED|UNKNOWN|REQUIRED)"
            r"|ALERT_UNKNOWN_CA|ALERT_ACCESS_DENIED"
        ),
        TlsFault.OUR_CERTIFICATE,
    ),
    (
        re.compile(r"WRONG_VERSION_NUMBER|HTTP_REQUEST|HTTPS_PROXY_REQUEST|PACKET_LENGTH_TOO_LONG|RECORD_LAYER_FAILURE"),
        TlsFault.NO_TLS,
    ),
)
_IN_WORDS = (
    (re.compile(r"certificate has expired"), TlsFault.EXPIRED),
    (re.compile(r"certificate is not yet valid"), TlsFault.NOT_YET),
    (re.compile(r"Hostname mismatch|IP address mismatch|doesn't match|is not valid for"), TlsFault.OTHER_NAME),
    (re.compile(r"issuer certificate|self[- ]signed"), TlsFault.FOREIGN_ROOT),
    (re.compile(r"CERTIFICATE_VERIFY_FAILED"), TlsFault.BAD_CERTIFICATE),
)
"""Where only the words of an error were kept (OpenSSL's own, `X509_verify_cert_error_string`)."""
_DEEPEST = 12


def fault_of(error: BaseException | None) -> TlsFault | None:
    """The fault that an error, or what it came of, tells of; None where that is nothing of TLS."""
    found: TlsFault | None = None
    seen = 0
    while error is not None and seen < _DEEPEST:
        here = _of_one(error)
        if here is not None and here is not TlsFault.PROTOCOL:
            return here
        found = found or here
        error, seen = _inner(error), seen + 1
    return found


def _of_one(error: BaseException) -> TlsFault | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        number = getattr(error, "verify_code", 0)
        return _OF_NUMBER.get(number) or _found(_IN_WORDS, str(error)) or TlsFault.BAD_CERTIFICATE
    if isinstance(error, ssl.SSLError):
        reason = f"{error.reason or ''} {error}"
        return _found(_IN_WORDS, reason) or _found(_OF_REASON, reason) or TlsFault.PROTOCOL
    words = str(error)
    if "[SSL" not in words and "SSL:" not in words and "certificate verify" not in words.lower():
        return None
    return _found(_IN_WORDS, words) or _found(_OF_REASON, words) or TlsFault.PROTOCOL


def _inner(error: BaseException) -> BaseException | None:
    inner = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__
    if inner is None:
        inner = next((one for one in (*error.args, getattr(error, "reason", None)) if isinstance(one, BaseException)), None)
    return inner


def _found(patterns: tuple[tuple[re.Pattern[str], TlsFault], ...], text: str) -> TlsFault | None:
    return next((fault for pattern, fault in patterns if pattern.search(text)), None)
