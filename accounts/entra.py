"""The one adapter around msal and Graph. Speaks our nouns; no error of theirs leaves it, and no token is written to a log."""

from __future__ import annotations

import json
import ssl
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msal
import requests
from jwt import PyJWK
from requests.adapters import HTTPAdapter

from accounts import diagnoses
from accounts.diagnoses import Diagnosis
from accounts.entra_settings import EntraSettings
from accounts.id_token import Expected, TokenFault, TokenRefused, key_id_of, read_id_token, refuse_of_another, usable_keys
from common import outside
from common.errors import MazeVaultError

CONNECT_SECONDS, READ_SECONDS = 3.05, 10.0
KEYS_LIVE = timedelta(hours=1)
"""A key that Entra withdraws is believed no longer than this."""
KEYS_REST = timedelta(seconds=1)
"""A token with an unknown key makes us look again, but not more often."""
WAIT_SECONDS = 1.0
"""So long a sign-in waits for another one that is asking Entra who it is; then its person is told to try again."""
FAILURE_RESTS_SECONDS = 10.0
"""After Entra could not be reached nobody tries again for so long, so that an outage does not hold all threads of the node."""
RESERVED = frozenset({"openid", "profile", "offline_access"})
"""msal adds these itself and refuses to be given them."""
GRAPH_SCOPES = ["GroupMember.Read.All"]
HINT = 3
"""First characters of a secret that Graph shows, so that people can tell secrets apart."""
MOST_PAGES = 60
V1_ISSUER = "https://sts.windows.net"

warnings.filterwarnings("ignore", message="response_mode=", category=UserWarning)  # the callback is a GET (client-api B.3)


class EntraError(MazeVaultError):
    """Entra refused, or cannot be reached. Says one cause, one fix, one owner."""

    def __init__(self, diagnosis: Diagnosis, number: int | None = None) -> None:
        self.diagnosis, self.number = diagnosis, number
        said = f" (AADSTS{number})" if number else ""
        super().__init__(
            f"sign-in with Entra: {diagnosis.cause}{said}",
            code=diagnosis.code,
            status=diagnosis.status,
            details=f"Fix: {diagnosis.fix}. Owner: {diagnosis.owner.value}.",
            retry_after=60 if diagnosis.passing else None,
        )


@dataclass(frozen=True)
class Begun:
    """A sign-in that is to be continued in the browser at `url`. `flow` is what must come back with it, for our eyes only."""

    url: str
    state: str
    flow: str = field(repr=False)


@dataclass(frozen=True)
class Tokens:
    """What a finished sign-in gave. `access` is for this application only: the assertion of on-behalf-of.

    `id_token` and `nonce` prove the sign-in to another node of the same app registration.
    """

    claims: Mapping[str, Any] = field(repr=False)
    access: str = field(repr=False)
    refresh: str = field(repr=False)
    lives: timedelta
    id_token: str = field(default="", repr=False)
    nonce: str = field(default="", repr=False)


@dataclass(frozen=True)
class ResourceToken:
    """A token for one API on behalf of one user."""

    value: str = field(repr=False)
    lives: timedelta


