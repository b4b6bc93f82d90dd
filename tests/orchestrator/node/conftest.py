from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.orchestrator.node.desk import Desk, desk


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A front with its workers, for tests that leave it as it was."""
    with desk(Path(tmp_path_factory.mktemp("n"))) as made:
        yield made
