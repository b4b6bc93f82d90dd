"""Tokens for one integration, by exactly the identity it names. There is no chain: what is refused stays refused.

A credential speaks the Azure clients' own protocol and raises their `ClientAuthenticationError`, with our error inside.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msal
import requests
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from requests.adapters import HTTPAdapter

from common import outside
from common.waiting import seconds_named
from integrations.azure.cloud import AuthMethod, Cloud, Connection
from integrations.azure.entra_answers import diagnose
from integrations.azure.errors import Owner, TokenTrouble, tls_told
from protocol.tls_faults import TlsFault, fault_of

CONNECT_SECONDS, READ_SECONDS = 3.05, 8.0
RENEW_BEFORE_SECONDS = 300
"""A user's token is exchanged anew when it has less left than this."""
Answer = Mapping[str, Any] | None


class TokenRefused(ClientAuthenticationError):
    """What the Azure clients expect of a credential; `trouble` is what the rest of us want to know."""

    def __init__(self, trouble: TokenTrouble) -> None:
        super().__init__(message=trouble.cause)
        self.trouble = trouble


class Credential(ABC):
    """The Azure clients' TokenCredential for one identity."""

    def __init__(self, cloud: Cloud, tenant_id: str) -> None:
        self._tenant_id = tenant_id.lower()
        self._resources = {*cloud.vault_resources, cloud.arm_resource}

    def get_token(
        self, *scopes: str, claims: str | None = None, tenant_id: str | None = None, enable_cae: bool = False, **_: Any
    ) -> AccessToken:
        """A token for one scope. The vault's challenge may ask for the configured tenant and a vault's resource, nothing else."""
        self._refuse_foreign(scopes, tenant_id)
        with _translated():
            return _accepted(self._acquire(scopes[0], claims))

    @abstractmethod
    def _acquire(self, scope: str, claims: str | None) -> Answer:
        """msal's answer."""

    def _refuse_foreign(self, scopes: tuple[str, ...], tenant_id: str | None) -> None:
        if len(scopes) != 1 or scopes[0].removesuffix("/.default") not in self._resources:
            raise TokenRefused(TokenTrouble("the vault asks for a token that is not for a vault", "check vault_url"))
        if self._tenant_id and tenant_id and tenant_id.lower() != self._tenant_id:
            raise TokenRefused(
                TokenTrouble(
                    f"the vault belongs to the tenant {tenant_id[:36]}, the integration names another", "correct tenant_id"
                )
            )


class Credentials:
    """All credentials of one integration. It makes one msal application, when it is first needed, and keeps it."""

    def __init__(self, connection: Connection, cloud: Cloud) -> None:
        self._connection, self._cloud = connection, cloud
        self._own: Credential | None = None
        self._application: msal.ConfidentialClientApplication | None = None
        self._lock = threading.RLock()

    def own(self) -> Credential:
        """The integration's own identity. Raises `TokenTrouble` when it has none because it acts on behalf of users."""
        if self._connection.auth_method is AuthMethod.ON_BEHALF_OF:
            raise TokenTrouble(
                "this integration acts on behalf of a signed-in person, and nobody is signed in here",
                "give background work an integration with a managed identity",
            )
        with self._lock:
            if self._own is None:
                self._own = self._made()
            return self._own

    def of_user(self, assertion: str) -> Credential:
        """A signed-in person, by their token for our application. Keep it no longer than the request it came in."""
        if self._connection.auth_method is not AuthMethod.ON_BEHALF_OF:
            raise TokenTrouble("this integration does not act on behalf of users", "set auth_method to on_behalf_of")
        return _OnBehalfOf(self._app, assertion, self._connection, self._cloud)

    def _made(self) -> Credential:
        if self._connection.auth_method is AuthMethod.MANAGED_IDENTITY:
            return _Managed(self._connection, self._cloud)
        return _Application(self._app, self._connection, self._cloud)

    def _app(self) -> msal.ConfidentialClientApplication:
        with self._lock:
            if self._application is None:
                self._application = _confidential(self._connection, self._cloud)
            return self._application


class Refusing(Credential):
    """Stands for somebody of whom it is known already that there is no token; says why when it is asked."""

    def __init__(self, trouble: TokenTrouble) -> None:
        super().__init__(Cloud(), "")
        self._trouble = trouble

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        raise TokenRefused(self._trouble)

    def _acquire(self, scope: str, claims: str | None) -> Answer:
        raise TokenRefused(self._trouble)


class _Managed(Credential):
    """The managed identity of this machine. msal keeps the token and asks the metadata service again in time."""

    def __init__(self, connection: Connection, cloud: Cloud) -> None:
        super().__init__(cloud, connection.tenant_id)
        wanted = connection.client_id
        identity = msal.UserAssignedManagedIdentity(client_id=wanted) if wanted else msal.SystemAssignedManagedIdentity()
        self._client = msal.ManagedIdentityClient(identity, http_client=_session(None, trust_environment=False))

    def _acquire(self, scope: str, claims: str | None) -> Answer:
        answer: Answer = self._client.acquire_token_for_client(resource=scope.removesuffix("/.default"), claims_challenge=claims)
        return answer


class _Application(Credential):
    """An application by its secret, or a managed identity by the token that Kubernetes projects into the pod."""

    def __init__(self, app: Callable[[], msal.ConfidentialClientApplication], connection: Connection, cloud: Cloud) -> None:
        super().__init__(cloud, connection.tenant_id)
        self._app = app

    def _acquire(self, scope: str, claims: str | None) -> Answer:
        answer: Answer = self._app().acquire_token_for_client([scope], claims_challenge=claims)
        return answer


