"""A test of the deployment that notices nothing is worth nothing: each fault has to make one fail."""

from __future__ import annotations

import pytest

from tests.deploy.conftest import TERRAFORM, Workspace
from tests.deploy.mutations import MUTATIONS, noticed, places


def test_each_fault_is_one_place_of_the_files_as_they_are() -> None:
    found = {mutation: (TERRAFORM / mutation.file).read_text().count(mutation.before) for mutation in MUTATIONS}
    assert {mutation.before for mutation, count in found.items() if count != 1} == set()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_each_fault_is_noticed(deployment: Workspace) -> None:
    for place in places():
        deployment.below(place).init()
    assert [mutation for mutation in MUTATIONS if not noticed(deployment, mutation)] == []
