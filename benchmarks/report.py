"""The figures for people: a table and a chart for docs/performance.md, made from the JSON of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10
from pathlib import Path
from typing import Any

from benchmarks.goals import Outcome, outcomes

ROOT = Path(__file__).resolve().parents[1]
PAGE, CHART = ROOT / "docs/performance.md", ROOT / "docs/performance.svg"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
WIDTH, LEFT, ROW, BAR = 860, 330, 34, 14
LOWEST, HIGHEST = 0.01, 100.0
"""Ratios at the ends of the chart, whose scale is logarithmic."""


def write(run: Mapping[str, Any]) -> None:
    """Put table and chart of this run into the documentation."""
    found = outcomes(run["results"])
    page = PAGE.read_text()
    head, rest = page.split(BEGIN)
    tail = rest.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}\n{_page(run, found)}\n{END}{tail}")
    CHART.write_text(chart(found))


def _page(run: Mapping[str, Any], found: Sequence[Outcome]) -> str:
    machine = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in run["machine"].items())
    return f"Measured {run['at']}; {machine}.\n\n{table(found)}\n\n![Ratios to peers and limits](performance.svg)"


def table(found: Sequence[Outcome]) -> str:
    """Markdown; rates are operations a second."""
    lines = ["| operation | here | beside | there | ratio | must | moonshot | |", "|---|---:|---|---:|---:|---:|---:|---|"]
    for one in found:
        ratio = f"{one.ratio:.2f}" if one.ratio is not None else ""
        lines.append(
            f"| {one.goal.title} | {_rate(one.ours)} | {one.goal.other_title} | {_rate(one.other)} | {ratio} "
            f"| {one.goal.must:g} | {one.goal.moonshot:g} | {one.verdict} |"
        )
    return "\n".join(lines)


def _rate(value: float | None) -> str:
    return "not measured" if value is None else f"{value:,.0f}"


def chart(found: Sequence[Outcome]) -> str:
    """An SVG that reads in light and in dark: a bar for each ratio, marks for what must be and what would be best."""
    height = ROW * len(found) + 46
    rows = "\n".join(_row(one, 40 + ROW * number) for number, one in enumerate(found))
    title = 'role="img" aria-label="Ratios to peers and limits"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {title}>
<style>
  text {{ font: 13px system-ui, sans-serif; fill: #24292f }} .small {{ font-size: 11px; fill: #57606a }}
  .bar {{ fill: #0969da }} .below {{ fill: #bc4c00 }} .must {{ stroke: #24292f; stroke-width: 2 }}
  .moonshot {{ stroke: #8250df; stroke-width: 2; stroke-dasharray: 3 2 }} .grid {{ stroke: #d0d7de }}
  @media (prefers-color-scheme: dark) {{
    text {{ fill: #e6edf3 }} .small {{ fill: #8d96a0 }} .bar {{ fill: #4493f8 }} .below {{ fill: #f0883e }}
    .must {{ stroke: #e6edf3 }} .moonshot {{ stroke: #ab7df8 }} .grid {{ stroke: #3d444d }}
  }}
</style>
{_grid(height)}
{rows}
</svg>
"""


def _grid(height: int) -> str:
    steps = (0.01, 0.1, 1.0, 10.0, 100.0)
    lines = (f'<line class="grid" x1="{_x(one):.0f}" y1="26" x2="{_x(one):.0f}" y2="{height - 6}"/>' for one in steps)
    names = (f'<text class="small" x="{_x(one):.0f}" y="18" text-anchor="middle">{one:g}</text>' for one in steps)
    return "\n".join([*lines, *names])


def _row(one: Outcome, y: int) -> str:
    label = f'<text x="8" y="{y + 12}">{one.goal.title}</text>'
    marks = (
        f'<line class="{name}" x1="{_x(value):.0f}" y1="{y - 3}" x2="{_x(value):.0f}" y2="{y + BAR + 3}"/>'
        for name, value in (("must", one.goal.must), ("moonshot", one.goal.moonshot))
    )
    if one.ratio is None:
        return "\n".join([label, *marks, f'<text class="small" x="{LEFT}" y="{y + 12}">not measured</text>'])
    kind = "bar" if one.ratio >= one.goal.must else "below"
    bar = f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{max(2.0, _x(one.ratio) - LEFT):.0f}" height="{BAR}" rx="2"/>'
    value = f'<text class="small" x="{_x(one.ratio) + 6:.0f}" y="{y + 12}">{one.ratio:.2f}</text>'
    return "\n".join([label, bar, *marks, value])


def _x(ratio: float) -> float:
    inside = min(HIGHEST, max(LOWEST, ratio))
    return LEFT + (WIDTH - LEFT - 40) * (log10(inside) - log10(LOWEST)) / (log10(HIGHEST) - log10(LOWEST))