class _OnBehalfOf(Credential):
    """One signed-in person. Tokens stay in this object: msal is given no memory, since it would keep them for the process."""

    def __init__(
        self, app: Callable[[], msal.ConfidentialClientApplication], assertion: str, connection: Connection, cloud: Cloud
    ) -> None:
        super().__init__(cloud, connection.tenant_id)
        self._app, self._assertion = app, assertion
        self._answers: dict[str, tuple[float, Mapping[str, Any]]] = {}

    def _acquire(self, scope: str, claims: str | None) -> Answer:
        until, known = self._answers.get(scope, (0.0, None))
        if known and not claims and until > time.monotonic():
            return known
        answer: Answer = self._app().acquire_token_on_behalf_of(self._assertion, [scope], claims_challenge=claims)
        if answer and "access_token" in answer:
            self._answers[scope] = (time.monotonic() + _lifetime(answer) - RENEW_BEFORE_SECONDS, answer)
        return answer


class _NothingKept(msal.TokenCache):
    """A token cache without memory."""

    def add(self, event: Mapping[str, Any], now: float | None = None) -> None:
        return None


class _NoAnswersKept(dict[str, Any]):
    """msal remembers refusals under keys that do not tell users apart, so one user's trouble would be everybody's."""

    def __setitem__(self, key: str, value: Any) -> None:
        return None


class _Limited(HTTPAdapter):
    """No request without a time limit. Passing troubles end here, since msal takes them for a wrong configuration."""

    def send(self, *args: Any, **more: Any) -> requests.Response:
        outside.begins("Entra, or this machine's metadata service,")
        answer = super().send(*args, **{**more, "timeout": (CONNECT_SECONDS, READ_SECONDS)})
        if answer.status_code == 429 or answer.status_code >= 500:
            raise TokenRefused(_passing(answer))
        return answer


class _Trusting(requests.Session):
    """Keeps its own CA: requests lets REQUESTS_CA_BUNDLE, common on corporate hosts, silently beat it. Proxies stay."""

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        merged = super().merge_environment_settings(url, proxies, stream, verify, cert)
        if self.verify is not True:
            merged["verify"] = self.verify
        return merged


def _confidential(connection: Connection, cloud: Cloud) -> msal.ConfidentialClientApplication:
    per_user = connection.auth_method is AuthMethod.ON_BEHALF_OF
    with _translated():
        return msal.ConfidentialClientApplication(
            connection.client_id,
            client_credential=_proof(connection),
            authority=f"{cloud.authority_host}/{connection.tenant_id}",
            instance_discovery=cloud.instance_discovery,
            http_client=_session(cloud, trust_environment=True),
            token_cache=_NothingKept() if per_user else None,
            http_cache=_NoAnswersKept(),
        )


def _proof(connection: Connection) -> str | dict[str, Callable[[], str]]:
    """The secret, or the projected token: Kubernetes renews the file, so it is read for each request."""
    if connection.auth_method is not AuthMethod.WORKLOAD_IDENTITY:
        return connection.client_secret
    path = connection.federated_token_file
    assert path is not None  # noqa: S101 - a Connection by workload identity has one

    def read() -> str:
        try:
            return path.read_text().strip()
        except (OSError, ValueError):
            raise TokenRefused(
                TokenTrouble(
                    "the service account token of this pod cannot be read",
                    "check the file in AZURE_FEDERATED_TOKEN_FILE and the label azure.workload.identity/use of the pod",
                )
            ) from None

    return {"client_assertion": read}


def _session(cloud: Cloud | None, *, trust_environment: bool) -> requests.Session:
    session = _Trusting()
    session.trust_env = trust_environment
    session.verify = str(cloud.ca_bundle) if cloud and cloud.ca_bundle else True
    session.max_redirects = 0
    for beginning in ("https://", "http://"):  # the metadata service speaks plain HTTP
        session.mount(beginning, _Limited())
    return session


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of msal and requests in, `TokenRefused` out. Their words may hold tokens, so they go no further."""
    try:
        yield
    except TokenRefused:
        raise
    except requests.exceptions.SSLError as error:
        fault = fault_of(error)
        if fault not in (None, TlsFault.FOREIGN_ROOT):
            raise TokenRefused(TokenTrouble(*tls_told("Entra's login host", fault))) from None
        raise TokenRefused(
            TokenTrouble("the certificate of Entra's login host is not trusted here",
                         "set AZURE_CA_BUNDLE to a PEM file with the CA of the inspecting proxy or of the sandbox")
        ) from None  # fmt: skip
    except (requests.exceptions.RequestException, OSError):
        raise TokenRefused(
            TokenTrouble("no token: Entra's login host or this machine's metadata service cannot be reached",
                         "open outbound TCP 443 to the login host; on Azure, check that the identity is assigned to this machine",
                         owner=Owner.NETWORK, passing=True)
        ) from None  # fmt: skip
    except (msal.exceptions.MsalError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        raise TokenRefused(
            TokenTrouble("what answers in place of Entra does not speak like it", "check ENTRA_AUTHORITY_HOST and tenant_id")
        ) from None


def _passing(answer: requests.Response) -> TokenTrouble:
    cause = "throttles this tenant" if answer.status_code == 429 else "has a passing problem"
    return TokenTrouble(
        f"no token: Entra or this machine's metadata service {cause}",
        "try again in a minute",
        owner=Owner.MICROSOFT,
        passing=True,
        retry_after=seconds_named(answer.headers, datetime.now(UTC)),
    )


def _accepted(answer: Answer) -> AccessToken:
    if not answer or "access_token" not in answer:
        raise TokenRefused(diagnose(answer or {}))
    return AccessToken(str(answer["access_token"]), int(time.time() + _lifetime(answer)))


def _lifetime(answer: Mapping[str, Any]) -> float:
    return float(answer.get("expires_in") or 0)
