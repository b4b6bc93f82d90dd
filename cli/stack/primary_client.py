"""A few calls to the Primary's API, with the checks an outsider would make."""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from common.files import write_private
from protocol.tls_faults import TlsFault, fault_of

SESSION_FILE = "admin-session"
"""Beside the administrator's password and as private: the session of the last sign-in, since sign-ins are counted."""


RETRIES, LONGEST_PAUSE = 3, 5.0
"""A question that is answered with "wait a moment" is asked again, after the pause in seconds that the answer names."""


class PrimaryError(Exception):
    """The Primary did not answer (`status` is None), or answered no; the sentence is its own."""

    def __init__(self, sentence: str, status: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status


class PrimaryClient:
    """The API as the administrator, who signs in only when the session of the last time has ended."""

    def __init__(self, url: str, ca_file: Path, email: str, password_file: Path, timeout: float = 15.0) -> None:
        self.token = ""
        self._email, self._password_file = email, password_file
        context = ssl.create_default_context(cafile=str(ca_file))
        self._url = url
        self._http = httpx.Client(base_url=f"{url}/api/v1/", verify=context, timeout=timeout, trust_env=False)

    def __enter__(self) -> PrimaryClient:
        kept = self._password_file.with_name(SESSION_FILE)
        if kept.exists():
            self._use(kept.read_text())
        if not self.token or self.raw("GET", "auth/me").status_code == 401:
            self._http.headers.pop("Authorization", None)
            answer = self.post("auth/login", {"email": self._email, "password": self._password_file.read_text().strip()})
            self._use(str(answer["token"]))
            write_private(kept, self.token)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def _use(self, token: str) -> None:
        self.token = token
        self._http.headers["Authorization"] = f"Bearer {token}"

    def get(self, path: str) -> Any:
        return self._call("GET", path, None)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._call("POST", path, body)

    def put(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("PUT", path, body)

    def raw(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """The answer as it is, whatever its status. Raises `PrimaryError` only when there is none."""
        try:
            return self._http.request(method, path, json=body) if body is not None else self._http.request(method, path)
        except httpx.HTTPError as error:
            raise PrimaryError(f"the Primary at {self._url} does not answer: {_why(error)}") from error

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        answer = self.raw(method, path, body)
        for _ in range(RETRIES if method == "GET" else 0):
            if answer.status_code not in (429, 503):
                break
            time.sleep(min(_seconds(answer), LONGEST_PAUSE))
            answer = self.raw(method, path, body)
        if answer.status_code >= 400:
            try:
                sentence = answer.json()["error"]
            except (ValueError, KeyError, TypeError):
                sentence = answer.text[:200]
            raise PrimaryError(f"{method} {path}: {answer.status_code} {sentence}", answer.status_code)
        return answer.json() if answer.content else None


_TLS = {
    TlsFault.FOREIGN_ROOT: "its certificate leads to no authority in the CA file that is used here; take ca.crt of this Primary",
    TlsFault.OTHER_NAME: "its certificate is for another name; use an address it carries (MAZEVAULT_ADVERTISED_URLS)",
    TlsFault.EXPIRED: "its certificate has ended by the clock of this machine; set the clock, or see whether it is renewed",
    TlsFault.NOT_YET: "its certificate does not count yet by the clock of this machine; set the clock",
    TlsFault.NO_TLS: "what listens there speaks no TLS; check the port",
}
"""What a handshake ended with; of the rest the system's own words say more."""


def _why(error: httpx.HTTPError) -> str:
    """What happened, in words of the system's where it has some, and never the name of a class."""
    if isinstance(error, httpx.TimeoutException):
        return "it did not answer in time"
    if isinstance(error, httpx.ConnectError) and "refused" in str(error):
        return "nothing listens there"
    fault = fault_of(error)
    return (_TLS.get(fault) if fault else None) or str(error) or "the connection broke off"


def _seconds(answer: httpx.Response) -> float:
    told = answer.headers.get("Retry-After", "")
    return float(told) if told.isdecimal() else 1.0


def is_ready(url: str, ca_file: Path) -> bool:
    """Whether a node says that it can serve."""
    try:
        context = ssl.create_default_context(cafile=str(ca_file))
        return httpx.get(f"{url}/api/v1/health/ready", verify=context, timeout=2, trust_env=False).status_code == httpx.codes.OK
    except (OSError, httpx.HTTPError):
        return False
