"""Integrations and sync rules of a project. Views parse, call, render (client-api B.1)."""

from __future__ import annotations

import uuid
from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.fields import Id, Name, Settings, Words
from accounts.models import ConflictStrategy
from accounts.operations import Signed
from accounts.roles import PROJECTS_READ, PROJECTS_WRITE
from accounts.scoping import project_seen
from accounts.tenancy_api import times
from common.api import checked
from common.clock import now
from common.described import described
from integrations import connections, idle, rules
from integrations.models import Integration, SyncDirection, SyncMode, SyncRule


class IntegrationWish(serializers.Serializer):
    name = Name()
    type = Name(max_length=64)
    provider = Name(max_length=64)
    config = Settings(required=False, allow_null=True)
    environment = Words(
        required=False,
        max_length=100,
        help_text="name or slug of one of the organization; it stays what it was made for",
    )


class IntegrationRow(serializers.Serializer):
    id = serializers.UUIDField()
    project_id = serializers.UUIDField()
    name = serializers.CharField()
    type = serializers.CharField()
    provider = serializers.CharField()
    environment = serializers.CharField(help_text="as the client sent it")
    config = serializers.DictField(help_text="its public fields; all others rest sealed and are never given back")
    not_in_force = serializers.ListField(child=serializers.CharField(), help_text="what has no effect, and why")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class RuleWish(serializers.Serializer):
    name = Name()
    integration_id = Id()
    project_id = Id(required=False, allow_null=True, allow_blank=True)
    target_environment = Words(required=False, max_length=100)
    source_path = Words(required=False)
    key_transform_template = Words(required=False, max_length=500)
    conflict_strategy = serializers.ChoiceField(
        ConflictStrategy.choices, required=False, allow_blank=True, help_text="never applies to production environments"
    )
    sync_direction = serializers.ChoiceField(SyncDirection.choices, required=False, allow_blank=True)
    sync_mode = serializers.ChoiceField(SyncMode.choices, required=False, allow_blank=True)


class RuleRow(serializers.Serializer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    integration_id = serializers.UUIDField()
    project_id = serializers.UUIDField()
    target_environment = serializers.CharField()
    source_path = serializers.CharField()
    key_transform_template = serializers.CharField()
    conflict_strategy = serializers.CharField()
    effective_conflict_strategy = serializers.CharField(help_text="what counts in the target environment")
    sync_direction = serializers.CharField()
    sync_mode = serializers.CharField()
    not_in_force = serializers.ListField(child=serializers.CharField(), help_text="what has no effect, and why")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class RuleList(serializers.Serializer):
    rules = RuleRow(many=True)


class Integrations(Signed):
    """Connect a project to an outside system, or list its integrations."""

    permissions = {"POST": PROJECTS_WRITE, "GET": PROJECTS_READ}

    @described(operation_id="createIntegration", request=IntegrationWish, responses={201: IntegrationRow})
    def post(self, request: Request, project: uuid.UUID) -> Response:
        wish = checked(IntegrationWish, request.data)
        return Response(integration_row(connections.create(project, wish, self.by)), status=201)

    @described(operation_id="listIntegrations", responses=IntegrationRow(many=True))
    def get(self, request: Request, project: uuid.UUID) -> Response:
        seen = project_seen(self.by.principal, project)
        return Response([integration_row(row) for row in connections.integrations_of(seen)])


class IntegrationOne(Signed):
    """One integration; a secret that PUT leaves out of the configuration is kept."""

    permissions = {"GET": PROJECTS_READ, "PUT": PROJECTS_WRITE, "DELETE": PROJECTS_WRITE}

    @described(operation_id="getIntegration", responses=IntegrationRow)
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        return Response(integration_row(connections.integration_seen(self.by.principal, identifier)))

    @described(operation_id="replaceIntegration", request=IntegrationWish, responses=IntegrationRow)
    def put(self, request: Request, identifier: uuid.UUID) -> Response:
        wish = checked(IntegrationWish, request.data)
        return Response(integration_row(connections.replace(identifier, wish, self.by)))

    @described(operation_id="deleteIntegration", responses={204: None})
    def delete(self, request: Request, identifier: uuid.UUID) -> Response:
        connections.delete(identifier, self.by, now())
        return Response(status=204)


class SyncRules(Signed):
    """Add a sync rule to a project, or list its rules."""

    permissions = {"POST": PROJECTS_WRITE, "GET": PROJECTS_READ}

    @described(operation_id="createSyncRule", request=RuleWish, responses={201: RuleRow})
    def post(self, request: Request, project: uuid.UUID) -> Response:
        return Response(rule_row(rules.create(project, checked(RuleWish, request.data), self.by)), status=201)

    @described(operation_id="listSyncRules", responses=RuleList)
    def get(self, request: Request, project: uuid.UUID) -> Response:
        seen = project_seen(self.by.principal, project)
        return Response({"rules": [rule_row(row) for row in rules.rules_of(seen)]})


class SyncRuleOne(Signed):
    """One sync rule."""

    permissions = {"PUT": PROJECTS_WRITE, "DELETE": PROJECTS_WRITE}

    @described(operation_id="replaceSyncRule", request=RuleWish, responses=RuleRow)
    def put(self, request: Request, identifier: uuid.UUID) -> Response:
        return Response(rule_row(rules.replace(identifier, checked(RuleWish, request.data), self.by)))

    @described(operation_id="deleteSyncRule", responses={204: None})
    def delete(self, request: Request, identifier: uuid.UUID) -> Response:
        rules.delete(identifier, self.by, now())
        return Response(status=204)


def integration_row(integration: Integration) -> dict[str, Any]:
    return {
        "id": str(integration.id),
        "project_id": str(integration.project_id),
        "name": integration.name,
        "type": integration.type,
        "provider": integration.provider,
        "environment": integration.environment_given,
        "config": integration.config,
        "not_in_force": idle.of_integration(integration),
        **times(integration),
    }


def rule_row(rule: SyncRule) -> dict[str, Any]:
    counts = rules.strategy_that_counts(rule)
    return {
        "id": str(rule.id),
        "name": rule.name,
        "integration_id": str(rule.integration_id),
        "project_id": str(rule.project_id),
        "target_environment": rule.target_environment,
        "source_path": rule.source_path,
        "key_transform_template": rule.key_transform_template,
        "conflict_strategy": rule.conflict_strategy,
        "effective_conflict_strategy": counts,
        "sync_direction": rule.sync_direction,
        "sync_mode": rule.sync_mode,
        "not_in_force": idle.of_rule(rule, counts),
        **times(rule),
    }