class Entra:
    """One app registration in one tenant. Threads may share it; it remembers keys and endpoints, never a user's token."""

    def __init__(self, settings: EntraSettings) -> None:
        self.settings = settings
        self._http = _session(settings)
        self._lock = threading.Lock()
        self._application: msal.ConfidentialClientApplication | None = None
        self._configuration: Mapping[str, Any] | None = None
        self._keys: dict[str, PyJWK] = {}
        self._keys_at: datetime | None = None
        self._failed: tuple[Diagnosis, int | None] | None = None
        self._failed_at = 0.0

    def begin(self) -> Begun:
        """Where to send the browser. State, nonce and PKCE verifier are in `flow`."""
        with _translated():
            flow = self._app().initiate_auth_code_flow(
                self._scopes(), redirect_uri=self.settings.redirect_uri, response_mode="query", prompt="select_account"
            )
        return Begun(flow["auth_uri"], flow["state"], json.dumps(flow))

    def finish(self, flow: str, values: Mapping[str, str], now: datetime) -> Tokens:
        """Redeem the code that came back. Raises `EntraError`, or `TokenRefused` when the id_token is not believed."""
        begun: dict[str, Any] = json.loads(flow)
        try:
            with _translated():
                result = self._app().acquire_token_by_auth_code_flow(begun, dict(values))
        except _NonceMismatch as mismatch:
            raise TokenRefused(TokenFault.NONCE, "the token was made for another sign-in") from mismatch
        tokens = _accepted(result)
        nonce = parse_qs(urlsplit(begun["auth_uri"]).query).get("nonce", [""])[0]
        id_token = str(tokens.get("id_token") or "")
        return Tokens(
            claims=self.verified(id_token, nonce, now),
            access=str(tokens.get("access_token") or ""),
            refresh=str(tokens.get("refresh_token") or ""),
            lives=_life(tokens),
            id_token=id_token,
            nonce=nonce,
        )

    def verified(self, token: str, nonce: str, now: datetime) -> Mapping[str, Any]:
        """The claims of an id_token that Entra gave for the sign-in with this nonce. Raises `TokenRefused`."""
        issuers = frozenset({str(self.configuration()["issuer"]), f"{V1_ISSUER}/{self.settings.tenant_id}/"})
        expected = Expected(self.settings.client_id, self.settings.tenant_id, issuers, nonce)
        return read_id_token(token, self.keys(now, wanted=key_id_of(token)), expected, now)

    def refuse_of_another(self, access_token: str, claims: Mapping[str, Any], now: datetime) -> None:
        """Raises `TokenRefused` unless the access token is of the person these claims speak of."""
        refuse_of_another(access_token, self.keys(now, wanted=key_id_of(access_token)), claims)

    def on_behalf_of(self, assertion: str, scope: str) -> ResourceToken:
        """Exchange a user's token for this application into one for another API, in the same user's name."""
        with _translated():
            tokens = _accepted(self._app().acquire_token_on_behalf_of(assertion, [scope]))
        return ResourceToken(str(tokens["access_token"]), _life(tokens))

    def renewed(self, refresh_token: str) -> Tokens:
        """A new assertion out of a refresh token. The claims of the first sign-in stay what they were."""
        with _translated():
            tokens = _accepted(self._app().acquire_token_by_refresh_token(refresh_token, self._scopes()))
        refresh = str(tokens.get("refresh_token") or refresh_token)
        return Tokens({}, str(tokens["access_token"]), refresh, _life(tokens))

    def groups_of(self, assertion: str) -> tuple[str, ...]:
        """Ids of all groups of the user, nested ones too, from Graph: what the token would hold if it were long enough."""
        token = self.on_behalf_of(assertion, GRAPH_SCOPES[0]).value
        url = f"{self.settings.graph_endpoint}/v1.0/me/transitiveMemberOf?$select=id&$top=999"
        found: list[str] = []
        for _ in range(MOST_PAGES):
            page = self._graph_page(url, token)
            rows = [row for row in page.get("value", []) if isinstance(row, dict)]
            found += [str(row["id"]) for row in rows if row.get("@odata.type") == "#microsoft.graph.group" and "id" in row]
            url = str(page.get("@odata.nextLink") or "")
            if not url:
                return tuple(found)
            if urlsplit(url)[:2] != urlsplit(self.settings.graph_endpoint)[:2]:
                raise EntraError(diagnoses.UNREADABLE)  # the token goes nowhere else
        raise EntraError(diagnoses.UNREADABLE)

    def application_token(self, resource: str) -> ResourceToken:
        """A token of the application itself; only the doctor asks for one, to see whether the secret is taken."""
        with _translated():
            tokens = _accepted(self._app().acquire_token_for_client([f"{resource}/.default"]))
        return ResourceToken(str(tokens["access_token"]), _life(tokens))

    def secret_ends(self, now: datetime) -> datetime | None:
        """When this application's secret ends, as Graph says; None when it has none that begins like ours.

        Raises `EntraError`; GRAPH_REFUSED where the application may not look at itself (Application.Read.All).
        """
        token = self.application_token(self.settings.graph_resource).value
        path = f"/v1.0/applications(appId='{self.settings.client_id}')?$select=passwordCredentials"
        found = self._graph_page(f"{self.settings.graph_endpoint}{path}", token).get("passwordCredentials")
        ends = [_moment(row.get("endDateTime")) for row in found or () if isinstance(row, dict)
                and row.get("hint") == self.settings.client_secret[:HINT]]  # fmt: skip
        later = sorted(end for end in ends if end is not None)
        return next((end for end in later if end > now), later[-1] if later else None)

    def configuration(self) -> Mapping[str, Any]:
        """The tenant's OpenID configuration, remembered once it was read."""
        if self._configuration is None:
            with self._alone():
                self._configuration = self._configuration or self._discovered()
        return self._configuration

    def keys(self, now: datetime, *, wanted: str = "") -> Mapping[str, PyJWK]:
        """The tenant's signing keys; asked for again when old, or when the wanted one is not among them."""
        if not self._keys_do(now, wanted):
            source = str(self.configuration().get("jwks_uri", ""))
            with self._alone():
                if not self._keys_do(now, wanted):
                    self._keys, self._keys_at = usable_keys(self._get_json(source)), now
        return self._keys

    def answer_to(self, url: str) -> requests.Response:
        """One plain GET with this adapter's trust and time limits, redirects not followed (doctor)."""
        with _translated():
            return self._http.get(url, allow_redirects=False)

    def _scopes(self) -> list[str]:
        return [scope for scope in self.settings.scopes if scope not in RESERVED]

    def _app(self) -> msal.ConfidentialClientApplication:
        if self._application is None:
            with self._alone():
                self._application = self._application or self._made()
        return self._application

    def _made(self) -> msal.ConfidentialClientApplication:
        """msal's object; making it asks Entra for its endpoints."""
        return msal.ConfidentialClientApplication(
            self.settings.client_id,
            client_credential=self.settings.client_secret,
            authority=self.settings.authority,
            instance_discovery=self.settings.instance_discovery,
            http_client=self._http,
            token_cache=_NothingKept(),
            http_cache=_NoAnswersKept(),
        )

    def _discovered(self) -> Mapping[str, Any]:
        found = self._get_json(f"{self.settings.authority}/v2.0/.well-known/openid-configuration")
        if self.settings.tenant_id.lower() not in str(found.get("issuer", "")).lower():
            raise EntraError(diagnoses.BY_NUMBER[90002])
        return found

    def _keys_do(self, now: datetime, wanted: str) -> bool:
        """Whether the keys we have are young enough, and hold the wanted one or were asked for just now."""
        age = now - self._keys_at if self._keys_at else KEYS_LIVE
        return age < KEYS_LIVE and (not wanted or wanted in self._keys or age < KEYS_REST)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One thread asks Entra about itself. The others wait a moment only; after a passing failure nobody asks for a while."""
        self._refuse_resting()
        if not self._lock.acquire(timeout=WAIT_SECONDS):
            raise EntraError(diagnoses.UNREACHABLE)
        try:
            self._refuse_resting()
            with self._noting_failure(), _translated():
                yield
        finally:
            self._lock.release()

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except EntraError as error:
            if error.diagnosis.passing:
                self._failed, self._failed_at = (error.diagnosis, error.number), time.monotonic()
            raise

    def _refuse_resting(self) -> None:
        if self._failed and time.monotonic() - self._failed_at < FAILURE_RESTS_SECONDS:
            raise EntraError(*self._failed)

    def _graph_page(self, url: str, token: str) -> Mapping[str, Any]:
        with _translated():
            answer = self._http.get(url, headers={"Authorization": f"Bearer {token}"}, allow_redirects=False)
        if answer.status_code in (401, 403):
            raise EntraError(diagnoses.GRAPH_REFUSED)
        return _json_of(answer)

    def _get_json(self, url: str) -> Mapping[str, Any]:
        if not url.startswith("https://"):
            raise EntraError(diagnoses.UNREADABLE)
        with _translated():
            answer = self._http.get(url, allow_redirects=False)
        return _json_of(answer)


class _NonceMismatch(Exception):
    pass


class _NothingKept(msal.TokenCache):
    """A token cache without memory: users' tokens rest sealed in the database (accounts.obo), never in a process."""

    def add(self, event: Mapping[str, Any], now: float | None = None) -> None:
        return None


