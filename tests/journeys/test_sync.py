"""A sync whose gateway is killed, frozen and replaced in the middle: nothing lost, nothing foreign overwritten (I1, I8)."""

from __future__ import annotations

import pytest

from cli.demos import keyvault
from cli.demos.story import Story
from tests.journeys.conftest import Town


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_sync_survives_kills_a_mass_deletion_and_a_frozen_gateway(town: Town) -> None:
    with keyvault.opened(town.stack, Story(), lambda: False) as scene:
        verdict = keyvault.tell(scene, 60, 2)
    assert verdict.holds, verdict


@pytest.mark.parametrize("state", ["planned", "begun", "failed"])
def test_the_summary_does_not_hold_when_a_step_of_a_run_came_to_nothing(state: str) -> None:
    tally = keyvault.expected_of(60)
    assert keyvault.Verdict(tally, keyvault.expected_of(60), [], []).holds
    tally -= keyvault.counted("ready", [{"kind": "update_there", "state": "done"}], [])
    tally += keyvault.counted("ready", [{"kind": "update_there", "state": state}], [])
    assert not keyvault.Verdict(tally, keyvault.expected_of(60), [], []).holds
    assert tally["planned"] - tally["applied"] - tally["refused"] == (state != "failed")


def test_what_a_run_refused_is_counted_by_its_verdict_its_notes_and_its_failed_steps() -> None:
    steps = [{"kind": "delete_there", "state": "planned"}, {"kind": "delete_there", "state": "outdated"}]
    assert keyvault.counted("refused", steps, ["a note"]) == {"planned": 2, "applied": 0, "recovered": 0, "refused": 2}
    assert keyvault.counted("ready", steps, ["a note"])["refused"] == 1
    failed = [{"kind": "recover_there", "state": "failed"}, {"kind": "recover_there", "state": "done"}]
    assert keyvault.counted("ready", failed, []) == {"planned": 2, "applied": 1, "recovered": 1, "refused": 1}


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_a_thousand_secrets_and_twenty_kills(town: Town) -> None:
    with keyvault.opened(town.stack, Story(), lambda: False) as scene:
        verdict = keyvault.tell(scene, 1000, 20)
    assert verdict.holds, verdict
