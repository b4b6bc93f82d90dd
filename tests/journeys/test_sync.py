"""A sync whose gateway is killed, frozen and replaced in the middle: nothing lost, nothing foreign overwritten (I1, I8)."""

from __future__ import annotations

import pytest

from cli.demos import keyvault
from cli.demos.story import Story
from tests.journeys.conftest import Town


@pytest.mark.timeout(300)
def test_a_sync_survives_kills_a_mass_deletion_and_a_frozen_gateway(town: Town) -> None:
    with keyvault.opened(town.stack, Story(), lambda: False) as scene:
        verdict = keyvault.tell(scene, 60, 2)
    assert verdict.holds, verdict


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_a_thousand_secrets_and_twenty_kills(town: Town) -> None:
    with keyvault.opened(town.stack, Story(), lambda: False) as scene:
        verdict = keyvault.tell(scene, 1000, 20)
    assert verdict.holds, verdict
