"""Names of Azure resources by the organization's naming convention: made, previewed, checked and read back. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from integrations.azure_names import RULES, ResourceType, Uniqueness, problems_of
from integrations.naming_patterns import (
    GIVEN_PARTS,
    NON_PRODUCTION,
    PRODUCTION,
    Code,
    Part,
    Pattern,
    Problem,
    Slot,
    Template,
)

MOST_STEPS = 20_000
"""Ways to cut a name that are tried when it is read back; a pattern that needs more is hopelessly ambiguous."""
MOST_TOLD = 10
"""Things with one name that are told of; the others are counted."""


@dataclass(frozen=True)
class Values:
    """What the placeholders stand for. `non_production` may be left out for the environments whose family is known."""

    company: str = ""
    environment: str = ""
    zone: str = ""
    project: str = ""
    region: str = ""
    number: int = 1
    non_production: bool | None = None

    def get(self, part: Part) -> str:
        return str(getattr(self, part.value)).lower()


@dataclass(frozen=True)
class Named:
    """A name and everything that is wrong with it. `place` is where it must be unique."""

    resource: ResourceType
    name: str
    values: Values
    place: str = ""
    problems: tuple[Problem, ...] = field(default=())

    @property
    def usable(self) -> bool:
        return not self.problems


def name_for(template: Template, resource: ResourceType, values: Values) -> Named:
    """The name of one resource. A name that cannot be made is empty; what stands in the way is in `problems`."""
    problems = [*_value_problems(values)]
    non_production, family = _family(values)
    problems.extend(family)
    pattern = template.patterns[resource].of(non_production)
    problems.extend(_missing(pattern, values))
    problems.extend(_number_problems(pattern, values.number))
    if problems:
        return Named(resource, "", values, problems=tuple(problems))
    name = "".join(_filled(piece, resource, values) for piece in pattern)
    found = tuple(Problem(resource.value, code, f"{name!r} {text}") for code, text in problems_of(resource, name))
    return Named(resource, name, values, _place(template, resource, values), found)


def preview(template: Template, values: Values) -> tuple[Named, ...]:
    """The name of every resource of one environment, in the order of the types."""
    return tuple(name_for(template, resource, values) for resource in ResourceType)


def check_name(resource: ResourceType, name: str) -> tuple[Problem, ...]:
    """What Azure would not accept about a name that somebody chose."""
    return tuple(Problem(resource.value, code, f"{name!r} {text}") for code, text in problems_of(resource, name))


def collisions(names: Iterable[Named]) -> tuple[Problem, ...]:
    """Names that Azure would take for the same one although they stand for different things."""
    seen: dict[tuple[str, str, str], dict[Named, None]] = defaultdict(dict)
    for named in map(_one_thing, names):
        if named.name:
            seen[_identity(named)][named] = None
    return tuple(
        Problem(next(iter(same)).resource.value, Code.COLLISION, _collision_text(list(same)))
        for _, same in sorted(seen.items(), key=lambda item: item[0])
        if len(same) > 1
    )


def parse_name(
    template: Template, resource: ResourceType, name: str, known: Mapping[Part, Collection[str]] | None = None
) -> tuple[Values, ...]:
    """Every reading of a name; exactly one means that it is unambiguous, none that it is not of this convention.

    `known` says which values a part can have (all zones, all regions); patterns without separators need it.
    """
    readings: list[Values] = []
    if len(name) > RULES[resource].longest:
        return ()
    patterns = template.patterns[resource]
    for non_production, family in ((False, PRODUCTION), (True, NON_PRODUCTION)):
        allowed = {Part.ENVIRONMENT: family, **{part: tuple(values) for part, values in (known or {}).items()}}
        for parts in _readings(patterns.of(non_production), resource, name, allowed):
            values = _values(parts, non_production)
            if values not in readings and name_for(template, resource, values).name == name:
                readings.append(values)
    return tuple(readings)


def _value_problems(values: Values) -> Iterator[Problem]:
    for part in GIVEN_PARTS:
        value = values.get(part)
        if value and not re.fullmatch("[a-z0-9]+", value):
            yield Problem(
                part.value, Code.BAD_VALUE, f"{value!r} may have letters and digits only; separators belong to the pattern"
            )


def _family(values: Values) -> tuple[bool, list[Problem]]:
    """Whether the environment is a non-production one."""
    environment, said = values.get(Part.ENVIRONMENT), values.non_production
    known = environment in PRODUCTION or environment in NON_PRODUCTION
    if not known:
        if said is not None or not environment:
            return bool(said), []
        listed = ", ".join((*PRODUCTION, *NON_PRODUCTION)).upper()
        text = f"{environment!r} is none of {listed}; for another one say whether it is a non-production one"
        return False, [Problem("environment", Code.UNKNOWN_ENVIRONMENT, text)]
    is_non_production = environment in NON_PRODUCTION
    if said is not None and said != is_non_production:
        family = "non-production" if is_non_production else "production"
        text = f"{environment!r} is a {family} environment; leave the flag out"
        return is_non_production, [Problem("non_production", Code.WRONG_FAMILY, text)]
    return is_non_production, []


def _missing(pattern: Pattern, values: Values) -> Iterator[Problem]:
    wanted = {piece.part for piece in pattern if isinstance(piece, Slot)}
    for part in GIVEN_PARTS:
        if part in wanted and not values.get(part):
            yield Problem(part.value, Code.MISSING_VALUE, "is used by the pattern and has no value; give one")


def _number_problems(pattern: Pattern, number: int) -> Iterator[Problem]:
    if number < 1:
        yield Problem("number", Code.BAD_VALUE, f"{number} must be 1 or more")
        return
    widths = [piece.width for piece in pattern if isinstance(piece, Slot) and piece.part is Part.NUMBER]
    digits = len(str(number))
    if widths and digits > min(widths):
        text = f"{number} has {digits} digits and the pattern has room for {min(widths)}; write {{{'n' * digits}}}"
        yield Problem("number", Code.NUMBER_WIDTH, text)


def _filled(piece: str | Slot, resource: ResourceType, values: Values) -> str:
    if isinstance(piece, str):
        return piece
    if piece.part is Part.NUMBER:
        return f"{values.number:0{piece.width}d}"
    text = RULES[resource].code if piece.part is Part.TYPE else values.get(piece.part)
    return text.upper() if piece.capitals else text


def _place(template: Template, resource: ResourceType, values: Values) -> str:
    if RULES[resource].uniqueness is not Uniqueness.RESOURCE_GROUP:
        return ""
    return name_for(template, ResourceType.RESOURCE_GROUP, values).name.lower()


def _identity(named: Named) -> tuple[str, str, str]:
    return named.resource.value, named.place, named.name.lower()


def _one_thing(named: Named) -> Named:
    """What serves all regions is the same thing in each of them."""
    return named if RULES[named.resource].regional else replace(named, values=replace(named.values, region=""))


def _collision_text(same: list[Named]) -> str:
    differing = [part for part in (*GIVEN_PARTS, Part.NUMBER) if len({named.values.get(part) for named in same}) > 1]
    said = " and ".join(_described(named.values, differing) for named in same[:MOST_TOLD])
    if len(same) > MOST_TOLD:
        said += f" and {len(same) - MOST_TOLD} more"
    where = {
        Uniqueness.GLOBAL: "in all of Azure",
        Uniqueness.TENANT: "in the tenant",
        Uniqueness.SUBSCRIPTION: "in the subscription",
        Uniqueness.RESOURCE_GROUP: "in its resource group",
    }[RULES[same[0].resource].uniqueness]
    return f"{same[0].name!r} would be the name for {said}; it must be unique {where}, put what differs into the pattern"


def _described(values: Values, differing: list[Part]) -> str:
    return " ".join(f"{part.value} {values.get(part)}" for part in differing)


def _readings(
    pattern: Pattern, resource: ResourceType, name: str, allowed: Mapping[Part, Collection[str]]
) -> Iterator[dict[Part, str]]:
    """All ways to cut a name into the pieces of the pattern; a part that comes twice must read the same."""
    open_ends: list[tuple[int, int, dict[Part, str]]] = [(0, 0, {})]
    for _ in range(MOST_STEPS):
        if not open_ends:
            return
        index, at, parts = open_ends.pop()
        if index == len(pattern):
            if at == len(name):
                yield parts
            continue
        piece = pattern[index]
        for text in _candidates(piece, resource, name[at:], allowed):
            read = {**parts, piece.part: text.lower()} if isinstance(piece, Slot) and piece.part is not Part.TYPE else parts
            if all(read[part] == value for part, value in parts.items()):
                open_ends.append((index + 1, at + len(text), read))


def _candidates(piece: str | Slot, resource: ResourceType, rest: str, allowed: Mapping[Part, Collection[str]]) -> Iterator[str]:
    """The beginnings of the rest that this piece can stand for."""
    if isinstance(piece, str):
        literals = [piece]
    elif piece.part is Part.TYPE:
        literals = [RULES[resource].code]
    elif piece.part is Part.NUMBER:
        digits = re.match(rf"\d{{{piece.width}}}", rest)
        literals = [digits.group()] if digits else []
    elif piece.part in allowed:
        literals = [value.lower() for value in allowed[piece.part]]
    else:
        run = re.match(r"[a-zA-Z0-9]*", rest)
        literals = [rest[:end] for end in range(1, len(run.group()) + 1)] if run else []
    capitals = isinstance(piece, Slot) and piece.capitals
    return (text for text in (literal.upper() if capitals else literal for literal in literals) if text and rest.startswith(text))


def _values(parts: Mapping[Part, str], non_production: bool) -> Values:
    texts = {part.value: text for part, text in parts.items() if part is not Part.NUMBER}
    values = Values(**texts, number=int(parts.get(Part.NUMBER, "1")))  # type: ignore[arg-type]
    known = values.environment in PRODUCTION or values.environment in NON_PRODUCTION
    return values if known else replace(values, non_production=non_production)
