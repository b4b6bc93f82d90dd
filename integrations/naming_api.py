"""People's API of the naming convention: what an organization's Azure resources are to be called."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from itertools import chain
from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.fields import Words
from accounts.models import ConfigTemplate, Organization
from accounts.operations import Signed
from accounts.roles import PROJECTS_READ
from accounts.scoping import absent, organization_for
from common.api import checked
from common.described import described
from common.errors import ValidationFailed
from integrations.azure_names import ResourceType
from integrations.naming import Values, check_name, preview
from integrations.naming_patterns import Template, TemplateInvalid, parse_template
from integrations.naming_report import REGIONS, ZONES, everything, name_row, problem_row, problems_of_all

FORMAT = "naming-convention"
"""Format of the config template that holds an organization's convention."""
MOST_NAMES, MOST_PLACES = 1000, 20
"""Names given, and zones times regions: each place has a name for every type in every environment."""


class Chosen(serializers.Serializer):
    template_id = serializers.UUIDField(
        required=False, allow_null=True,
        help_text=f"a config template; else the organization's newest one of the format {FORMAT}, else the defaults",
    )  # fmt: skip


class NamingWish(Chosen):
    company = Words(max_length=20)
    project = Words(max_length=20)
    environment = Words(max_length=20, help_text="PRO, DEV and so on")
    region = Words(max_length=20)
    zone = Words(required=False, max_length=20)
    number = serializers.IntegerField(required=False, min_value=1, max_value=9999, default=1)
    non_production = serializers.BooleanField(required=False, allow_null=True, default=None)


class NameProblemRow(serializers.Serializer):
    field = serializers.CharField()
    code = serializers.CharField()
    problem = serializers.CharField()


class NameRow(serializers.Serializer):
    type = serializers.CharField()
    name = serializers.CharField(help_text="empty when it cannot be made")
    problems = NameProblemRow(many=True)


class NamesCheck(Chosen):
    type = serializers.ChoiceField([kind.value for kind in ResourceType], required=False, help_text="what `names` are names of")
    names = serializers.ListField(child=Words(max_length=300), required=False, max_length=MOST_NAMES)
    company = Words(required=False, max_length=20)
    project = Words(required=False, max_length=20)
    zones = serializers.ListField(child=Words(max_length=20), required=False, max_length=MOST_PLACES)
    regions = serializers.ListField(child=Words(max_length=20), required=False, max_length=MOST_PLACES)


class NamesChecked(serializers.Serializer):
    names = serializers.IntegerField(help_text="how many were checked")
    problems = NameProblemRow(many=True)


class NamingPreview(Signed):
    """The name of every Azure resource of one environment, by the organization's convention."""

    only_asks = True
    permissions = {"POST": PROJECTS_READ}

    @described(operation_id="previewNames", request=NamingWish, responses=NameRow(many=True))
    def post(self, request: Request, organization: uuid.UUID) -> Response:
        wish = checked(NamingWish, request.data)
        template = _template(organization_for(self.by.principal, organization, PROJECTS_READ), wish)
        values = Values(wish["company"], wish["environment"], wish.get("zone") or ZONES[0], wish["project"], wish["region"],
                        wish["number"], wish["non_production"])  # fmt: skip
        return Response([name_row(named) for named in preview(template, values)])


class NamingCheck(Signed):
    """Check given names, or the whole convention over all environments, zones and regions."""

    only_asks = True
    permissions = {"POST": PROJECTS_READ}

    @described(operation_id="checkNames", request=NamesCheck, responses=NamesChecked)
    def post(self, request: Request, organization: uuid.UUID) -> Response:
        wish = checked(NamesCheck, request.data)
        template = _template(organization_for(self.by.principal, organization, PROJECTS_READ), wish)
        names = wish.get("names") or []
        if names and "type" not in wish:
            raise ValidationFailed(f"type: say what the names are names of: {', '.join(ResourceType)}")
        if names:
            kind = ResourceType(wish["type"])
            found, counted = list(chain.from_iterable(check_name(kind, name) for name in names)), len(names)
        else:
            places = wish.get("zones") or ZONES, wish.get("regions") or REGIONS
            if len(places[0]) * len(places[1]) > MOST_PLACES:
                raise ValidationFailed(f"zones: zones times regions may be at most {MOST_PLACES}; ask for fewer at a time")
            made = everything(template, wish.get("company") or "crd", wish.get("project") or "mzv", *places)
            found, counted = problems_of_all(made), len(made)
        return Response({"names": counted, "problems": [problem_row(problem) for problem in found]})


def _template(organization: Organization, wish: Mapping[str, Any]) -> Template:
    """Raises `NotFound`, or `ValidationFailed` with the first fault of a template that is none."""
    rows = ConfigTemplate.objects.filter(organization=organization)
    if wish.get("template_id"):
        found = rows.filter(id=wish["template_id"]).first()
        if found is None:
            raise absent("config template")
    else:
        found = rows.filter(format=FORMAT).order_by("-created_at").first()
    if found is None:
        return Template.default()
    try:
        return parse_template(found.template)
    except TemplateInvalid as invalid:
        raise ValidationFailed(f"template {found.name!r}: {invalid.problems[0]}") from None
