"""The Key Vault story on a throw-away stack: a first run that survives its gateway being killed again and again, the complaints
people have about other products played through, a gateway that wakes up after its environment has moved. The last line is the
summary; exit status 1 when a secret was lost, somebody else's was overwritten, or the numbers are not those of the story."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from cli.demos.portal import Portal
from cli.demos.story import Broken, Story, profile_name
from cli.stack.layout import StackError
from cli.stack.primary_client import PrimaryClient, PrimaryError
from cli.stack.stack import Stack, stop_on_signals, throwaway

SECRETS, KILLS = 200, 5
"""Secrets of the first run, and how often its gateway is killed meanwhile; MAZEVAULT_DEMO_SECRETS and _KILLS change them."""
FOREIGN, MASS = 10, 30
"""Names in the vault that somebody else uses for other values, and secrets of the mass deletion."""
OLD, NEW, VAULT = "gw-npr-primary", "gw-npr-dr", "kv-mazevault-npr"
RUN_SECONDS = 300.0
PAGE = 1000
PATIENCE = 60.0
"""Seconds that a call which must come may take."""


@dataclass
class Scene:
    """The project, its rule, the vault, and what each run was seen to do."""

    stack: Stack
    primary: PrimaryClient
    portal: Portal
    story: Story
    interrupted: Callable[[], bool]
    label: str = field(default_factory=lambda: f"S{time.time_ns() % 10**9}")
    project: str = ""
    rule: str = ""
    ids: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, str] = field(default_factory=dict)
    tally: Counter[str] = field(default_factory=Counter)

    def key(self, number: int) -> str:
        return f"{self.label}_{number:04}"

    def name(self, number: int) -> str:
        """What the key is called in the vault."""
        return self.key(number).replace("_", "-")

    def put(self, key: str, value: str) -> None:
        """Create or change a secret of the project."""
        if key in self.ids:
            self.primary.put(f"secrets/{self.ids[key]}", {"value": value})
        else:
            wish = {"project_id": self.project, "environment": "dev", "key": key, "value": value}
            self.ids[key] = self.primary.post("secrets", wish)["id"]
        self.values[key] = value

    def delete(self, key: str) -> None:
        self.primary.raw("DELETE", f"secrets/{self.ids.pop(key)}")
        del self.values[key]

    def ask(self, phase: str, **wish: Any) -> str:
        return str(self.primary.post(f"projects/sync-rules/{self.rule}/runs", {"phase": phase, **wish})["id"])

    def ended(self, run: str, meanwhile: Callable[[dict[str, Any]], None] = lambda _row: None) -> dict[str, Any]:
        """The run once it is over. `meanwhile` gets each look at it."""
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline:
            if self.interrupted():
                raise Broken("interrupted")
            row = dict(self.primary.get(f"projects/sync-runs/{run}"))
            if row["state"] != "running":
                self._count(row)
                return row
            meanwhile(row)
            time.sleep(0.1)
        raise Broken(f"the run did not end within {RUN_SECONDS:g} s: {row}")

    def run(self, phase: str = "apply", **wish: Any) -> dict[str, Any]:
        return self.ended(self.ask(phase, **wish))

    def here(self) -> dict[str, str]:
        """The secrets of the project as the API tells them."""
        rows = self.primary.get(f"secrets?project_id={self.project}&environment=dev")
        return {row["key"]: self.primary.get(f"secrets/{row['id']}")["value"] for row in rows}

    def activate_dr(self) -> None:
        """Ask until it is taken: a machine under load misses a heartbeat of the standby, and the next one comes."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self.primary.post("admin/failover/NPR/activate-dr")
                return
            except PrimaryError as error:
                if error.status != 409 or time.monotonic() > until:
                    raise
            time.sleep(0.2)

    def _count(self, row: Mapping[str, Any]) -> None:
        if row["phase"] == "apply":
            path = f"projects/sync-runs/{row['id']}"
            self.tally += counted(row["verdict"], self._all(f"{path}/steps?"), self._all(f"{path}/notes?"))

    def _all(self, path: str) -> list[dict[str, Any]]:
        """A list of the API with all its pages."""
        rows = list[dict[str, Any]]()
        while len(page := self.primary.get(f"{path}&limit={PAGE}&offset={len(rows)}")) == PAGE:
            rows += page
        return rows + page


def counted(verdict: str, steps: Iterable[Mapping[str, Any]], notes: Iterable[object]) -> Counter[str]:
    """What became of everything a run planned: applied, or refused with its plan, by the vault or by a note.

    A step that was only planned, or begun and never ended, is neither, so the sum does not come out. One that was outdated is
    planned again under another number.
    """
    states = [(step["kind"], step["state"]) for step in steps if step["state"] != "outdated"]
    left = len(list(notes))
    refused = len(states) if verdict == "refused" else sum(state == "failed" for _, state in states)
    return Counter(
        planned=len(states) + left,
        applied=sum(state == "done" for _, state in states),
        recovered=states.count(("recover_there", "done")),
        refused=refused + left,
    )


