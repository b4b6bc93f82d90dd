"""`mazevault naming`: what Azure resources are to be called, and what is wrong with a name. Needs no server."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from integrations.azure_names import ResourceType
from integrations.naming import Named, Values, check_name, preview
from integrations.naming_export import terraform_convention
from integrations.naming_patterns import Problem, Template, TemplateInvalid, parse_template
from integrations.naming_report import REGIONS, ZONES, everything, name_row, problem_row, problems_of_all

app = typer.Typer(no_args_is_help=True, help="Names of Azure resources: preview and check; needs no server.")

Company = Annotated[str, typer.Option(help="the company's code, such as crd")]
Project = Annotated[str, typer.Option(help="the project's code, such as mzv")]
TemplateFile = Annotated[Path | None, typer.Option("--template", help="a JSON file of resource types and patterns")]
Output = Annotated[str, typer.Option("--output", "-o", help="table or json")]
Number = Annotated[int, typer.Option(min=1, max=9999)]


@app.command("preview")
def show_preview(
    company: Company,
    project: Project,
    environment: Annotated[str, typer.Option(help="PRO, DEV and so on")],
    region: Annotated[str, typer.Option(help="the region's code, such as gwc")],
    zone: Annotated[str, typer.Option(help="the network zone, such as int or dmz")] = "int",
    number: Number = 1,
    non_production: Annotated[bool | None, typer.Option("--non-production/--production")] = None,
    template: TemplateFile = None,
    output: Output = "table",
) -> None:
    """Show the name of every resource of one environment. Exit status 1 when one cannot be used."""
    _require_known(output)
    names = preview(_template(template), Values(company, environment, zone, project, region, number, non_production))
    if output == "json":
        typer.echo(json.dumps([name_row(named) for named in names], indent=2))
    else:
        _print_table(names)
    raise typer.Exit(0 if all(named.usable for named in names) else 1)


@app.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(help="names to check; without any, the whole convention is")] = None,
    resource: Annotated[ResourceType | None, typer.Option("--type", help="what the given names are names of")] = None,
    company: Company = "crd",
    project: Project = "mzv",
    zone: Annotated[list[str] | None, typer.Option(help="may be repeated; int and dmz when left out")] = None,
    region: Annotated[list[str] | None, typer.Option(help="may be repeated; gwc and we when left out")] = None,
    template: TemplateFile = None,
    output: Output = "table",
) -> None:
    """Check given names, or a template over all environments, zones and regions. Exit status 1 on a fault."""
    _require_known(output)
    if names:
        problems, counted = _of_given(names, resource), len(names)
    else:
        made = everything(_template(template), company, project, zone or ZONES, region or REGIONS)
        problems, counted = problems_of_all(made), len(made)
    if output == "json":
        typer.echo(json.dumps({"names": counted, "problems": [problem_row(problem) for problem in problems]}, indent=2))
    else:
        _print_problems(problems, counted)
    raise typer.Exit(1 if problems else 0)


@app.command()
def export(template: TemplateFile = None) -> None:
    """Print the convention for the Terraform module (its `convention_file`)."""
    typer.echo(terraform_convention(_template(template)), nl=False)


def _of_given(names: list[str], resource: ResourceType | None) -> list[Problem]:
    if resource is None:
        _fail(f"--type: say what the names are names of: {', '.join(ResourceType)}")
    return list(chain.from_iterable(check_name(resource, name) for name in names))


def _template(path: Path | None) -> Template:
    if path is None:
        return Template.default()
    try:
        return parse_template(path.read_text(encoding="utf-8"))
    except TemplateInvalid as invalid:
        _fail("\n".join(map(str, invalid.problems)))
    except (OSError, UnicodeDecodeError) as error:
        _fail(f"--template: {path} cannot be read: {error}")


def _print_table(names: Iterable[Named]) -> None:
    rows = [(named.resource.value, named.name or "-", "; ".join(map(str, named.problems)) or "ok") for named in names]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for kind, name, verdict in rows:
        typer.echo(f"{kind:<{widths[0]}}  {name:<{widths[1]}}  {verdict}")


def _print_problems(problems: list[Problem], counted: int) -> None:
    for problem in problems:
        typer.echo(str(problem))
    typer.echo(f"naming: {counted} names checked, {len(problems)} problems")


def _require_known(output: str) -> None:
    if output not in ("table", "json"):
        _fail("--output: must be table or json")


def _fail(sentence: str) -> NoReturn:
    typer.echo(f"error: {sentence}", err=True)
    raise typer.Exit(1)
