"""People's API of the way to a vault."""

from __future__ import annotations

import uuid
from typing import Any

from drf_spectacular.utils import OpenApiParameter
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
from common.described import described
from common.errors import ValidationFailed
from gateways import vault_grants, vault_questions, vault_ways
from integrations import connections, vaults
from integrations.models import Integration, VaultQuestion


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
    id = serializers.UUIDField()
    state = serializers.ChoiceField(["running", "ended"])
    status_url = serializers.CharField(help_text="where this row is looked up until it has ended")
    ok = serializers.BooleanField(allow_null=True, help_text="null while it is running")
    ran_at = serializers.CharField(help_text="`primary`, or the name of the gateway; empty until one answered")
    auth_method = serializers.CharField()
    stages = StageRow(many=True)
    task = serializers.UUIDField(allow_null=True, help_text="the gateway's task, see admin/tasks")
    detail = serializers.CharField()
    asked_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)


class IntegrationTest(Signed):
    """Try the way to an integration's vault: address, DNS, TCP, TLS, token, consent, list, get; on wish also set and recover.

    The answer comes at once and says where to look; one test of an integration runs at a time, four of a project.
    """

    permissions = {"POST": PROJECTS_WRITE}

    @described(operation_id="testIntegration", request=TrialWish, responses={202: TrialRow})
    def post(self, request: Request, identifier: uuid.UUID) -> Response:
        wish = checked(TrialWish, request.data)
        integration = _tried_by(self, identifier)
        credential = credential_in(request)
        session = credential if isinstance(credential, Session) else None
        return Response(test_row(vault_ways.try_integration(integration, session, self.by, write=wish["write"])), status=202)


class IntegrationTestOne(Signed):
    """How a test stands. One in a person's own name is shown to that person only."""

    permissions = {"GET": PROJECTS_WRITE}

    @described(operation_id="getIntegrationTest", responses=TrialRow)
    def get(self, request: Request, identifier: uuid.UUID, test: uuid.UUID) -> Response:
        integration = _tried_by(self, identifier)
        return Response(test_row(vault_questions.seen(integration, test, VaultQuestion.TEST, self.by)))


def _tried_by(operation: Signed, identifier: uuid.UUID) -> Integration:
    integration = connections.integration_seen(operation.by.principal, identifier)
    require(
        operation.by.principal, PROJECTS_WRITE, place_of(integration.project), readable=PROJECTS_READ, what="integration"
    )  # fmt: skip
    return integration


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
    at = serializers.DateTimeField(
        allow_null=True,
        help_text="when Azure said so, null while it is asked; deny assignments and eligible roles are not in it",
    )
    vault_id = serializers.CharField()
    grants = VaultGrantRow(many=True)


class IntegrationAccess(Signed):
    """Who has a role on the vault of an integration. Kept for ten minutes; `refresh=true` asks Azure anew.

    While the gateway is asked the answer is 202 without a list; ask again after `Retry-After`.
    """

    permissions = {"GET": PROJECTS_READ}

    @described(
        operation_id="listIntegrationAccess", parameters=[OpenApiParameter("refresh", bool)],
        responses={200: AccessRow, 202: AccessRow},
    )  # fmt: skip
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        integration = connections.integration_seen(self.by.principal, identifier)
        credential = credential_in(request)
        session = credential if isinstance(credential, Session) else None
        fresh = _flag(request.query_params.get("refresh", ""))
        found = vault_grants.access_of(integration, session, self.by, fresh=fresh, now=now())
        if found is None:
            vault_id = str(integration.config.get("vault_id", ""))
            waiting: dict[str, Any] = {"at": None, "vault_id": vault_id, "grants": []}
            return Response(waiting, status=202, headers={"Retry-After": str(vault_questions.RETRY_SECONDS)})
        return Response({"at": rfc3339(found.at), "vault_id": found.vault_id, "grants": found.grants})


def _flag(text: str) -> bool:
    if text.lower() not in ("", "true", "false"):
        raise ValidationFailed("refresh: must be true or false")
    return text.lower() == "true"


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

    @described(operation_id="listVaults", responses=VaultRow(many=True))
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

    @described(operation_id="releaseVault", request=VaultRelease, responses={204: None})
    def post(self, request: Request) -> Response:
        vaults.release(checked(VaultRelease, request.data)["origin"], self.by)
        return Response(status=204)


class VaultsOpen(Signed):
    """Let a project use a vault with the identity of its gateways, which sees everything in it."""

    permissions = {"POST": GATEWAY_ADMIN}
    scoped = False

    @described(operation_id="openVault", request=FirstOpening, responses={204: None})
    def post(self, request: Request) -> Response:
        wish = checked(FirstOpening, request.data)
        vaults.open_to(wish["origin"], wish["project_id"], self.by, wish.get("gateway_environment", ""))
        return Response(status=204)


class VaultsClose(Signed):
    """Take that back. Values of the project that rest in the vault cannot be read until it is open again."""

    permissions = {"POST": GATEWAY_ADMIN}
    scoped = False

    @described(operation_id="closeVault", request=VaultOpening, responses={204: None})
    def post(self, request: Request) -> Response:
        wish = checked(VaultOpening, request.data)
        vaults.close_to(wish["origin"], wish["project_id"], self.by)
        return Response(status=204)


def test_row(question: VaultQuestion) -> dict[str, Any]:
    names = ("stage", "outcome", "milliseconds", "cause", "fix", "owner", "code")
    return {
        "id": str(question.id),
        "state": "ended" if question.ended_at else "running",
        "status_url": f"/api/v1/projects/integrations/{question.integration_id}/tests/{question.id}",
        "ok": vault_questions.went_well(question),
        "ran_at": question.ran_at,
        "auth_method": question.method,
        "stages": [{name: stage[name] for name in names} for stage in question.answer.get("stages", [])],
        "task": str(question.task) if question.task else None,
        "detail": question.detail,
        "asked_at": rfc3339(question.begun_at),
        "ended_at": rfc3339(question.ended_at),
    }