def expected_of(secrets: int) -> Counter[str]:
    """The numbers of the story: a first run and its last one carry what is ours, between them a mass deletion is refused, done
    and recovered, and a purged name is left alone and then created again. Somebody else's names are left alone by every run."""
    ours, runs = secrets - FOREIGN, 7
    applied, refused = 2 * ours + 2 * MASS + 1, runs * FOREIGN + MASS + 1
    return Counter(planned=applied + refused, applied=applied, recovered=MASS, refused=refused)


def main() -> int:
    story, asked = Story(), stop_on_signals()
    story.say(f"time profile {profile_name()}")
    secrets, kills = (int(os.environ.get(f"MAZEVAULT_DEMO_{name}", default)) for name, default in
                      (("SECRETS", SECRETS), ("KILLS", KILLS)))  # fmt: skip
    try:
        with throwaway(story.say, time_profile=profile_name(), azure=True) as stack, opened(stack, story, asked) as scene:
            verdict = tell(scene, secrets, kills)
    except (StackError, PrimaryError, Broken, TimeoutError, httpx.HTTPError) as error:
        print(f"key vault demo: does not hold: {error}")
        return 1
    if verdict.tally != verdict.expected:
        story.say(f"the story has other numbers: {dict(verdict.expected)}")
    print(verdict.line())
    return 0 if verdict.holds else 1


@dataclass(frozen=True)
class Verdict:
    """What became of everything. `lost`: not on both sides as it should be; `overwritten`: somebody else's value is gone.

    `tally` is what the API told of the runs, `expected` what the story must come to.
    """

    tally: Mapping[str, int]
    expected: Mapping[str, int]
    lost: list[str]
    overwritten: list[str]

    @property
    def holds(self) -> bool:
        return self.tally == self.expected and not self.lost and not self.overwritten

    def line(self) -> str:
        told = ", ".join(f"{name} {self.tally[name]}" for name in ("planned", "applied", "recovered", "refused"))
        return f"{told}, lost {len(self.lost)}, overwritten {len(self.overwritten)}"


@contextmanager
def opened(stack: Stack, story: Story, asked: Callable[[], bool]) -> Iterator[Scene]:
    """The scene before anything has happened."""
    with stack.client() as primary, Portal(stack.layout, VAULT, "npr") as portal:
        yield Scene(stack, primary, portal, story, asked)


def tell(scene: Scene, secrets: int, kills: int) -> Verdict:
    """Play the whole story."""
    prepare(scene, secrets)
    first_run(scene, kills)
    mass_deletion(scene)
    taken_names(scene)
    stale_gateway(scene)
    return judge(scene, expected_of(secrets))


def prepare(scene: Scene, secrets: int) -> None:
    """A project, a rule that pushes, and names in the vault that are somebody else's."""
    primary, url = scene.primary, scene.portal.url
    scene.project = primary.post("projects", {"name": f"payments {time.time():.3f}"})["id"]
    wish = {"name": "vault", "type": "key_vault", "provider": "azure_key_vault", "environment": "dev",
            "config": {"vault_url": url}}  # fmt: skip
    integration = primary.post(f"projects/{scene.project}/integrations", wish)["id"]
    rule = {"name": "push", "integration_id": integration, "sync_direction": "push"}
    scene.rule = primary.post(f"projects/{scene.project}/sync-rules", rule)["id"]
    for number in range(secrets):
        scene.put(scene.key(number), f"value {number}")
    for number in range(FOREIGN):
        scene.foreign[scene.name(number)] = f"somebody else's {number}"
        scene.portal.set(scene.name(number), f"somebody else's {number}")
    scene.story.say(f"{secrets} secrets in the project; {FOREIGN} of their names hold somebody else's values in the vault")


def first_run(scene: Scene, kills: int) -> None:
    """Nothing happens before the preview is confirmed; then the gateway is killed whenever it has got on a little."""
    shown = scene.run("preview")
    _hold(scene.portal.writes() == FOREIGN, "something was written before anybody confirmed")
    scene.story.say(
        f"preview: {shown['planned']}, left alone {shown['left_alone']}; confirmed by its digest {shown['digest'][:12]}…"
    )
    killed, total = [0], shown["planned"]["create_there"]

    def kill(row: dict[str, Any]) -> None:
        done = row["steps"].get("done", 0)
        if killed[0] < kills and done >= (killed[0] + 1) * total // (kills + 2):
            killed[0] += 1
            scene.stack.kill(OLD)
            scene.stack.start(OLD)
            scene.story.say(f"kill -9 of the gateway after {done} steps; started again")

    run = scene.ended(scene.ask("apply", confirm=shown["digest"]), kill)
    _hold(run["state"] == "succeeded", f"the first run ended as {run['state']}: {run['detail']}")
    _hold(killed[0] == kills, f"the gateway was killed {killed[0]} times, not {kills}")
    again = [name for name, count in scene.portal.versions().items() if count > 1]
    _hold(not again, f"written twice: {again}")
    scene.story.say(f"first run {run['state']} after {killed[0]} kills: {run['steps']}, no name has two versions")


