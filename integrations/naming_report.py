"""What the command line and the API say of names: rows of a preview, and the check of a whole convention. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

from integrations.naming import Named, Values, collisions, preview
from integrations.naming_patterns import NON_PRODUCTION, PRODUCTION, Problem, Template

ZONES, REGIONS = ("int", "dmz"), ("gwc", "we")
"""The network zones and regions a convention is checked over when none are named."""


def everything(template: Template, company: str, project: str, zones: Iterable[str], regions: Iterable[str]) -> list[Named]:
    """Every name of the convention: all environments in all zones and regions."""
    places = product((*PRODUCTION, *NON_PRODUCTION), zones, regions)
    each = (Values(company, environment, zone, project, region) for environment, zone, region in places)
    return [named for values in each for named in preview(template, values)]


def problems_of_all(names: list[Named]) -> list[Problem]:
    """What is wrong with single names, each once, and which names would be taken for the same one."""
    single = dict.fromkeys(problem for named in names for problem in named.problems)
    return [*single, *collisions(names)]


def name_row(named: Named) -> dict[str, object]:
    return {"type": named.resource.value, "name": named.name, "problems": [problem_row(problem) for problem in named.problems]}


def problem_row(problem: Problem) -> dict[str, str]:
    return {"field": problem.field, "code": problem.code.value, "problem": problem.text}
