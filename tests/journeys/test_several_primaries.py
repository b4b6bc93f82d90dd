"""Several nodes of one Primary on one database: one dies under load or in a move, the others go on (I5, I7, I17)."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from cli.demos.writers import Ledger, Verdict, Writer, judge
from cli.stack.primary_client import PrimaryClient, PrimaryError
from cli.stack.stack import Stack, throwaway
from protocol.timing import PROFILES
from tests.journeys.conftest import Town

OLD, NEW = "gw-npr-primary", "gw-npr-dr"
SECRETS = 6
LEASE_SECONDS = PROFILES["short"].lease_ttl


class Nodes(Town):
    """A stack whose Primary has several nodes. `primary` is a client of the first one."""

    def __init__(self, stack: Stack, clients: dict[str, PrimaryClient]) -> None:
        super().__init__(stack, clients["primary"])
        self.clients = clients
        self.secrets = [self._secret(number) for number in range(SECRETS)]
        self.known = {secret: {f"first {number}"} for number, secret in enumerate(self.secrets)}
        """Values that were judged already."""

    def _secret(self, number: int) -> str:
        if not number:
            self.project = self.primary.post("projects", {"name": f"nodes {time.time():.3f}"})["id"]
        wish = {"project_id": self.project, "environment": "dev", "key": f"KEY_{number}", "value": f"first {number}"}
        return str(self.primary.post("secrets", wish)["id"])

    @contextmanager
    def load(self) -> Iterator[Ledger]:
        """Somebody writes at every node of the Primary, each to secrets of their own, until the end."""
        ledger, stop = Ledger(), threading.Event()
        share = SECRETS // len(self.clients)
        writers = [
            Writer(node.name, node.url, self.stack.layout.ca_file, self.primary.token,
                   self.secrets[number * share : (number + 1) * share], ledger, stop, pause=0.05)
            for number, node in enumerate(self.stack.layout.primaries)
        ]  # fmt: skip
        for writer in writers:
            writer.start()
        try:
            yield ledger
        finally:
            stop.set()
            for writer in writers:
                writer.join(30)

    def judged(self, ledger: Ledger) -> Verdict:
        verdict = judge(self.primary, ledger, self.secrets, known=self.known, conflict_expected=lambda _one: False)
        for values in self.known.values():
            values |= {one.value for one in ledger.accepted} | ledger.unknown
        return verdict

    def use(self, name: str) -> None:
        """Ask this node from here on."""
        self.primary = self.clients[name]

    def back(self, name: str) -> None:
        self.stack.start(name)
        self.wait_for(f"{name} to answer", lambda: self.clients[name].get("health/ready"))


@contextmanager
def nodes(count: int) -> Iterator[Nodes]:
    with throwaway(primaries=count) as stack, ExitStack() as opened:
        clients = {node.name: opened.enter_context(stack.client(node.url)) for node in stack.layout.primaries}
        yield Nodes(stack, clients)


def die_in_a_move(town: Nodes, kind: str, victim: str, witness: str) -> None:
    """Ask the node that will die for a move, kill it at once, and see the others end it: every step once, nobody twice."""
    town.use(witness)
    town.wait_for_a_plan(kind)
    before = town.primary.get("admin/failover/NPR/history")[0]["id"]
    with town.observe() as observer:
        town.use(victim)
        town.ask_for(kind)
        town.stack.kill(victim)
        town.use(witness)
        town.wait_for_state("DR_ACTIVE" if kind == "activate-dr" else "PRIMARY_ACTIVE")
        observer.wait_until_serving(NEW if kind == "activate-dr" else OLD, 30)
        assert observer.two_at_once() == []
    steps = [row for row in town.primary.get("admin/failover/NPR/history") if row["id"] > before]
    twice = [event for event, number in Counter(row["event"] for row in steps).items() if number > 1]
    assert not twice and len({row["operation"] for row in steps}) == 1, steps
    assert [row["from"] for row in steps[:-1]] == [row["to"] for row in steps[1:]], (
        "each step begins where the one before it ended"
    )
    town.back(victim)


def die_under_load(town: Nodes, victim: str, witness: str) -> None:
    """No gateway loses its lease, and no write that was answered is lost or done twice."""
    town.use(witness)
    with town.observe() as observer, town.load() as ledger:
        observer.wait_until_serving(OLD, 10)
        town.wait_for("writes at every node", lambda: {one.gateway for one in ledger.accepted} == set(town.clients))
        town.stack.kill(victim)
        died, seen = time.monotonic(), ledger.total()
        time.sleep(LEASE_SECONDS + 2)
        town.wait_for("writes at the others", lambda: ledger.total() > seen)
        gaps = [one for one in observer.sightings if one.name == OLD and one.asked > died and not one.serving]
        assert not gaps, f"{OLD} did not serve {len(gaps)} times after {victim} died"
    town.back(victim)
    verdict = town.judged(ledger)
    assert verdict.holds, verdict


@pytest.mark.long
def test_one_of_two_nodes_dies_in_a_move_and_a_session_goes_on_at_the_other() -> None:
    with nodes(2) as town:
        signed_in_once = {client.token for client in town.clients.values()}
        assert len(signed_in_once) == 1, "a session of one node counts at the other"
        die_in_a_move(town, "activate-dr", "primary", "primary-2")
        with pytest.raises(PrimaryError, match="401"):
            forget_the_session(town)


def forget_the_session(town: Nodes) -> None:
    """Signing out at one node ends the session at the other within a second."""
    town.clients["primary"].post("auth/logout")
    time.sleep(1.5)
    town.clients["primary-2"].get("auth/me")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_any_of_three_nodes_dies_under_load_and_in_moves() -> None:
    with nodes(3) as town:
        names = list(town.clients)
        for number, victim in enumerate(names):
            die_under_load(town, victim, names[(number + 1) % 3])
        for number in range(6):
            die_in_a_move(town, ("activate-dr", "failback")[number % 2], names[number % 3], names[(number + 1) % 3])
