"""Writes of gateways for people: what waits, what it is, what applying would do, and the decision. Views parse, call, render."""

from __future__ import annotations

import uuid
from typing import Any

from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.authentication import principal_in
from accounts.roles import GATEWAY_ADMIN, GATEWAY_READ, SECRETS_WRITE
from common.api import Operation, Text, checked
from common.clock import database_now
from common.described import described
from common.errors import NotFound, ValidationFailed
from gateways import write_resolution, write_selectors
from gateways.write_resolution import ABSENT, MOST_AT_ONCE

FILTERS = [OpenApiParameter(name, str) for name in write_selectors.FILTERS]


class ResolveWish(serializers.Serializer):
    resolution = Text(max_length=16, help_text="apply, discard or retry")
    base_version = serializers.IntegerField(
        required=False, min_value=0, help_text="apply only if the secret is still in this version"
    )
    vault = Text(required=False, max_length=32, help_text="restore_recorded or accept_vault_value, for discard")


class FilterWish(serializers.Serializer):
    outcome = Text(required=False, max_length=16)
    environment = Text(required=False, max_length=16)
    gateway = Text(required=False, max_length=63, help_text="name or id")
    project = Text(required=False, max_length=36)


class ResolveManyWish(serializers.Serializer):
    resolution = Text(max_length=16)
    vault = Text(required=False, max_length=32, help_text="restore_recorded or accept_vault_value, for discard")
    ids = serializers.ListField(child=serializers.UUIDField(), required=False, min_length=1, max_length=MOST_AT_ONCE)
    filter = FilterWish(required=False)


class WriteRow(serializers.Serializer):
    id = serializers.UUIDField()
    environment = serializers.CharField()
    gateway = serializers.CharField()
    gateway_id = serializers.UUIDField()
    generation = serializers.UUIDField()
    epoch = serializers.IntegerField()
    sequence = serializers.IntegerField()
    previous = serializers.UUIDField(allow_null=True)
    claimed_id = serializers.UUIDField(allow_null=True)
    operation = serializers.CharField()
    secret_id = serializers.UUIDField(allow_null=True)
    project_id = serializers.UUIDField(allow_null=True)
    project_environment = serializers.UUIDField(allow_null=True)
    key = serializers.CharField()
    base_version = serializers.IntegerField(allow_null=True)
    author = serializers.CharField()
    body_digest = serializers.CharField()
    promised = serializers.BooleanField()
    outcome = serializers.CharField()
    version = serializers.IntegerField()
    code = serializers.CharField()
    detail = serializers.CharField()
    because = serializers.CharField(allow_null=True, help_text="why it is not applied (yet); null once it is, or was decided on")
    since = serializers.DateTimeField(allow_null=True, help_text="since when that is so")
    attempts = serializers.IntegerField()
    resolution = serializers.CharField(allow_null=True)
    content_kept = serializers.BooleanField()
    accepted_at = serializers.CharField(help_text="by the gateway's own clock")
    received_at = serializers.DateTimeField()
    settled_at = serializers.DateTimeField(allow_null=True)
    settled_by = serializers.CharField(allow_null=True)


class PreviewRow(serializers.Serializer):
    write = WriteRow()
    current = serializers.DictField(allow_null=True)
    values = serializers.CharField(help_text="equal, different, none or hidden")
    applying = serializers.DictField()
    vault = serializers.DictField(allow_null=True, help_text="that the vault has the change already, and what can be chosen")


class ResolvedRow(serializers.Serializer):
    id = serializers.UUIDField()
    resolved = serializers.BooleanField()
    outcome = serializers.CharField()
    version = serializers.IntegerField()
    code = serializers.CharField(allow_null=True)
    error = serializers.CharField(allow_null=True)
    vault = serializers.DictField(allow_null=True)


class DecidedRow(WriteRow):
    vault = serializers.DictField(allow_null=True, help_text="what becomes of a vault that has a discarded change")


class Writes(Operation):
    """Writes of gateways, newest first: those that wait for a person unless an outcome is named."""

    permissions = {"GET": GATEWAY_READ}

    @described(operation_id="listReceivedWrites", parameters=FILTERS, responses=WriteRow(many=True))
    def get(self, request: Request) -> Response:
        wanted = {name: request.query_params.get(name, "") for name in write_selectors.FILTERS}
        return Response(write_selectors.write_rows(wanted))


class WriteOne(Operation):
    """One write of a gateway."""

    permissions = {"GET": GATEWAY_READ}

    @described(operation_id="getReceivedWrite", responses=WriteRow)
    def get(self, request: Request, identifier: str) -> Response:
        return Response(write_selectors.write_row(write_selectors.write_of(_uuid(identifier))))


class WritePreview(Operation):
    """Both sides of a write without their values, and what applying it would do."""

    permissions = {"GET": GATEWAY_READ}

    @described(operation_id="previewReceivedWrite", responses=PreviewRow)
    def get(self, request: Request, identifier: str) -> Response:
        row = write_selectors.write_of(_uuid(identifier))
        return Response({"write": write_selectors.write_row(row), **write_resolution.preview(row.id, principal_in(request))})


class WriteResolve(Operation):
    """Decide on a write: apply it as a change of the present, discard it, or try it again."""

    permissions = {"POST": GATEWAY_ADMIN}

    @described(operation_id="resolveReceivedWrite", request=ResolveWish, responses=DecidedRow)
    def post(self, request: Request, identifier: str) -> Response:
        wish = checked(ResolveWish, request.data)
        decided = write_resolution.resolve(
            _uuid(identifier), wish["resolution"], principal_in(request), address=self.address, now=database_now(),
            base_version=wish.get("base_version"), vault=wish.get("vault", ""),
        )  # fmt: skip
        row = write_selectors.write_row(write_selectors.write_of(decided.write.id))
        return Response({**row, "vault": decided.vault})


class WritesResolve(Operation):
    """Decide on many writes at once, named by id or by a filter. Each is decided for itself and answered for."""

    permissions = {"POST": GATEWAY_ADMIN}

    @described(operation_id="resolveReceivedWrites", request=ResolveManyWish, responses=ResolvedRow(many=True))
    def post(self, request: Request) -> Response:
        wish = checked(ResolveManyWish, request.data)
        if ("ids" in wish) == ("filter" in wish):
            raise ValidationFailed("ids: name either ids or a filter")
        identifiers = wish.get("ids") or write_selectors.unresolved_ids(wish.get("filter", {}), MOST_AT_ONCE)
        resolved = write_resolution.resolve_many(
            identifiers,
            wish["resolution"],
            principal_in(request),
            address=self.address,
            now=database_now(),
            vault=wish.get("vault", ""),
        )
        return Response([_resolved_row(one) for one in resolved])


class OwnWrite(Operation):
    """Where a write is that the caller made at a gateway."""

    permissions = {"GET": SECRETS_WRITE}
    scoped = True

    @described(operation_id="getWrite", responses=WriteRow)
    def get(self, request: Request, identifier: str) -> Response:
        row, caller = write_selectors.write_of(_uuid(identifier)), principal_in(request)
        if row.actor != caller.actor and GATEWAY_READ not in caller.permissions:
            raise NotFound(ABSENT)
        return Response(write_selectors.write_row(row))


def _resolved_row(one: write_resolution.Resolved) -> dict[str, Any]:
    refused = one.refused
    return {
        "id": str(one.write.id),
        "resolved": refused is None,
        "outcome": one.write.outcome,
        "version": one.write.version,
        "code": refused.code if refused else None,
        "error": refused.sentence if refused else None,
        "vault": one.vault,
    }


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise NotFound(ABSENT) from None
