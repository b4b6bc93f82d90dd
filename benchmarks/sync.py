"""A sync of many secrets: how long planning alone takes, and a whole run through Primary, gateway and vault.

Beside it, as many bare calls of the vendor's client to the same vault, so that the ratio says what the promises cost.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.measure import spread
from cli.demos import keyvault
from cli.demos.keyvault import Scene
from cli.demos.story import Story
from cli.stack.stack import throwaway
from integrations.sync.facts import Base, Direction, Ours, Remembered, Rule, Theirs, World
from integrations.sync.plan import plan

PLANNED, SYNCED, BARE = 10_000, 500, 200


def sync() -> dict[str, object]:
    """Milliseconds of a plan; seconds of a first run, of one that finds nothing changed, and of bare calls for each secret."""
    world = _world()
    planned = spread([_timed(lambda: plan(world)) for _ in range(5)])
    with throwaway(azure=True) as stack, keyvault.opened(stack, _Silent(), lambda: False) as scene:
        keyvault.prepare(scene, SYNCED)
        preview, shown = _run(scene, "preview")
        applied, done = _run(scene, "apply", confirm=shown["digest"])
        unchanged, idle = _run(scene, "apply")
        bare = _timed(lambda: _set_bare(scene)) / BARE
    assert done["state"] == "succeeded" and idle["planned"] == {}, (done, idle)
    return {
        f"plan_of_{PLANNED}": planned,
        "preview_seconds": preview,
        "first_run_seconds": applied,
        "unchanged_run_seconds": unchanged,
        "unchanged_run_vault_calls": idle["numbers"]["vault_calls"],
        "milliseconds_a_step": round(applied / SYNCED * 1000, 1),
        "bare_set_milliseconds": round(bare * 1000, 1),
        "method": f"pure plan of {PLANNED} remembered secrets of which every tenth changed, five times; "
        f"{SYNCED} secrets pushed once through real processes, the local Azure and the vendor's client, then a second run; "
        f"{BARE} bare set_secret calls to the same vault one after the other",
    }


class _Silent(Story):
    def say(self, line: str) -> None:
        """Nobody reads along."""


def _set_bare(scene: Scene) -> None:
    for number in range(BARE):
        scene.portal.set(f"bare-{number}", "x")


def _run(scene: Scene, phase: str, **wish: Any) -> tuple[float, dict[str, Any]]:
    began = time.perf_counter()
    row = scene.run(phase, **wish)
    return round(time.perf_counter() - began, 1), row


def _timed(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _world() -> World:
    rule = Rule("rule", "https://kv", Direction.BIDIRECTIONAL)
    keys = [f"KEY-{number:05}" for number in range(PLANNED)]
    ours = tuple(Ours(key, 2, f"d{number}{'' if number % 10 else 'x'}") for number, key in enumerate(keys))
    theirs = tuple(Theirs(key, "v1", f"d{number}", owner="rule") for number, key in enumerate(keys))
    items = tuple(Remembered(key, key, f"d{number}", 1, "v1") for number, key in enumerate(keys))
    return World(rule, ours, theirs, Base("https://kv", direction=Direction.BIDIRECTIONAL, items=items, settled=True))