def mass_deletion(scene: Scene) -> None:
    """Somebody deletes too much: the budget stops the run. When it was meant, it is raised for one run, and can be recovered."""
    keys = sorted(scene.ids)[-MASS:]
    kept = {key: scene.values[key] for key in keys}
    for key in keys:
        scene.delete(key)
    refused = scene.run()
    _hold(refused["verdict"] == "refused" and scene.portal.deletions() == 0, f"{MASS} deletions went through: {refused}")
    scene.story.say(f"{MASS} secrets deleted in the project: {refused['refusals'][0]['error']}")
    done = scene.run(deletion_count=MASS, deletion_percent=100)
    _hold(done["steps"].get("done") == MASS, f"the deletions that were meant did not happen: {done}")
    for key, value in kept.items():
        scene.put(key, value)
    back = scene.run()
    # Steps that were planned again count twice, so it is what was done that is counted.
    _hold(set(back["planned"]) == {"recover_there"} and back["steps"].get("done") == MASS, f"not all were recovered: {back}")
    scene.story.say(f"meant after all, budget raised once: {MASS} soft-deleted; put back: {MASS} recovered, none recreated")


def taken_names(scene: Scene) -> None:
    """A name that is missing in the vault without a tombstone deletes nothing here; a purge does not either."""
    scene.portal.delete(scene.name(20))
    scene.portal.purge(scene.name(20))
    seen = scene.run()
    _hold(seen["left_alone"].get("absent_there") == 1, f"a purge was not noticed: {seen}")
    _hold(scene.here() == scene.values, "a purge in the vault was carried over to the project")
    scene.put(scene.key(20), "set again after the purge")
    _hold(scene.run()["steps"].get("done") == 1, "a changed secret was not created anew after the purge")
    scene.story.say("a name purged in the vault: nothing deleted here, created again with its next change")


def stale_gateway(scene: Scene) -> None:
    """The gateway freezes in the middle of a run; its environment moves; when it wakes up it writes nothing."""
    for key in sorted(scene.ids):
        scene.put(key, f"{scene.values[key]}, rotated")
    scene.primary.post("admin/failover/NPR/plan")
    frozen = [False]

    def freeze(row: dict[str, Any]) -> None:
        if not frozen[0] and row["steps"].get("done", 0) >= 20:
            frozen[0] = True
            scene.stack.freeze(OLD)
            scene.story.say(f"the active gateway freezes after {row['steps']['done']} steps; activate-dr")
            scene.activate_dr()

    try:
        run = scene.ended(scene.ask("apply"), freeze)
    finally:
        scene.stack.thaw(OLD)
    _hold(frozen[0], "the run was over before the gateway could be frozen")
    _hold(run["state"] == "succeeded", f"the DR gateway did not end the run: {run['state']} {run['detail']}")
    until = time.monotonic() + 5
    while time.monotonic() < until:
        time.sleep(0.2)
    epochs = scene.portal.epochs()
    newest = max(epochs)
    late = [epoch for epoch in epochs[epochs.index(newest) :] if epoch < newest]
    _hold(epochs[0] < newest and not late, f"the old gateway wrote {len(late)} times after the promotion")
    scene.story.say(f"the DR gateway ended the run: {run['steps']}; the old one woke up and wrote nothing")
    scene.story.say(
        f"the vault's log: {epochs.count(newest)} writes in epoch {newest}, after the first of them none of an earlier one"
    )


def judge(scene: Scene, expected: Mapping[str, int]) -> Verdict:
    """Compare both sides with what they should be."""
    there, here = scene.portal.living(), scene.here()
    wanted = {key.replace("_", "-"): value for key, value in scene.values.items()}
    overwritten = [name for name, value in scene.foreign.items() if there.get(name) != value]
    lost = [name for name, value in wanted.items() if name not in scene.foreign and there.get(name) != value]
    lost += [key for key, value in scene.values.items() if here.get(key) != value]
    return Verdict(scene.tally, expected, lost, overwritten)


def _hold(true: bool, otherwise: str) -> None:
    if not true:
        raise Broken(otherwise)


if __name__ == "__main__":
    sys.exit(main())
