"""The state diagram of the docs, printed from the table so that it cannot drift from the code."""

from __future__ import annotations

from failover.machine import TABLE, Event, State

BEGIN, END = "<!-- failover-diagram: begin -->", "<!-- failover-diagram: end -->"


def mermaid() -> str:
    """The machine as a Mermaid state diagram. HOLD's many entries are drawn as one note."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> UNASSIGNED"]
    lines += [
        f"    {move.state.value} --> {move.to.value}: {move.event.value}" for move in TABLE if move.event is not Event.DANGER
    ]
    lines += [f"    note right of {State.HOLD.value}: any state comes here on danger", "```"]
    return "\n".join(lines)


def table() -> str:
    """The same moves as a Markdown table with the sentence of each row."""
    rows = ["| from | event | to | what the operator reads |", "|---|---|---|---|"]
    rows += [
        f"| {move.state.value} | {move.event.value} | {move.to.value} | {move.sentence} |"
        for move in TABLE
        if move.event is not Event.DANGER
    ]
    return "\n".join(rows)


def placed_in(document: str) -> str:
    """The document with the part between the markers replaced. Raises `ValueError` when a marker is missing."""
    before, rest = document.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    return f"{before}{BEGIN}\n{mermaid()}\n\n{table()}\n{END}{after}"
