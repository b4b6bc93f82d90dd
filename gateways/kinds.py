"""The table of task kinds: what may be asked of a gateway, and how a lost answer is treated. One line a kind."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import ValidationFailed

PROBE_TARGETS = ("database", "cache", "primary")
PROMISED_ATTEMPTS = 20
"""Of what keeps a promise about a vault: with the pauses of `dispatch` (2 s, doubled, 5 min at most) that is more than an hour,
longer than a vault is throttled or restarted, and than a change of its permissions takes to be mended."""


@dataclass(frozen=True)
class TaskKind:
    """`idempotent`: may be done again when nobody knows whether it was done; others wait for a person.

    `long`: takes its time, so a gateway takes one of them and nothing behind it. `by_people`: may be asked for as such; the
    others are made by what they belong to, a sync run for example. `left_undone`: what remains so when it ends without success,
    as a sentence, with `what_to_do` about it; for kinds that nothing else watches. It is told in the audit then.
    """

    name: str
    summary: str
    idempotent: bool
    claim_seconds: float
    attempts: int
    fields: Mapping[str, str]
    check: Callable[[Mapping[str, Any]], None]
    by_people: bool = True
    long: bool = False
    left_undone: str = ""
    what_to_do: str = ""


def _check_targets(payload: Mapping[str, Any]) -> None:
    targets = payload.get("targets", list(PROBE_TARGETS))
    fits = isinstance(targets, list) and 1 <= len(targets) <= len(PROBE_TARGETS)
    if not fits or any(target not in PROBE_TARGETS for target in targets):
        raise ValidationFailed(f"payload.targets must be a list of {', '.join(PROBE_TARGETS)}")


def _check_id(name: str) -> Callable[[Mapping[str, Any]], None]:
    def check(payload: Mapping[str, Any]) -> None:
        try:
            uuid.UUID(payload[name])
        except (KeyError, ValueError, AttributeError, TypeError):
            raise ValidationFailed(f"payload.{name} must be an id") from None

    return check


KINDS: Mapping[str, TaskKind] = {
    kind.name: kind
    for kind in (
        TaskKind(
            name="gateway.probe",
            summary="measure from the gateway: its database, its cache and the way to the Primary",
            idempotent=True,
            claim_seconds=60,
            attempts=5,
            fields={"targets": "list of database, cache, primary; all of them when absent"},
            check=_check_targets,
        ),
        TaskKind(
            name="integration.test",
            summary="try the way to the vault of an integration, stage by stage, with the gateway's own identity",
            idempotent=True,
            claim_seconds=60,
            attempts=1,
            fields={"integration": "its id", "write": "whether set and recover are tried too"},
            check=_check_id("integration"),
            by_people=False,
        ),
        TaskKind(
            name="integration.access",
            summary="list who has a role on the vault of an integration",
            idempotent=True,
            claim_seconds=60,
            attempts=1,
            fields={"integration": "its id"},
            check=_check_id("integration"),
            by_people=False,
        ),
        TaskKind(
            name="vault.survey",
            summary="after a promotion: look for writes of an earlier epoch that reached a vault late",
            idempotent=True,
            claim_seconds=120,
            attempts=PROMISED_ATTEMPTS,
            fields={"integration": "its id", "epoch": "the present one", "since": "when the environment was moved"},
            check=_check_id("integration"),
            by_people=False,
            left_undone="nobody knows whether a write of an earlier epoch reached the vault late; one that did stays there",
            what_to_do="test the integration until its vault answers, then look at the newest version of each secret there: one "
            "whose tag mazevault-epoch is below the present epoch and that is younger than the move came late. Run the sync "
            "rules of this vault again, and save a secret of a project anew whose late value should not count",
        ),
        TaskKind(
            name="vault.retire",
            summary="see that a rotated value has arrived in a vault, or then switch the versions before it off",
            idempotent=True,
            claim_seconds=60,
            attempts=5,
            fields={
                "integration": "its id",
                "name": "in the vault",
                "expected": "the version that must be the newest",
                "owner": "tag of the versions to be switched off",
                "retire": "false to look only",
            },
            check=_check_id("integration"),
            by_people=False,
        ),
        TaskKind(
            name="vault.put_back",
            summary="after a write was discarded that its vault has: make the recorded state count there again",
            idempotent=True,
            claim_seconds=60,
            attempts=PROMISED_ATTEMPTS,
            fields={
                "integration": "its id",
                "name": "in the vault",
                "key": "of the secret",
                "does": "set, delete or recover",
                "version": "that the discarded write set; another newest one stays",
                "recorded": "the version whose value counts",
                "operation": "the id of the discarded write",
                "owner": "tag of the project",
            },
            check=_check_id("integration"),
            by_people=False,
            left_undone="the vault still holds what was discarded; whoever reads the vault itself gets it",
            what_to_do="test the integration until its vault answers, then make the recorded state count there: save the secret "
            "anew in MazeVault, or delete it there where it is deleted here",
        ),
        TaskKind(
            name="storage.move",
            summary="a part of moving a project's values into its vault or out of it",
            idempotent=True,
            claim_seconds=300,
            attempts=5,
            fields={"move": "its id"},
            check=_check_id("move"),
            by_people=False,
            long=True,
        ),
        TaskKind(
            name="storage.look",
            summary="see whether values that were moved into a vault can be read there",
            idempotent=True,
            claim_seconds=120,
            attempts=5,
            fields={"move": "its id"},
            check=_check_id("move"),
            by_people=False,
            long=True,
        ),
        TaskKind(
            name="sync.run",
            summary="a part of a run of a sync rule: plan, and do what may be done",
            idempotent=True,
            claim_seconds=300,
            attempts=5,
            fields={"run": "its id"},
            check=_check_id("run"),
            by_people=False,
            long=True,
        ),
    )
}


def kind_of(name: str) -> TaskKind:
    """The kind people may ask for by this name, or `ValidationFailed` listing those."""
    known = [kind.name for kind in KINDS.values() if kind.by_people]
    if name not in known:
        raise ValidationFailed(f"kind must be one of {', '.join(known)}")
    return KINDS[name]


def check_payload(kind: TaskKind, payload: Mapping[str, Any]) -> None:
    """Refuse unknown fields and wrong values by name."""
    unknown = sorted(set(payload) - set(kind.fields))
    if unknown:
        raise ValidationFailed(f"payload.{unknown[0]} is not known for {kind.name}; known are {', '.join(kind.fields)}")
    kind.check(payload)
