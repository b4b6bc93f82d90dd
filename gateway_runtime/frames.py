"""What the executors of tasks work with (`gateway_runtime.work`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from common.clock import boottime
from gateway_runtime.client import Channel, PrimaryRefused
from gateway_runtime.node import MayNotAct, Node
from integrations.azure.errors import OutcomeUnknown
from protocol.messages import Message

ASK_SECONDS = 30.0
"""Longest wait for an answer: a page of a project's secrets is opened and digested within this."""
NO_RIGHT = ("NOT_ACTIVE", "STALE_EPOCH", "GATEWAY_HELD", "ANOTHER_INSTANCE", "GATEWAY_QUARANTINED")
"""Refusals that end this gateway's right to work; the task goes to whoever has it."""

Answer = TypeVar("Answer", bound=Message)


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

    def ask(self, path: str, body: Message, kind: type[Answer]) -> Answer:
        """One message of this task's work.

        Raises `MayNotAct` when another gateway works now, `TaskImpossible` when the claim or the work is over, and
        `PrimaryUnreachable` when no answer came.
        """
        try:
            return self.channel.call(path, body, kind, timeout=ASK_SECONDS)
        except PrimaryRefused as refused:
            if refused.code in NO_RIGHT:
                raise MayNotAct(refused.sentence) from refused
            raise TaskImpossible(f"{refused.code}: {refused.sentence}") from refused

    @contextmanager
    def effect(self) -> Iterator[int]:
        """The right to make one call outside, in the task's own epoch. Raises `MayNotAct`."""
        with minded(self.node) as epoch:
            if epoch != self.epoch:
                raise MayNotAct(f"the task belongs to epoch {self.epoch}, the lease to {epoch}")
            yield epoch


Work = Callable[[TaskFrame, Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Executor:
    """How a kind is done. What is one call is one effect; `steps` are many calls, each of which asks for its own right to act."""

    work: Work
    steps: bool = False
