"""The naming convention as the Terraform module reads it, so that both make the same names. Pure."""

from __future__ import annotations

import json

from integrations.azure_names import REFUSED_ANYWHERE, REFUSED_AS_WHOLE, REFUSED_AT_START, RULES, ResourceType
from integrations.naming_patterns import NON_PRODUCTION, PRODUCTION, Part, Pattern, Slot, Template


def terraform_convention(template: Template) -> str:
    """JSON with both patterns and Azure's rule of each resource type. The placeholders are the long ones, {type} is written out,
    and a number says its digits: {nn}."""
    resources = {resource.value: _resource(template, resource) for resource in ResourceType}
    refused = {"anywhere": REFUSED_ANYWHERE, "at_start": REFUSED_AT_START, "as_whole": sorted(REFUSED_AS_WHOLE)}
    families = {"production": PRODUCTION, "non_production": NON_PRODUCTION}
    return json.dumps({"families": families, "refused": refused, "resources": resources}, indent=2) + "\n"


def _resource(template: Template, resource: ResourceType) -> dict[str, object]:
    patterns, rule = template.patterns[resource], RULES[resource]
    return {
        "production": _text(patterns.production, resource),
        "non_production": _text(patterns.non_production, resource),
        "shortest": rule.shortest,
        "longest": rule.longest,
        "allowed": f"^[{rule.allowed}]*$",
        "start": f"^[{rule.start or rule.allowed}]",
        "end": f"[{rule.end or rule.allowed}]$",
        "double_hyphen": rule.double_hyphen,
        "has_endpoint": rule.has_endpoint,
    }


def _text(pattern: Pattern, resource: ResourceType) -> str:
    return "".join(piece if isinstance(piece, str) else _placeholder(piece, resource) for piece in pattern)


def _placeholder(slot: Slot, resource: ResourceType) -> str:
    if slot.part is Part.TYPE:
        return RULES[resource].code.upper() if slot.capitals else RULES[resource].code
    if slot.part is Part.NUMBER:
        return "{" + "n" * slot.width + "}"
    return "{" + (slot.part.value.upper() if slot.capitals else slot.part.value) + "}"
