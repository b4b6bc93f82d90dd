"""The refusals of Entra's token service as a table: number, OAuth error, HTTP status and Entra's own words."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from sandbox.azure.web import Answer, Refusal, json_answer


@dataclass(frozen=True)
class Row:
    """`text` takes the named values of the refusal. `suberror` is what clients look at to tell consent from the rest."""

    error: str
    text: str
    status: int = 400
    suberror: str = ""


TABLE: dict[int, Row] = {
    28000: Row("invalid_request", "Provided value for the input parameter scope is not valid because it contains more than one "
                                  "resource. Scope {scope} is not valid."),
    50011: Row("invalid_request", "The redirect URI '{uri}' specified in the request does not match the redirect URIs configured "
                                  "for the application '{client}'."),
    50013: Row("invalid_grant", "Assertion failed signature validation. [Reason - {reason}]"),
    50057: Row("invalid_grant", "The user account is disabled."),
    50058: Row("login_required", "A silent sign-in request was sent but no user is signed in."),
    50105: Row("access_denied", "Your administrator has configured the application {name} ('{client}') to block users unless "
                                "they are specifically granted ('assigned') access to the application."),
    54005: Row("invalid_grant", "OAuth2 Authorization code was already redeemed, please retry with a new valid code or use an "
                                "existing refresh token."),
    65001: Row("invalid_grant", "The user or administrator has not consented to use the application with ID '{client}' named "
                                "'{name}'. Send an interactive authorization request for this user and resource.",
               suberror="consent_required"),
    65004: Row("access_denied", "User declined to consent to access the app."),
    70000: Row("invalid_grant", "Provided grant is invalid or malformed."),
    70003: Row("unsupported_grant_type", "The app requested an unsupported grant type '{grant}'."),
    70008: Row("invalid_grant", "The provided authorization code or refresh token has expired due to inactivity. Send a new "
                                "interactive authorization request for this user and resource."),
    70011: Row("invalid_scope", "The provided value for the input parameter 'scope' is not valid. The scope {scope} is not "
                                "valid."),
    90002: Row("invalid_request", "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are "
                                  "signing into the correct cloud."),
    90009: Row("invalid_request", "Application '{client}'({name}) is requesting a token for itself. This scenario is supported "
                                  "only if resource is specified using the GUID based App Identifier."),
    90055: Row("temporarily_unavailable", "The request has been throttled because of too many requests.", 429),
    90033: Row("temporarily_unavailable", "A transient error has occurred. Please try again.", 503),
    240002: Row("invalid_grant", "Input id_token cannot be used as 'urn:ietf:params:oauth:grant-type:jwt-bearer' grant."),
    500011: Row("invalid_resource", "The resource principal named {resource} was not found in the tenant named {tenant}."),
    500112: Row("invalid_client", "The reply address '{uri}' does not match the reply address '{asked}' provided when requesting "
                                  "Authorization code."),
    500131: Row("invalid_grant", "Assertion audience does not match the Client app presenting the assertion. The audience in the "
                                 "assertion was '{audience}' and the expected audience is '{client}'."),
    500133: Row("invalid_grant", "Assertion is not within its valid time range. Ensure that the access token is not expired "
                                 "before using it for user assertion, or request a new token."),
    501481: Row("invalid_grant", "The Code_Verifier does not match the code_challenge supplied in the authorization request."),
    650053: Row("invalid_client", "The application '{name}' asked for scope '{scope}' that doesn't exist on the resource "
                                  "'{resource}'."),
    700016: Row("unauthorized_client", "Application with identifier '{client}' was not found in the directory '{tenant}'."),
    700024: Row("invalid_client", "Client assertion is not within its valid time range.", 401),
    700027: Row("invalid_client", "Client assertion failed signature validation.", 401),
    700211: Row("invalid_client", "No matching federated identity record found for presented assertion issuer '{value}'.", 401),
    700212: Row("invalid_client", "No matching federated identity record found for presented assertion audience '{value}'.", 401),
    700213: Row("invalid_client", "No matching federated identity record found for presented assertion subject '{value}'.", 401),
    900144: Row("invalid_request", "The request body must contain the following parameter: '{parameter}'."),
    1002012: Row("invalid_scope", "The provided value for scope {scope} is not valid. Client credential flows must have a scope "
                                  "value with /.default suffixed to the resource identifier (application ID URI)."),
    7000114: Row("invalid_grant", "Application '{client}' is not allowed to make application on-behalf-of calls."),
    7000215: Row("invalid_client", "Invalid client secret provided. Ensure the secret being sent in the request is the client "
                                   "secret value, not the client secret ID, for a secret added to app '{client}'.", 401),
    7000218: Row("invalid_client", "The request body must contain the following parameter: 'client_assertion' or "
                                   "'client_secret'.", 401),
    7000222: Row("invalid_client", "The provided client secret keys for app '{client}' are expired. Visit the Azure portal to "
                                   "create new keys for your app.", 401),
    9002325: Row("invalid_request", "Proof Key for Code Exchange is required: code_challenge_method must be S256."),
}  # fmt: skip


class Aadsts(Refusal):
    """A refusal by its number, with the values its text names."""

    def __init__(self, number: int, **values: str) -> None:
        self.number, self.row = number, TABLE[number]
        self.sentence = f"AADSTS{number}: {self.row.text.format(**values)}"
        super().__init__(self.sentence)

    @property
    def oauth_error(self) -> str:
        """In a redirect, missing consent has an OAuth error of its own."""
        return self.row.suberror or self.row.error

    def description(self) -> str:
        """The sentence with the three identifiers that Entra appends."""
        moment = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        return f"{self.sentence} Trace ID: {uuid.uuid4()} Correlation ID: {uuid.uuid4()} Timestamp: {moment}"

    def answer(self) -> Answer:
        body: dict[str, object] = {
            "error": self.row.error,
            "error_description": self.description(),
            "error_codes": [self.number],
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ"),
            "trace_id": str(uuid.uuid4()),
            "correlation_id": str(uuid.uuid4()),
            "error_uri": f"https://login.microsoftonline.com/error?code={self.number}",
        }
        if self.row.suberror:
            body["suberror"] = self.row.suberror
        return json_answer(body, self.row.status)
