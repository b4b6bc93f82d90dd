"""kill -9 of the Primary at every step of a move, before and after the commit: it always goes on or aborts cleanly (I5, T11)."""

from __future__ import annotations

import pytest

from cli.stack.primary_client import PrimaryError
from tests.journeys.conftest import Town

WAY_THERE = ("activate-dr:requested", "FO_PREFLIGHT:checks_passed", "FENCING:fence_acknowledged", "PROMOTING:promoted")
WAY_BACK = ("failback:requested", "FB_PREFLIGHT:checks_passed", "DRAINING:drained", "FENCING_DR:fence_acknowledged",
            "PROMOTING_PRIMARY:promoted")  # fmt: skip

MAY_ABORT = ("activate-dr:requested", "failback:requested", "FO_PREFLIGHT", "FB_PREFLIGHT")
"""Before the lease is stopped a move may end where it began; from then on it must go on."""


def asked_or_dead(town: Town, kind: str) -> bool:
    """Ask for the move. True when it was taken or when nobody answers: the step may be taken while the request is answered."""
    try:
        town.primary.post(f"admin/failover/NPR/{kind}")
    except PrimaryError as error:
        if error.status not in (None, 409):
            raise
        return error.status is None  # 409: a machine under load missed a heartbeat; the next one comes
    return True


def crash_during(town: Town, kind: str, failpoint: str) -> None:
    """Make the Primary die at the failpoint of this move, start it again and let the move end."""
    goal, start = ("DR_ACTIVE", "PRIMARY_ACTIVE") if kind == "activate-dr" else ("PRIMARY_ACTIVE", "DR_ACTIVE")
    epoch, lease = town.status()["epoch"], town.status()["lease_until"]
    town.stack.stop("primary")
    town.stack.start("primary", {"MAZEVAULT_FAILPOINT": failpoint})
    town.stack.wait_until_primary_answers()
    town.wait_for_a_plan(kind)
    town.wait_for("a lease that this Primary gave", lambda: town.status()["lease_until"] != lease)
    town.wait_for_a_lease()
    town.wait_for(f"the Primary to take {kind}", lambda: asked_or_dead(town, kind))
    town.wait_for(f"a crash at {failpoint}", town.died_in_a_move)
    town.stack.start("primary")
    town.stack.wait_until_primary_answers()
    row = town.wait_for("an end", lambda: (row := town.status())["operation"] is None and row)
    if row["epoch"] == epoch:
        # Nothing had begun, or the standby's last heartbeat grew too old while the Primary was away.
        assert failpoint.startswith(MAY_ABORT), f"a crash at {failpoint} must go on"
        assert row["state"] == start
        row = town.move(kind)
    assert (row["state"], row["epoch"]) == (goal, epoch + 1)
    assert row["last_operation"]["outcome"] == "completed"


BEFORE, AFTER = "before-commit", "after-commit"
ALL, SOME = slice(None), slice(2, 3)
"""Of the steps of a move: all, and the fence and the drain, after which it must go on."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("there_side", "back_side", "steps"),
    [
        pytest.param(BEFORE, AFTER, SOME, id="some steps"),
        pytest.param(BEFORE, AFTER, ALL, id="before, and after on the way back", marks=pytest.mark.long),
        pytest.param(AFTER, BEFORE, ALL, id="after, and before on the way back", marks=pytest.mark.long),
    ],
)
def test_every_step_survives_a_crash(town: Town, there_side: str, back_side: str, steps: slice) -> None:
    town.stack.stop("worker")  # or it would take the step at which the Primary is to die
    town.stack.stop("beat")
    with town.observe() as observer:
        for there, back in list(zip((*WAY_THERE, WAY_THERE[-1]), WAY_BACK, strict=True))[steps]:
            crash_during(town, "activate-dr", f"{there}:{there_side}")
            crash_during(town, "failback", f"{back}:{back_side}")
        assert observer.two_at_once() == []
