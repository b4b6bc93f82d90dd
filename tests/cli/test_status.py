"""`mazevault status` never says "healthy" while an environment has nobody who may act, and names each environment in trouble."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import certifi
import pytest

from cli.stack import children
from cli.stack import stack as launcher
from cli.stack.children import Child
from cli.stack.control import Command
from cli.stack.layout import Layout
from cli.stack.primary_client import PrimaryClient
from cli.stack.stack import Stack, free_port_base
from cli.stack.status import DEGRADED, ERROR, HEALTHY, Overview, _judged, overview

GATEWAY = {
    "name": "gw-npr-primary", "environment": "NPR", "health": "healthy", "activation_status": "active", "health_score": 0.98,
    "heartbeat_age_seconds": 3.0, "why": [],
}  # fmt: skip


def environment(code: str = "NPR", **other: Any) -> dict[str, Any]:
    well = {
        "state": "PRIMARY_ACTIVE", "active_gateway": f"gw-{code.lower()}-primary", "epoch": 1, "may_act": True, "next": "",
        "standby_gateway": f"gw-{code.lower()}-dr", "headline": f"{code} is on its primary gateway gw-{code.lower()}-primary",
    }  # fmt: skip
    return {**well, **other}


def judged(*gateways: dict[str, Any], **environments: dict[str, Any]) -> Overview:
    return _judged(list(gateways) or [GATEWAY], environments)


def test_healthy_when_every_environment_is_at_home_and_somebody_may_act() -> None:
    assert judged(NPR=environment(), PRO=environment("PRO")).code == HEALTHY


def test_nobody_who_may_act_is_told_first_with_the_next_step_and_the_status_2() -> None:
    idle = environment(
        "PRO", may_act=False, headline="PRO: nobody may act, the lease of gw-pro-primary ended 30 s ago",
        next="look at gw-pro-primary, or POST admin/failover/PRO/plan",
    )  # fmt: skip
    found = judged(NPR=environment(), PRO=idle)
    assert (found.code, found.sentence) == (DEGRADED, idle["headline"])
    assert f"  next: {idle['next']}" in found.lines()


@pytest.mark.parametrize(
    "row",
    [{"state": "HOLD", "headline": "NPR is held and nobody gets a lease: gw-npr-dr has seen epoch 7", "next": "resume"},
     {"active_gateway": None, "headline": "NPR has no active gateway", "next": "enrol one"}],
    ids=["held", "nobody"],
)  # fmt: skip
def test_what_waits_for_a_person_is_an_error_with_its_reason(row: dict[str, Any]) -> None:
    found = judged(NPR=environment(**row))
    assert (found.code, found.sentence) == (ERROR, f"{row['headline']}; next: {row['next']}")


def test_a_move_under_way_and_an_ill_gateway_are_both_in_the_first_line() -> None:
    moving = environment(state="FO_DRAINING", headline="NPR: activate-dr is under way")
    found = judged({**GATEWAY, "health": "degraded"}, NPR=moving)
    assert (found.code, found.sentence) == (DEGRADED, "NPR: activate-dr is under way; gw-npr-primary is not healthy")


def test_a_cold_standby_is_no_trouble() -> None:
    assert judged({**GATEWAY, "health": "silent", "activation_status": "cold"}, NPR=environment()).code == HEALTHY


def test_nobody_who_may_act_is_never_healthy_even_where_nothing_is_to_be_done() -> None:
    assert judged(NPR=environment(may_act=False, headline="NPR: nobody may act yet")).code == DEGRADED


RUN = {
    "primary_url": "https://localhost:1", "ca_file": "", "admin_email": "admin@mazevault.com",
    "admin_password_file": "/nowhere/admin-password", "gateways": [{"name": "gw-npr-primary"}, {"name": "gw-npr-dr"}],
    "pids": {"gw-npr-primary": 12, "gw-npr-dr": 13},
}  # fmt: skip


def test_the_next_step_comes_as_a_command_to_paste() -> None:
    idle = environment(may_act=False, headline="NPR: nobody may act", next="look at it, or POST admin/failover/NPR/plan")
    found = _judged([GATEWAY], {"NPR": idle}, {**RUN, "ca_file": "var/ca.crt"})
    (command,) = found.commands
    assert command.startswith("curl ") and "https://localhost:1/api/v1/admin/failover/NPR/plan" in command
    assert "--cacert var/ca.crt" in command and "/nowhere/admin-session" in command
    assert found.lines()[:2] == ["NPR: nobody may act", f"  $ {command}"]


def test_a_gateway_without_a_process_is_in_the_first_line_before_its_silence_counts() -> None:
    found = _judged([GATEWAY], {"NPR": environment()}, {**RUN, "pids": {"gw-npr-primary": 12}})
    assert (found.code, found.sentence, found.commands) == (
        DEGRADED, "gw-npr-dr is not running", ("./mazevault start gw-npr-dr",),
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> dict[str, Any]:
    """A stack whose Primary is not there."""
    (tmp_path / "admin-password").write_text("x")
    ca = tmp_path / "ca.crt"
    ca.write_text(Path(certifi.where()).read_text())
    return {**RUN, "ca_file": str(ca), "admin_password_file": str(tmp_path / "admin-password")}


def test_a_primary_that_is_down_is_told_in_a_sentence_with_what_starts_it(run: dict[str, Any]) -> None:
    found = overview(run)
    assert (found.code, found.commands) == (ERROR, ("./mazevault start primary",))
    assert found.sentence.startswith("the Primary is not running: the Primary at https://localhost:1 does not answer")
    assert "Error" not in found.sentence and "Errno" not in found.sentence


def test_a_primary_that_runs_and_does_not_answer_is_another_matter(run: dict[str, Any]) -> None:
    found = overview({**run, "pids": {"primary": 1}})
    assert found.code == ERROR and "runs and does not answer" in found.sentence and "./mazevault logs primary" in found.commands


@pytest.mark.parametrize(
    ("verb", "runs", "answer"),
    [("start", True, "gw runs already; nothing had to be done"), ("stop", False, "gw is stopped already; nothing had to be done"),
     ("start", False, "gw: started"), ("stop", True, "gw: stopped"), ("restart", True, "gw: restarted"),
     ("restart", False, "gw: restarted; it was not running")],
)  # fmt: skip
def test_starting_and_stopping_say_what_had_to_be_done(
    verb: str, runs: bool, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = Stack(Layout(tmp_path), {}, lambda line: None)
    child = Child("gw", [], {}, tmp_path / "log", tmp_path)
    stack.children["gw"] = child
    monkeypatch.setattr(Child, "pid", property(lambda _: 7 if runs else None))
    monkeypatch.setattr(Stack, "_start", lambda *_: None)
    monkeypatch.setattr(Stack, "_write_run_file", lambda _: None)
    monkeypatch.setattr(children, "stop", lambda *_: None)
    assert stack._carry_out(Command(verb, "gw")) == answer


@pytest.fixture
def starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[str]], Stack]]:
    """A stack whose Primary is this command; it says when it is ready, once its port is open."""
    made: list[Stack] = []

    def make(argv: list[str]) -> Stack:
        stack = Stack(Layout(tmp_path, port_base=free_port_base()), {}, lambda line: None)
        monkeypatch.setattr(Stack, "_new_child", lambda _, name, more: Child(name, argv, {}, tmp_path / "log", tmp_path))
        stack.children["primary"] = stack._new_child("primary", {})
        made.append(stack)
        return stack

    yield make
    children.stop([child for stack in made for child in stack.children.values()], 1)


@pytest.mark.parametrize("verb", ["start", "restart"])
def test_a_node_that_was_started_is_waited_for_until_it_answers(
    starting: Callable[[list[str]], Stack], verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever goes on at once with a call must not find nobody there."""
    stack, asked = starting(["sleep", "30"]), [False, False, True]
    monkeypatch.setattr(launcher, "is_ready", lambda *_: asked.pop(0))
    with socket.create_server(("127.0.0.1", stack.layout.primary_port)):
        assert stack._carry_out(Command(verb, "primary")).startswith(f"primary: {verb}ed")
    assert asked == []


