"""API tokens of people and services, service identities, and the token endpoint for software (client-api B.0, B.1)."""

from __future__ import annotations

import uuid
from typing import Any

from django.http import QueryDict
from rest_framework import serializers
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import services, sessions, tokens
from accounts.authentication import credential_in
from accounts.fields import AUDIENCE, Name, Texts, Words
from accounts.models import ApiToken, ServiceIdentity
from accounts.operations import Signed
from accounts.roles import USERS_READ, USERS_WRITE
from accounts.tenancy_api import times
from common.api import SIGNED_IN, Operation, Text, checked, rfc3339
from common.clock import now
from common.described import described
from common.errors import MalformedBody, ValidationFailed
from common.paging import PAGE, page_if_asked
from common.parsing import LimitedFormParser, StrictJSONParser

CLIENT_CREDENTIALS = "client_credentials"


class TokenWish(serializers.Serializer):
    name = Name()
    scopes = Texts(required=False, allow_null=True, help_text="permissions it is limited to; null: all of yours")
    audience = Texts(required=False, allow_null=True, help_text=f"{AUDIENCE}; left out: as the credential you use")
    duration = Text(required=False, max_length=64, help_text="such as 24h (the default), 720h or 1h30m; at most 8784h")


class TokenRow(serializers.Serializer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    scopes = serializers.ListField(child=serializers.CharField(), allow_null=True)
    audience = serializers.ListField(child=serializers.CharField(), allow_null=True, help_text=AUDIENCE)
    expires_at = serializers.DateTimeField()
    last_used_at = serializers.DateTimeField(allow_null=True, help_text="exact to five minutes")
    created_at = serializers.DateTimeField()


class NewToken(TokenRow):
    token = serializers.CharField(help_text="shown once")


class ServiceWish(serializers.Serializer):
    display_name = Name()
    description = Words(required=False)
    owner_email = Name(max_length=254)


class ServiceChange(ServiceWish):
    status = serializers.ChoiceField((services.ACTIVE, services.DISABLED), required=False)


class ServiceRow(serializers.Serializer):
    id = serializers.UUIDField()
    display_name = serializers.CharField()
    description = serializers.CharField()
    owner_email = serializers.CharField()
    client_id = serializers.CharField()
    status = serializers.CharField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class NewService(ServiceRow):
    client_secret = serializers.CharField(help_text="shown once")


class ClientCredentials(serializers.Serializer):
    grant_type = Text(max_length=64)
    client_id = Text(max_length=128)
    client_secret = Text(max_length=512, trim_whitespace=False)
    audience = Text(required=False, max_length=512, help_text=f"names with spaces between them; {AUDIENCE}")


class AccessToken(serializers.Serializer):
    access_token = serializers.CharField()
    token_type = serializers.CharField()
    expires_in = serializers.IntegerField(help_text="seconds")


class Tokens(Signed):
    """Make an API token of your own, or list yours."""

    permissions = {"POST": SIGNED_IN, "GET": SIGNED_IN}

    @described(operation_id="createApiToken", request=TokenWish, responses={201: NewToken})
    def post(self, request: Request) -> Response:
        wish = checked(TokenWish, request.data)
        row, text = tokens.create(
            credential_in(request), wish["name"], wish.get("scopes"), wish.get("duration", "24h"), self.by, now(),
            wish.get("audience"),
        )  # fmt: skip
        return Response({**token_row(row), "token": text}, status=201)

    @described(operation_id="listApiTokens", parameters=PAGE, responses=TokenRow(many=True))
    def get(self, request: Request) -> Response:
        return Response([token_row(row) for row in page_if_asked(tokens.tokens_of(credential_in(request)), request)])


class TokenOne(Signed):
    """End one of your API tokens at once."""

    permissions = {"DELETE": SIGNED_IN}

    @described(operation_id="revokeApiToken", responses={204: None})
    def delete(self, request: Request, identifier: uuid.UUID) -> Response:
        tokens.revoke(credential_in(request), identifier, self.by, now())
        return Response(status=204)


class Services(Signed):
    """Make a service identity, which has no rights until it gets a role, or list them."""

    scoped = False
    permissions = {"POST": USERS_WRITE, "GET": USERS_READ}

    @described(operation_id="createServiceIdentity", request=ServiceWish, responses={201: NewService})
    def post(self, request: Request) -> Response:
        service, secret = services.create(checked(ServiceWish, request.data), self.by)
        return Response({**service_row(service), "client_secret": secret}, status=201)

    @described(operation_id="listServiceIdentities", parameters=PAGE, responses=ServiceRow(many=True))
    def get(self, request: Request) -> Response:
        return Response([service_row(row) for row in page_if_asked(services.living(), request)])


class ServiceOne(Signed):
    """One service identity; PUT never changes its secret."""

    scoped = False
    permissions = {"GET": USERS_READ, "PUT": USERS_WRITE, "DELETE": USERS_WRITE}

    @described(operation_id="getServiceIdentity", responses=ServiceRow)
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        return Response(service_row(services.service_seen(identifier)))

    @described(operation_id="replaceServiceIdentity", request=ServiceChange, responses=ServiceRow)
    def put(self, request: Request, identifier: uuid.UUID) -> Response:
        wish = checked(ServiceChange, request.data)
        return Response(service_row(services.replace(identifier, wish, self.by, now())))

    @described(operation_id="deleteServiceIdentity", responses={204: None})
    def delete(self, request: Request, identifier: uuid.UUID) -> Response:
        services.delete(identifier, self.by, now())
        return Response(status=204)


class ServiceSecret(Signed):
    """Give a service identity a new secret; the old one and every session of it end at once."""

    scoped = False
    permissions = {"POST": USERS_WRITE}

    @described(operation_id="rotateServiceSecret", request=None, responses=NewService)
    def post(self, request: Request, identifier: uuid.UUID) -> Response:
        service, secret = services.rotate_secret(identifier, self.by, now())
        return Response({**service_row(service), "client_secret": secret})


class ServiceToken(Operation):
    """Exchange client id and client secret for an access token (grant type `client_credentials`)."""

    public = True
    authentication_classes = ()
    parser_classes: tuple[type[BaseParser], ...] = (StrictJSONParser,)

    @described(operation_id="serviceToken", request=ClientCredentials, responses=AccessToken, auth=[])
    def post(self, request: Request) -> Response:
        wish = checked(ClientCredentials, _single(request.data))
        if wish["grant_type"] != CLIENT_CREDENTIALS:
            raise ValidationFailed(f"grant_type: must be {CLIENT_CREDENTIALS}")
        audience = wish["audience"].split() if "audience" in wish else None
        _, token = sessions.sign_in_service(
            wish["client_id"], wish["client_secret"], address=self.address, now=now(), audience=audience
        )
        life = int(sessions.LIFE.total_seconds())
        return Response({"access_token": token, "token_type": "Bearer", "expires_in": life})


class OAuthToken(ServiceToken):
    """The same as a form, at the path OAuth clients expect."""

    parser_classes = (LimitedFormParser, StrictJSONParser)

    @described(operation_id="oauthToken", request=ClientCredentials, responses=AccessToken, auth=[])
    def post(self, request: Request) -> Response:
        return super().post(request)


def token_row(row: ApiToken) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "name": row.name,
        "scopes": row.scopes,
        "audience": row.audience,
        "expires_at": rfc3339(row.expires_at),
        "last_used_at": rfc3339(row.last_used_at),
        "created_at": rfc3339(row.created_at),
    }


def service_row(service: ServiceIdentity) -> dict[str, Any]:
    return {
        "id": str(service.id),
        "display_name": service.display_name,
        "description": service.description,
        "owner_email": service.owner_email,
        "client_id": service.client_id,
        "status": service.status,
        **times(service),
    }


def _single(body: Any) -> Any:
    """A form as an object; a field that is given twice has no meaning."""
    if not isinstance(body, QueryDict):
        return body
    if any(len(values) != 1 or "\0" in values[0] for _, values in body.lists()):
        raise MalformedBody("each field of the form must be there once and be plain text")
    return body.dict()
