"""Organizations, their environments and config templates, projects and their settings (client-api B.1)."""

from __future__ import annotations

import uuid
from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import config_templates, environments, idle, organizations, projects
from accounts.fields import Flag, Id, Name, Settings, Texts, Whole, Words
from accounts.models import ConfigTemplate, ConflictStrategy, Environment, Organization, Project, StaleEpochPolicy, Storage
from accounts.operations import Signed
from accounts.roles import PROJECTS_READ, PROJECTS_WRITE, SETTINGS_WRITE
from accounts.scoping import organization_seen, project_seen, visible_organizations, visible_projects
from common.api import Text, checked, rfc3339
from common.clock import now
from common.described import described
from common.paging import PAGE, page_if_asked


class OrganizationWish(serializers.Serializer):
    name = Name()


class OrganizationRow(serializers.Serializer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class EnvironmentWish(serializers.Serializer):
    name = Name(max_length=100)
    slug = Text(required=False, allow_blank=True, max_length=100)
    is_production = Flag(required=False)
    incident_auto_escalation = Flag(required=False)


class EnvironmentChange(serializers.Serializer):
    name = Name(max_length=100, required=False)
    is_production = Flag(required=False)
    incident_auto_escalation = Flag(required=False)


class EnvironmentRow(serializers.Serializer):
    id = serializers.UUIDField()
    organization_id = serializers.UUIDField()
    name = serializers.CharField()
    slug = serializers.CharField()
    is_production = serializers.BooleanField()
    incident_auto_escalation = serializers.BooleanField()
    gateway_environment = serializers.CharField(help_text="the blast radius it is mapped to, for example NPR or PRO")
    not_in_force = serializers.ListField(child=serializers.CharField(), help_text="settings without effect, and why")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class ProjectWish(serializers.Serializer):
    name = Name()
    type = Words(required=False, max_length=64)
    environment = Words(required=False, max_length=100)
    organization_id = Id(required=False, allow_null=True, allow_blank=True)
    storage = serializers.ChoiceField(Storage.choices, required=False)
    conflict_strategy = serializers.ChoiceField(
        ConflictStrategy.choices, required=False, help_text="never applies to production environments"
    )
    stale_epoch_policy = serializers.ChoiceField(StaleEpochPolicy.choices, required=False)
    max_staleness_seconds = Whole(required=False, allow_null=True, min_value=1, max_value=2**31 - 1)


class ProjectRow(serializers.Serializer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    type = serializers.CharField()
    environment = serializers.CharField(help_text="as the client sent it")
    default_environment = serializers.CharField(help_text="slug of the environment that is meant when none is named")
    organization_id = serializers.UUIDField()
    storage = serializers.CharField()
    conflict_strategy = serializers.CharField()
    production_conflict_strategy = serializers.CharField(help_text="always manual_resolution: in production a person decides")
    stale_epoch_policy = serializers.CharField()
    max_staleness_seconds = serializers.IntegerField(allow_null=True)
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class SettingsWish(serializers.Serializer):
    retention_days = Whole(required=False, min_value=0, max_value=36_500)
    notification_webhooks = Texts(required=False, allow_null=True, child=Name(max_length=2000))
    slack_channel = Words(required=False, max_length=200)
    tags = Texts(required=False, allow_null=True)
    owner_email = Words(required=False, max_length=254)
    sync_enabled = Flag(required=False, allow_null=True)
    sync_interval_minutes = Whole(required=False, allow_null=True, min_value=0, max_value=1_000_000)


class SettingsRow(serializers.Serializer):
    project_id = serializers.UUIDField()
    retention_days = serializers.IntegerField()
    notification_webhooks = serializers.ListField(child=serializers.CharField(), allow_null=True)
    slack_channel = serializers.CharField()
    tags = serializers.ListField(child=serializers.CharField(), allow_null=True)
    owner_email = serializers.CharField()
    sync_enabled = serializers.BooleanField(allow_null=True)
    sync_interval_minutes = serializers.IntegerField(allow_null=True)
    not_in_force = serializers.ListField(child=serializers.CharField(), help_text="settings without effect, and why")


class TemplateWish(serializers.Serializer):
    name = Name()
    description = Words(required=False)
    format = Words(required=False, max_length=64)
    template = Words(max_length=65_536)
    variables = Settings(required=False)


class TemplateRow(serializers.Serializer):
    id = serializers.UUIDField()
    organization_id = serializers.UUIDField()
    name = serializers.CharField()
    description = serializers.CharField()
    format = serializers.CharField()
    template = serializers.CharField()
    variables = serializers.DictField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class Organizations(Signed):
    """Make an organization, or list those you may see."""

    permissions = {"POST": SETTINGS_WRITE, "GET": PROJECTS_READ}

    @described(operation_id="createOrganization", request=OrganizationWish, responses={201: OrganizationRow})
    def post(self, request: Request) -> Response:
        wish = checked(OrganizationWish, request.data)
        return Response(organization_row(organizations.create(wish["name"], self.by)), status=201)

    @described(operation_id="listOrganizations", responses=OrganizationRow(many=True))
    def get(self, request: Request) -> Response:
        rows = visible_organizations(self.by.principal).order_by("created_at", "id")
        return Response([organization_row(row) for row in rows])


class OrganizationOne(Signed):
    """One organization."""

    permissions = {"GET": PROJECTS_READ, "PUT": SETTINGS_WRITE, "DELETE": SETTINGS_WRITE}

    @described(operation_id="getOrganization", responses=OrganizationRow)
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        return Response(organization_row(organization_seen(self.by.principal, identifier)))

    @described(operation_id="renameOrganization", request=OrganizationWish, responses=OrganizationRow)
    def put(self, request: Request, identifier: uuid.UUID) -> Response:
        wish = checked(OrganizationWish, request.data)
        return Response(organization_row(organizations.rename(identifier, wish["name"], self.by)))

    @described(operation_id="deleteOrganization", responses={204: None})
    def delete(self, request: Request, identifier: uuid.UUID) -> Response:
        organizations.delete(identifier, self.by, now())
        return Response(status=204)


class Environments(Signed):
    """Add an environment to an organization, or list its environments."""

    permissions = {"POST": SETTINGS_WRITE, "GET": PROJECTS_READ}

    @described(operation_id="createEnvironment", request=EnvironmentWish, responses={201: EnvironmentRow})
    def post(self, request: Request, organization: uuid.UUID) -> Response:
        wish = checked(EnvironmentWish, request.data)
        return Response(environment_row(environments.create(organization, wish, self.by)), status=201)

    @described(operation_id="listEnvironments", responses=EnvironmentRow(many=True))
    def get(self, request: Request, organization: uuid.UUID) -> Response:
        seen = organization_seen(self.by.principal, organization)
        rows = Environment.objects.filter(organization=seen, deleted_at=None).order_by("created_at", "slug")
        return Response([environment_row(row) for row in rows])


class EnvironmentOne(Signed):
    """One environment of an organization."""

    permissions = {"PATCH": SETTINGS_WRITE, "DELETE": SETTINGS_WRITE}

    @described(operation_id="changeEnvironment", request=EnvironmentChange, responses=EnvironmentRow)
    def patch(self, request: Request, organization: uuid.UUID, identifier: uuid.UUID) -> Response:
        wish = checked(EnvironmentChange, request.data)
        return Response(environment_row(environments.change(organization, identifier, wish, self.by)))

    @described(operation_id="deleteEnvironment", responses={204: None})
    def delete(self, request: Request, organization: uuid.UUID, identifier: uuid.UUID) -> Response:
        environments.delete(organization, identifier, self.by, now())
        return Response(status=204)


class Projects(Signed):
    """Make a project, or list those you may see. Without `organization_id`: in your only organization or the default one."""

    permissions = {"POST": PROJECTS_WRITE, "GET": PROJECTS_READ}

    @described(operation_id="createProject", request=ProjectWish, responses={201: ProjectRow})
    def post(self, request: Request) -> Response:
        return Response(project_row(projects.create(checked(ProjectWish, request.data), self.by)), status=201)

    @described(operation_id="listProjects", parameters=PAGE, responses=ProjectRow(many=True))
    def get(self, request: Request) -> Response:
        rows = visible_projects(self.by.principal).order_by("created_at", "id")
        return Response([project_row(row) for row in page_if_asked(rows, request)])


class ProjectOne(Signed):
    """One project."""

    permissions = {"GET": PROJECTS_READ, "PUT": PROJECTS_WRITE, "DELETE": PROJECTS_WRITE}

    @described(operation_id="getProject", responses=ProjectRow)
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        return Response(project_row(project_seen(self.by.principal, identifier)))

    @described(operation_id="replaceProject", request=ProjectWish, responses=ProjectRow)
    def put(self, request: Request, identifier: uuid.UUID) -> Response:
        wish = checked(ProjectWish, request.data)
        return Response(project_row(projects.replace(identifier, wish, self.by)))

    @described(operation_id="deleteProject", responses={204: None})
    def delete(self, request: Request, identifier: uuid.UUID) -> Response:
        projects.delete(identifier, self.by, now())
        return Response(status=204)


class ProjectSettings(Signed):
    """The settings of a project; PUT replaces all of them."""

    permissions = {"GET": PROJECTS_READ, "PUT": PROJECTS_WRITE}

    @described(operation_id="getProjectSettings", responses=SettingsRow)
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        return Response(projects.settings_of(project_seen(self.by.principal, identifier), self.by.principal))

    @described(operation_id="setProjectSettings", request=SettingsWish, responses=SettingsRow)
    def put(self, request: Request, identifier: uuid.UUID) -> Response:
        wish = checked(SettingsWish, request.data)
        return Response(projects.settings_of(projects.set_settings(identifier, wish, self.by), self.by.principal))


class Templates(Signed):
    """Add a config template to an organization, or list its templates."""

    permissions = {"POST": SETTINGS_WRITE, "GET": PROJECTS_READ}

    @described(operation_id="createConfigTemplate", request=TemplateWish, responses={201: TemplateRow})
    def post(self, request: Request, organization: uuid.UUID) -> Response:
        wish = checked(TemplateWish, request.data)
        return Response(template_row(config_templates.create(organization, wish, self.by)), status=201)

    @described(operation_id="listConfigTemplates", responses=TemplateRow(many=True))
    def get(self, request: Request, organization: uuid.UUID) -> Response:
        seen = organization_seen(self.by.principal, organization)
        return Response([template_row(row) for row in seen.config_templates.order_by("created_at", "id")])


class TemplateOne(Signed):
    """One config template of an organization."""

    permissions = {"PUT": SETTINGS_WRITE, "DELETE": SETTINGS_WRITE}

    @described(operation_id="replaceConfigTemplate", request=TemplateWish, responses=TemplateRow)
    def put(self, request: Request, organization: uuid.UUID, identifier: uuid.UUID) -> Response:
        wish = checked(TemplateWish, request.data)
        return Response(template_row(config_templates.replace(organization, identifier, wish, self.by)))

    @described(operation_id="deleteConfigTemplate", responses={204: None})
    def delete(self, request: Request, organization: uuid.UUID, identifier: uuid.UUID) -> Response:
        config_templates.delete(organization, identifier, self.by)
        return Response(status=204)


def organization_row(organization: Organization) -> dict[str, Any]:
    return {"id": str(organization.id), "name": organization.name, **times(organization)}


def environment_row(environment: Environment) -> dict[str, Any]:
    return {
        "id": str(environment.id),
        "organization_id": str(environment.organization_id),
        "name": environment.name,
        "slug": environment.slug,
        "is_production": environment.is_production,
        "incident_auto_escalation": environment.incident_auto_escalation,
        "gateway_environment": environment.gateway_environment,
        "not_in_force": idle.not_in_force(vars(environment), idle.OF_AN_ENVIRONMENT),
        **times(environment),
    }


def project_row(project: Project) -> dict[str, Any]:
    return {
        "id": str(project.id),
        "name": project.name,
        "type": project.type,
        "environment": project.environment,
        "default_environment": project.default_environment,
        "organization_id": str(project.organization_id),
        "storage": project.storage,
        "conflict_strategy": project.conflict_strategy,
        "production_conflict_strategy": ConflictStrategy.MANUAL_RESOLUTION.value,
        "stale_epoch_policy": project.stale_epoch_policy,
        "max_staleness_seconds": project.max_staleness_seconds,
        **times(project),
    }


def template_row(template: ConfigTemplate) -> dict[str, Any]:
    return {
        "id": str(template.id),
        "organization_id": str(template.organization_id),
        "name": template.name,
        "description": template.description,
        "format": template.format,
        "template": template.template,
        "variables": template.variables,
        **times(template),
    }


def times(row: Any) -> dict[str, Any]:
    """Both times of a row, as every answer about it repeats them."""
    return {"created_at": rfc3339(row.created_at), "updated_at": rfc3339(row.updated_at)}