def test_a_node_that_ends_or_never_answers_is_told_with_its_log(
    starting: Callable[[list[str]], Stack], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = starting(["sh", "-c", "echo no database; exit 3"])._carry_out(Command("start", "primary"))
    assert told == "error: primary was started, but primary has ended (exit status 3); see ./mazevault logs primary"
    monkeypatch.setattr(launcher, "ANSWERS_SECONDS", 0.01)
    assert "is not ready on port" in starting(["sleep", "30"])._carry_out(Command("restart", "primary"))


def test_asking_whether_a_stack_runs_does_it_no_harm(starting: Callable[[list[str]], Stack]) -> None:
    assert starting(["sleep", "30"])._carry_out(Command("ping", "primary")) == "the stack runs"


class Answers(PrimaryClient):
    """A Primary with a fleet at home; the plan fails these checks, one after the other each time it is asked."""

    def __init__(self, *plans: str) -> None:
        self.plans = list(plans)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        name = self.plans.pop(0) if self.plans else ""
        checks = [{"name": "target_answers", "passed": True, "sentence": "it answers"}]
        return {"checks": [*checks, {"name": name, "passed": False, "sentence": f"{name} fails"}][: 2 if name else 1]}


def test_ready_is_said_when_a_plan_no_longer_tells_of_a_copy_that_comes_in_a_moment(tmp_path: Path) -> None:
    said: list[str] = []
    stack = Stack(Layout(tmp_path), {}, said.append)
    primary = Answers("target_copy", "", "", "target_copy", "cooldown", "cooldown")
    stack._wait_for_copies(primary)
    assert primary.plans == [] and said == []


def test_a_copy_that_does_not_come_is_told_and_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "COPIES_SECONDS", -1)
    said: list[str] = []
    Stack(Layout(tmp_path), {}, said.append)._wait_for_copies(Answers("target_copy", "target_copy"))
    assert said == ["ready but for this: target_copy fails; target_copy fails; ./mazevault status shows how it goes on"]