class _NoAnswersKept(dict[str, Any]):
    """msal remembers answers under keys that do not tell users apart on-behalf-of, so one user's trouble would be everybody's."""

    def __setitem__(self, key: str, value: Any) -> None:
        return None


class _Limited(HTTPAdapter):
    """No request without a time limit."""

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = (CONNECT_SECONDS, READ_SECONDS)
        outside.begins("Entra")
        return super().send(*args, **kwargs)


class _Trusting(requests.Session):
    """Keeps its own CA: requests lets REQUESTS_CA_BUNDLE, common on corporate hosts, silently beat it. Proxies stay."""

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        merged = super().merge_environment_settings(url, proxies, stream, verify, cert)
        if self.verify is not True:
            merged["verify"] = self.verify
        return merged


def _session(settings: EntraSettings) -> requests.Session:
    session = _Trusting()
    session.verify = str(settings.ca_bundle) if settings.ca_bundle else True
    session.mount("https://", _Limited())
    session.mount("http://", _Limited())
    return session


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of msal, requests and TLS in; `EntraError` out. What they say may hold tokens, so it goes no further."""
    try:
        yield
    except requests.exceptions.SSLError as error:
        raise EntraError(diagnoses.tls_of(error)) from _without_words(error)
    except requests.exceptions.RequestException as error:
        raise EntraError(diagnoses.UNREACHABLE) from _without_words(error)
    except msal.exceptions.MsalError as error:
        raise EntraError(diagnoses.BROKEN) from _without_words(error)
    except OSError as error:  # a CA file that is not there, a certificate that cannot be read
        is_trust = isinstance(error, ssl.SSLError | FileNotFoundError)
        raise EntraError(diagnoses.tls_of(error) if is_trust else diagnoses.UNREACHABLE) from None
    except RuntimeError as error:
        if "nonce" in str(error):
            raise _NonceMismatch from None
        raise EntraError(diagnoses.UNREADABLE) from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):  # an answer that is no answer of Entra's
        raise EntraError(diagnoses.UNREADABLE) from None


def _without_words(error: Exception) -> Exception:
    return Exception(type(error).__name__)


def _accepted(result: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if not result or "access_token" not in result:
        raise EntraError(*diagnoses.diagnose(result or {}))
    return result


def _json_of(answer: requests.Response) -> Mapping[str, Any]:
    if answer.status_code == 429:
        raise EntraError(diagnoses.THROTTLED)
    if answer.status_code >= 500:
        raise EntraError(diagnoses.BROKEN)
    try:
        body = answer.json()
    except ValueError:
        raise EntraError(diagnoses.UNREADABLE) from None
    if not isinstance(body, dict):
        raise EntraError(diagnoses.UNREADABLE)
    if answer.status_code >= 400:
        raise EntraError(*diagnoses.diagnose(body))
    return body


def _moment(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


def _life(tokens: Mapping[str, Any]) -> timedelta:
    seconds = tokens.get("expires_in", 0)
    return timedelta(seconds=int(seconds) if isinstance(seconds, int | str) and str(seconds).isdecimal() else 0)
