"""What the executors of tasks work with (`gateway_runtime.work`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gateway_runtime.client import Channel
from gateway_runtime.node import MayNotAct, Node, boottime
from integrations.azure.errors import OutcomeUnknown


class TaskImpossible(Exception):
    """Trying again would not help."""


@contextmanager
def minded(node: Node) -> Iterator[int]:
    """The right to make one call outside, with its epoch (`Node.effect`).

    A call that was sent and not answered counts as running until its deadline, so that no fence is acknowledged before.
    """
    began = boottime()
    with node.effect() as epoch:
        try:
            yield epoch
        except OutcomeUnknown:
            node.mind_unseen_end(began)
            raise


@dataclass(frozen=True)
class TaskFrame:
    """What an executor works with. `deadline` in seconds is the hard one of a single effect: no call of it may last longer."""

    channel: Channel
    node: Node
    epoch: int
    deadline: float
    claim: str = ""

    @contextmanager
    def effect(self) -> Iterator[None]:
        """The right to make one call outside, in the task's own epoch. Raises `MayNotAct`."""
        with minded(self.node) as epoch:
            if epoch != self.epoch:
                raise MayNotAct(f"the task belongs to epoch {self.epoch}, the lease to {epoch}")
            yield


Work = Callable[[TaskFrame, Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Executor:
    """How a kind is done. What is one call is one effect; `steps` are many calls, each of which asks for its own right to act."""

    work: Work
    steps: bool = False
