"""People's API of the way to a vault."""

from __future__ import annotations

import uuid
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.authentication import credential_in
from accounts.models import Session
from accounts.operations import Signed
from accounts.roles import GATEWAY_ADMIN, GATEWAY_READ, PROJECTS_READ, PROJECTS_WRITE
from accounts.scoping import place_of, require
from common.api import Operation, Text, checked, rfc3339
from common.clock import now
from gateways import vault_grants, vault_ways
from gateways.vault_ways import Trial
from integrations import connections, vaults


class TrialWish(serializers.Serializer):
    write = serializers.BooleanField(
        required=False, default=False, help_text="also try to set, delete and recover a secret of our own in the vault"
    )


class StageRow(serializers.Serializer):
    stage = serializers.CharField()
    outcome = serializers.ChoiceField(["ok", "failed", "skipped"])
    milliseconds = serializers.IntegerField()
    cause = serializers.CharField(help_text="why it failed or was skipped")
    fix = serializers.CharField()
    owner = serializers.CharField(help_text="who can fix it")
    code = serializers.CharField()


class TrialRow(serializers.Serializer):
    ok = serializers.BooleanField(allow_null=True, help_text="null while a gateway has not answered yet")
    ran_at = serializers.CharField(help_text="`primary`, or the name of the gateway")
    auth_method = serializers.CharField()
    stages = StageRow(many=True)
    task = serializers.UUIDField(allow_null=True, help_text="the gateway's task, see admin/tasks")
    detail = serializers.CharField()


class IntegrationTest(Signed):
    """Try the way to an integration's vault: address, DNS, TCP, TLS, token, consent, list, get; on wish also set and recover."""

    permissions = {"POST": PROJECTS_WRITE}

    @extend_schema(operation_id="testIntegration", request=TrialWish, responses={200: TrialRow, 202: TrialRow})
    def post(self, request: Request, identifier: uuid.UUID) -> Response:
        wish = checked(TrialWish, request.data)
        integration = connections.integration_seen(self.by.principal, identifier)
        require(
            self.by.principal, PROJECTS_WRITE, place_of(integration.project), readable=PROJECTS_READ, what="integration"
        )  # fmt: skip
        credential = credential_in(request)
        session = credential if isinstance(credential, Session) else None
        trial = vault_ways.try_integration(integration, session, self.by, write=wish["write"], now=now())
        return Response(test_row(trial), status=202 if trial.ok is None and not trial.detail else 200)


class VaultGrantRow(serializers.Serializer):
    principal_id = serializers.CharField(help_text="object id in Entra")
    principal_type = serializers.CharField()
    role = serializers.CharField()
    scope = serializers.CharField()
    inherited = serializers.BooleanField(help_text="it comes from the resource group, the subscription or above")
    reads_values = serializers.BooleanField()
    reads_names = serializers.BooleanField()
    writes = serializers.BooleanField()


class AccessRow(serializers.Serializer):
    at = serializers.DateTimeField(help_text="when Azure said so; deny assignments and eligible roles are not in it")
    vault_id = serializers.CharField()
    grants = VaultGrantRow(many=True)


class IntegrationAccess(Signed):
    """Who has a role on the vault of an integration. Kept for ten minutes; `refresh=true` asks Azure anew."""

    permissions = {"GET": PROJECTS_READ}

    @extend_schema(
        operation_id="listIntegrationAccess", parameters=[OpenApiParameter("refresh", bool)], responses=AccessRow
    )  # fmt: skip
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        integration = connections.integration_seen(self.by.principal, identifier)
        credential = credential_in(request)
        session = credential if isinstance(credential, Session) else None
        fresh = request.query_params.get("refresh", "").lower() == "true"
        found = vault_grants.access_of(integration, session, self.by, fresh=fresh, now=now())
        return Response({"at": rfc3339(found.at), "vault_id": found.vault_id, "grants": found.grants})


class VaultRow(serializers.Serializer):
    origin = serializers.CharField()
    gateway_environment = serializers.CharField()
    bound_at = serializers.DateTimeField()
    open_to = serializers.ListField(child=serializers.UUIDField(), help_text="projects that may use it")


class VaultRelease(serializers.Serializer):
    origin = Text(max_length=300, help_text="the vault's address, https://<name>.vault.azure.net")


class VaultOpening(VaultRelease):
    project_id = serializers.UUIDField(help_text="the project that may, or may no longer, use the vault")


class FirstOpening(VaultOpening):
    gateway_environment = Text(
        required=False, max_length=32, help_text="where the vault belongs, NPR or PRO; needed while no integration has named it"
    )


class Vaults(Operation):
    """Every vault that an integration has named, and the gateway environment it belongs to since then."""

    permissions = {"GET": GATEWAY_READ}

    @extend_schema(operation_id="listVaults", responses=VaultRow(many=True))
    def get(self, request: Request) -> Response:
        rows = vaults.all_vaults()
        return Response([
            {
                "origin": row.origin, "gateway_environment": row.gateway_environment, "bound_at": rfc3339(row.bound_at),
                "open_to": sorted(str(use.project_id) for use in row.uses.all()),
            }
            for row in rows
        ])  # fmt: skip


class VaultsRelease(Signed):
    """Give a vault up that no integration uses any more, so that another environment can name it."""

    permissions = {"POST": GATEWAY_ADMIN}
    scoped = False

    @extend_schema(operation_id="releaseVault", request=VaultRelease, responses={204: None})
    def post(self, request: Request) -> Response:
        vaults.release(checked(VaultRelease, request.data)["origin"], self.by)
        return Response(status=204)


class VaultsOpen(Signed):
    """Let a project use a vault with the identity of its gateways, which sees everything in it."""

    permissions = {"POST": GATEWAY_ADMIN}
    scoped = False

    @extend_schema(operation_id="openVault", request=FirstOpening, responses={204: None})
    def post(self, request: Request) -> Response:
        wish = checked(FirstOpening, request.data)
        vaults.open_to(wish["origin"], wish["project_id"], self.by, wish.get("gateway_environment", ""))
        return Response(status=204)


class VaultsClose(Signed):
    """Take that back. Values of the project that rest in the vault cannot be read until it is open again."""

    permissions = {"POST": GATEWAY_ADMIN}
    scoped = False

    @extend_schema(operation_id="closeVault", request=VaultOpening, responses={204: None})
    def post(self, request: Request) -> Response:
        wish = checked(VaultOpening, request.data)
        vaults.close_to(wish["origin"], wish["project_id"], self.by)
        return Response(status=204)


def test_row(trial: Trial) -> dict[str, Any]:
    return {
        "ok": trial.ok if trial.stages or not trial.detail else False,
        "ran_at": trial.ran_at,
        "auth_method": trial.method.value,
        "stages": [
            {name: stage[name] for name in ("stage", "outcome", "milliseconds", "cause", "fix", "owner", "code")}
            for stage in trial.stages
        ],
        "task": str(trial.task) if trial.task else None,
        "detail": trial.detail,
    }
