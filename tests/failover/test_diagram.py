"""The diagram of the docs is the table of the machine, row for row, so it cannot tell another story."""

from __future__ import annotations

import pytest

from failover.diagram import BEGIN, END, mermaid, placed_in, table
from failover.machine import TABLE, Event, Move, State

DRAWN = [move for move in TABLE if move.event is not Event.DANGER]
EVERY_DRAWN_ROW = pytest.mark.parametrize("move", DRAWN, ids=lambda move: f"{move.state.value}-{move.event.value}")


class TestMermaid:
    @EVERY_DRAWN_ROW
    def test_draws_every_row_once(self, move: Move) -> None:
        assert mermaid().splitlines().count(f"    {move.state.value} --> {move.to.value}: {move.event.value}") == 1

    def test_draws_no_arrow_that_is_not_in_the_table(self) -> None:
        arrows = [line for line in mermaid().splitlines() if " --> " in line]
        assert len(arrows) == len(DRAWN) + 1
        assert arrows[0] == f"    [*] --> {State.UNASSIGNED.value}"

    def test_says_the_danger_rows_in_one_note(self) -> None:
        assert "    note right of HOLD: any state comes here on danger" in mermaid().splitlines()
        assert {move.state for move in TABLE if move.event is Event.DANGER} == set(State) - {State.HOLD}

    def test_is_one_closed_block(self) -> None:
        lines = mermaid().splitlines()
        assert (lines[0], lines[1], lines[-1]) == ("```mermaid", "stateDiagram-v2", "```")
        assert sum(line.startswith("```") for line in lines) == 2


class TestTable:
    @EVERY_DRAWN_ROW
    def test_prints_every_row_with_its_sentence(self, move: Move) -> None:
        assert f"| {move.state.value} | {move.event.value} | {move.to.value} | {move.sentence} |" in table().splitlines()

    def test_prints_nothing_else_and_keeps_its_columns(self) -> None:
        lines = table().splitlines()
        assert len(lines) == len(DRAWN) + 2
        assert {line.count("|") for line in lines} == {5}


class TestDocument:
    DOCUMENT = f"# Before\n{BEGIN}\nold\n{END}\n# After\n"

    def test_only_the_part_between_the_markers_changes(self) -> None:
        written = placed_in(self.DOCUMENT)
        assert written == f"# Before\n{BEGIN}\n{mermaid()}\n\n{table()}\n{END}\n# After\n"

    def test_writing_it_again_changes_nothing(self) -> None:
        assert placed_in(placed_in(self.DOCUMENT)) == placed_in(self.DOCUMENT)

    @pytest.mark.parametrize("document", ["", f"{BEGIN}\n", f"{END}\n", f"{END}\n{BEGIN}\n"])
    def test_a_document_without_both_markers_is_not_written(self, document: str) -> None:
        with pytest.raises(ValueError):
            placed_in(document)
