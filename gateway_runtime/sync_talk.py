"""What a sync run says to the Primary, each message with the run, the claim and the epoch it counts for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway_runtime.frames import TaskFrame
from protocol import paths
from protocol.messages import Acknowledged
from protocol.sync import (
    PAGE,
    AskRows,
    BegunStep,
    EndRun,
    Listing,
    OpenRun,
    PlanPart,
    Progress,
    ProgressAnswer,
    Rows,
    RunAnswer,
    RunEnd,
    RunOrder,
    StepReport,
    SyncNote,
)


@dataclass(frozen=True)
class Talk:
    """The messages of one task's work on a run; each raises what `TaskFrame.ask` raises."""

    frame: TaskFrame
    run: str

    def order(self) -> RunOrder:
        return self.frame.ask(paths.SYNC_OPEN, OpenRun(**self._whose()), RunOrder)

    def rows(self, listing: Listing) -> Iterator[Any]:
        """All rows of a list, page by page."""
        after = ""
        while True:
            page = self.frame.ask(paths.SYNC_ROWS, AskRows(**self._whose(), listing=listing, after=after), Rows)
            yield from page.ours or page.memory or page.words or page.open or page.history
            after = page.next
            if not after:
                return

    def plan(self, **told: Any) -> RunAnswer:
        """One part of a plan."""
        return self.frame.ask(paths.SYNC_PLAN, PlanPart(**self._whose(), **told), RunAnswer)

    def report(self, notes: list[SyncNote], verdict: str, refusals: list[list[str]]) -> None:
        """How both sides stand, with nothing to be done about it, and why a run would be refused."""
        for start in range(0, len(notes), PAGE) or (0,):
            told = {"notes": notes[start : start + PAGE], "refusals": refusals if start == 0 else []}
            self.plan(first=start == 0, verdict=verdict, digest="", setting="", first_run=False, **told)

    def progress(self, ended: list[StepReport], begin: list[BegunStep]) -> ProgressAnswer:
        """How steps ended and which come next. Says nothing when there is nothing to say."""
        if not ended and not begin:
            return ProgressAnswer(True)
        return self.frame.ask(paths.SYNC_PROGRESS, Progress(**self._whose(), ended=ended, begin=begin), ProgressAnswer)

    def alive(self) -> ProgressAnswer:
        """The work goes on although there is nothing to say yet; its claim lasts as long again."""
        return self.frame.ask(paths.SYNC_PROGRESS, Progress(**self._whose()), ProgressAnswer)

    def end(self, end: RunEnd, numbers: Mapping[str, int], code: str, detail: str, rest: int) -> None:
        body = EndRun(**self._whose(), end=end, code=code, detail=detail[:1000], retry_after=rest, numbers=dict(numbers))
        self.frame.ask(paths.SYNC_END, body, Acknowledged)

    def _whose(self) -> dict[str, Any]:
        return {"run": self.run, "claim": self.frame.claim, "epoch": self.frame.epoch}
