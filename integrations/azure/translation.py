"""From the vendor's errors to ours. One call, one deadline, one attempt; what Azure said in words goes no further."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import requests
from azure.core.exceptions import AzureError, HttpResponseError, ServiceRequestError

from common.waiting import seconds_named
from integrations.azure import denials, refusals
from integrations.azure.credentials import TokenRefused
from integrations.azure.egress import Deadline, Session
from integrations.azure.errors import (
    AzureTrouble,
    ObjectMissing,
    OutcomeUnknown,
    ServiceTrouble,
    Throttled,
    TlsRefused,
    Unreachable,
    ValueRefused,
    tls_told,
)
from protocol.tls_faults import TlsFault, fault_of

LIMITS = (
    "see Azure's limits: names of 1 to 127 letters, digits and hyphens, values up to 25 kB, at most 15 tags of 256 characters"
)
RETRY_SECONDS = 5.0
"""What callers are told for a throttling answer that names no time."""
MAYBE_DONE = (408, 500, 502, 504)


@contextmanager
def one_call(session: Session, seconds: float, what: str, *, effect: bool = False) -> Iterator[Deadline]:
    """Run one call of a vendor's client. Raises `AzureTrouble` and nothing of the vendor's.

    `what` names the object for people. An `effect` that was sent and not answered raises `OutcomeUnknown`.
    """
    with session.within(seconds) as deadline:
        try:
            yield deadline
        except TokenRefused as refused:
            raise refused.trouble from None
        except HttpResponseError as error:
            raise of_response(error, what, effect=effect) from None
        except AzureTrouble as trouble:
            if effect and deadline.sent:
                raise _unknown(what) from trouble
            raise
        except (AzureError, requests.RequestException, OSError) as error:
            raise _of_silence(error, deadline, session, what, effect=effect) from None
        except (ValueError, KeyError, TypeError, AttributeError):  # an answer that is no answer of Azure's
            if effect and deadline.sent:
                raise _unknown(what) from None
            raise _unreadable() from None


def of_response(error: HttpResponseError, what: str, *, effect: bool = False) -> AzureTrouble:
    """The meaning of an answer with an error status."""
    status, inner, message = error.status_code or 0, _inner_code(error), str(error.message or "")
    if status == 403:
        denied = refusals.of_403(inner, message, what)
        denials.count(denied.code)
        return denied
    if status == 401:
        return refusals.of_401(message)
    if status == 404:
        return ObjectMissing(f"{what} is not in the vault", "check its name; it may have been deleted")
    if status == 409:
        return refusals.of_409(inner, message, what)
    if status == 429:
        return _throttled(error)
    if effect and status in MAYBE_DONE:
        return _unknown(what)
    if 400 <= status < 500:
        return ValueRefused(f"the vault does not take {what} as it is", LIMITS)
    named = _retry_after(error)
    trouble = ServiceTrouble(f"Azure answers with status {status}", "try again in a minute", retry_after=named or RETRY_SECONDS)
    trouble.pause_named = named
    return trouble


def _throttled(error: HttpResponseError) -> Throttled:
    named = _retry_after(error)
    trouble = Throttled(
        "the vault is called too often", "wait; if it stays, spread the schedules",
        retry_after=RETRY_SECONDS if named is None else named,
    )  # fmt: skip
    trouble.pause_named = named
    return trouble


def _of_silence(error: Exception, deadline: Deadline, session: Session, what: str, *, effect: bool) -> AzureTrouble:
    """No answer came. Whether something was sent decides what that means."""
    if effect and deadline.sent:
        return _unknown(what)
    fault = fault_of(error)
    if fault is not None:
        return tls_refused(session.target.host, fault)
    if deadline.expired:
        return Unreachable(f"{session.target.host} did not answer in time", "try again; if it stays, check the path to the vault")
    if isinstance(error, ServiceRequestError | requests.RequestException):
        return Unreachable(f"no connection to {session.target.host}", "open outbound TCP 443 from this node to the vault")
    return Unreachable(f"{session.target.host} broke the connection off", "try again; if it stays, check what is in between")


def tls_refused(host: str, fault: TlsFault | None) -> TlsRefused:
    return TlsRefused(*tls_told(host, fault))


def _inner_code(error: HttpResponseError) -> str:
    inner = getattr(getattr(error, "error", None), "innererror", None)
    return str(inner.get("code", "")) if isinstance(inner, dict) else ""


def _retry_after(error: HttpResponseError) -> float | None:
    """Seconds until the vault wants to be asked again, where it says so (docs: Key Vault throttling guidance)."""
    return seconds_named(getattr(error.response, "headers", None) or {}, datetime.now(UTC))


def _unknown(what: str) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"a change of {what} was sent and not answered: it may have happened", "read it before doing anything again"
    )


def _unreadable() -> ServiceTrouble:
    return ServiceTrouble("what answers does not speak like Azure", "find out what answers in place of Azure")
