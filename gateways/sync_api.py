"""People's API of sync runs: begin, look, stop, take back. Views parse, call, render.

Keys of secrets, their names in the vault and sentences that may hold them are for who may read the secrets; the others are told
how many there are, and the codes.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Count
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.access import Principal
from accounts.fields import Whole, Words
from accounts.models import Environment
from accounts.operations import Signed
from accounts.roles import PROJECTS_READ, PROJECTS_WRITE, SECRETS_READ
from accounts.scoping import place_in, place_of
from common.api import Text, checked, rfc3339
from common.clock import now
from common.described import described
from common.paging import PAGE, page_of
from gateways import sync_runs
from gateways.sync_runs import LONGEST_INTERVAL, SETTINGS, SHORTEST_INTERVAL, RunWish
from integrations import rules
from integrations.models import RunState, StepState, SyncNote, SyncRule, SyncRun, SyncStep
from integrations.sync.drift import Standing
from integrations.sync.words import MEANING, SENTENCES, ActionKind, Reason
from protocol.sync import RunPhase

STANDS = {
    Standing.IN_STEP: "both sides have the same value",
    Standing.DIFFERS: "both sides have it with different values",
    Standing.ONLY_HERE: "only the project has it",
    Standing.ONLY_THERE: "only the vault has it",
    Standing.DELETED_HERE: "the vault has it and the project deleted it",
    Standing.DELETED_THERE: "the project has it and the vault deleted it",
    Standing.NOT_READ: "the vault's value could not be read",
}
"""The words of a drift report, as sentences."""
WITHHELD = f"this sentence may name secrets, which needs the permission {SECRETS_READ}"


class RunAsked(serializers.Serializer):
    phase = serializers.ChoiceField(
        [RunPhase.PREVIEW.value, RunPhase.APPLY.value, RunPhase.DRIFT.value],
        required=False, default=RunPhase.PREVIEW.value, help_text="a preview and a drift report change nothing",
    )  # fmt: skip
    confirm = Text(required=False, allow_blank=True, max_length=64, help_text="digest of the preview that was looked at")
    deletion_count = Whole(required=False, allow_null=True, min_value=0, max_value=1_000_000)
    deletion_percent = Whole(required=False, allow_null=True, min_value=0, max_value=100)


class UndoAsked(serializers.Serializer):
    confirm = Text(required=False, allow_blank=True, max_length=64, help_text="digest of the preview of this undo")


class RefusalRow(serializers.Serializer):
    code = serializers.CharField()
    error = serializers.CharField(help_text="withheld from who may not read the secrets, which it may name")


class RunRow(serializers.Serializer):
    id = serializers.UUIDField()
    rule_id = serializers.UUIDField()
    phase = serializers.ChoiceField([phase.value for phase in RunPhase])
    state = serializers.ChoiceField(RunState.choices)
    verdict = serializers.CharField(help_text="of the plan: ready, needs_confirmation, confirmation_stale, paused or refused")
    digest = serializers.CharField(help_text="of the plan, to confirm it by")
    first_run = serializers.BooleanField()
    refusals = RefusalRow(many=True)
    steps = serializers.DictField(child=serializers.IntegerField(), help_text="how many are in which state")
    planned = serializers.DictField(child=serializers.IntegerField(), help_text="how many steps of which kind")
    left_alone = serializers.DictField(child=serializers.IntegerField(), help_text="how many secrets for which reason")
    numbers = serializers.DictField(child=serializers.IntegerField())
    environment = serializers.CharField()
    target = serializers.CharField()
    asked_by = serializers.CharField()
    scheduled = serializers.BooleanField()
    confirmed = serializers.UUIDField(allow_null=True, help_text="the preview that was agreed to")
    undoes = serializers.UUIDField(allow_null=True)
    task = serializers.UUIDField(allow_null=True)
    code = serializers.CharField()
    detail = serializers.CharField(help_text="withheld from who may not read the secrets, which it may name")
    created_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)


class StepRow(serializers.Serializer):
    position = serializers.IntegerField()
    kind = serializers.ChoiceField([kind.value for kind in ActionKind])
    means = serializers.CharField()
    reason = serializers.CharField()
    because = serializers.CharField()
    key = serializers.CharField()
    name = serializers.CharField()
    state = serializers.ChoiceField(StepState.choices)
    our_version = serializers.IntegerField(allow_null=True, help_text="before the step while it is planned, then after it")
    their_version = serializers.CharField(allow_null=True)
    operation = serializers.UUIDField(allow_null=True, help_text="the tag of its write in the vault")
    code = serializers.CharField()
    detail = serializers.CharField()


class NoteRow(serializers.Serializer):
    key = serializers.CharField()
    name = serializers.CharField()
    reason = serializers.CharField()
    because = serializers.CharField()
    held_off = serializers.CharField()


class SetupWish(serializers.Serializer):
    paused = serializers.BooleanField(required=False, allow_null=True)
    interval_minutes = Whole(
        required=False, allow_null=True, help_text=f"0 for no schedule, else {SHORTEST_INTERVAL} to {LONGEST_INTERVAL}"
    )
    deletion_count = Whole(required=False, allow_null=True, min_value=0, max_value=1_000_000)
    deletion_percent = Whole(required=False, allow_null=True, min_value=0, max_value=100)
    adopted = serializers.ListField(child=Words(max_length=127), required=False, allow_null=True, help_text="names in the vault")
    dr_copy = serializers.BooleanField(
        required=False, allow_null=True, help_text="the vault is the DR region's copy; its lag is in the failover preflight"
    )


class SetupRow(serializers.Serializer):
    paused = serializers.BooleanField()
    paused_why = serializers.CharField()
    interval_minutes = serializers.IntegerField()
    scheduled_by = serializers.CharField()
    deletion_count = serializers.IntegerField()
    deletion_percent = serializers.IntegerField()
    adopted = serializers.ListField(
        child=serializers.CharField(), allow_null=True, help_text="null for who may not read the secrets, which it names"
    )
    dr_copy = serializers.BooleanField()
    known_secrets = serializers.IntegerField()


class SyncRuns(Signed):
    """Begin a run of a sync rule, or list its runs, newest first. The first run of a rule needs the digest of a preview."""

    permissions = {"POST": PROJECTS_WRITE, "GET": PROJECTS_READ}

    @described(operation_id="startSyncRun", request=RunAsked, responses={202: RunRow})
    def post(self, request: Request, identifier: uuid.UUID) -> Response:
        asked = checked(RunAsked, request.data)
        wish = RunWish(
            RunPhase(asked["phase"]), asked.get("confirm", ""), asked.get("deletion_count"), asked.get("deletion_percent")
        )
        return Response(run_row(sync_runs.start(identifier, wish, self.by), self.by.principal), status=202)

    @described(operation_id="listSyncRuns", parameters=PAGE, responses=RunRow(many=True))
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        rule = sync_runs.rule_for(identifier, self.by, PROJECTS_READ)
        runs = rule.runs.select_related("rule__project", "environment").order_by("-created_at")
        shown = list(page_of(runs, request))
        counted = tallies_of([run.id for run in shown])
        return Response([run_row(run, self.by.principal, counted[run.id]) for run in shown])


class SyncSetup(Signed):
    """How a rule runs: whether it is paused, its schedule, its deletion budget, the names it adopted."""

    permissions = {"GET": PROJECTS_READ, "PATCH": PROJECTS_WRITE}

    @described(operation_id="getSyncSetup", responses=SetupRow)
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        return Response(setup_row(sync_runs.rule_for(identifier, self.by, PROJECTS_READ), self.by.principal))

    @described(operation_id="changeSyncSetup", request=SetupWish, responses=SetupRow)
    def patch(self, request: Request, identifier: uuid.UUID) -> Response:
        rule = sync_runs.set_up(identifier, checked(SetupWish, request.data), self.by)
        return Response(setup_row(rule, self.by.principal))


class SyncRunOne(Signed):
    """One run of a sync rule."""

    permissions = {"GET": PROJECTS_READ}

    @described(operation_id="getSyncRun", responses=RunRow)
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        return Response(run_row(sync_runs.run_for(identifier, self.by, PROJECTS_READ), self.by.principal))


class SyncSteps(Signed):
    """The steps of a run in their order, with what became of each."""

    permissions = {"GET": PROJECTS_READ}

    @described(operation_id="listSyncSteps", parameters=PAGE, responses=StepRow(many=True))
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        run = sync_runs.run_with_names(identifier, self.by)
        return Response([step_row(step) for step in page_of(run.steps.order_by("position"), request)])


class SyncNotes(Signed):
    """The secrets a run left alone and why; for a drift report, how both sides stand to each other."""

    permissions = {"GET": PROJECTS_READ}

    @described(operation_id="listSyncNotes", parameters=PAGE, responses=NoteRow(many=True))
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        run = sync_runs.run_with_names(identifier, self.by)
        return Response([note_row(note) for note in page_of(run.notes.select_related("run").order_by("id"), request)])


class SyncStop(Signed):
    """Let a run do no further step."""

    permissions = {"POST": PROJECTS_WRITE}

    @described(operation_id="stopSyncRun", request=None, responses=RunRow)
    def post(self, request: Request, identifier: uuid.UUID) -> Response:
        return Response(run_row(sync_runs.stop(identifier, self.by, now()), self.by.principal))


class SyncUndo(Signed):
    """Take a run back: first a preview, then with its digest. What changed since that run stays as it is."""

    permissions = {"POST": PROJECTS_WRITE}

    @described(operation_id="undoSyncRun", request=UndoAsked, responses={202: RunRow})
    def post(self, request: Request, identifier: uuid.UUID) -> Response:
        asked = checked(UndoAsked, request.data)
        return Response(run_row(sync_runs.undo(identifier, asked.get("confirm", ""), self.by), self.by.principal), status=202)


@dataclass
class Tallies:
    """How many steps of a run stand and were planned how, and what it left alone for which reason."""

    steps: Counter[str] = field(default_factory=Counter)
    planned: Counter[str] = field(default_factory=Counter)
    left_alone: Counter[str] = field(default_factory=Counter)


def tallies_of(runs: Sequence[uuid.UUID]) -> Mapping[uuid.UUID, Tallies]:
    """Of several runs at once, counted by the database in two statements."""
    found: dict[uuid.UUID, Tallies] = {identifier: Tallies() for identifier in runs}
    steps = SyncStep.objects.filter(run_id__in=runs).order_by().values_list("run_id", "state", "action__kind")
    for run, state, kind, count in steps.annotate(count=Count("pk")):
        found[run].steps[state] += count
        found[run].planned[kind] += count
    notes = SyncNote.objects.filter(run_id__in=runs).order_by().values_list("run_id", "reason")
    for run, reason, count in notes.annotate(count=Count("pk")):
        found[run].left_alone[reason] += count
    return found


def run_row(run: SyncRun, reader: Principal, counted: Tallies | None = None) -> dict[str, Any]:
    named = _may_see_names(reader, run.rule, run.environment)
    counted = counted or tallies_of([run.id])[run.id]
    return {
        "id": str(run.id),
        "rule_id": str(run.rule_id),
        "phase": run.phase,
        "state": run.state,
        "verdict": run.verdict,
        "digest": run.digest,
        "first_run": run.first_run,
        "refusals": [{**row, "error": row["error"] if named else WITHHELD} for row in run.refusals],
        "steps": dict(counted.steps),
        "planned": dict(counted.planned),
        "left_alone": dict(counted.left_alone),
        "numbers": run.numbers,
        "environment": run.environment.slug,
        "target": run.target,
        "asked_by": run.asked_by,
        "scheduled": run.scheduled,
        "confirmed": str(run.confirmed_id) if run.confirmed_id else None,
        "undoes": str(run.undoes_id) if run.undoes_id else None,
        "task": str(run.task) if run.task else None,
        "code": run.code,
        "detail": run.detail if named or not run.detail else WITHHELD,
        "created_at": rfc3339(run.created_at),
        "ended_at": rfc3339(run.ended_at),
    }


def step_row(step: SyncStep) -> dict[str, Any]:
    action, done = step.action, step.state == StepState.DONE
    return {
        "position": step.position,
        "kind": action["kind"],
        "means": MEANING[ActionKind(action["kind"])],
        "reason": action["reason"],
        "because": SENTENCES[Reason(action["reason"])],
        "key": action["key"],
        "name": step.name,
        "state": step.state,
        "our_version": step.our_version if done else action["our_version"],
        "their_version": step.their_version if done else action["their_version"],
        "operation": str(step.operation) if step.operation else None,
        "code": step.code,
        "detail": step.detail,
    }


def note_row(note: SyncNote) -> dict[str, Any]:
    stands = note.reason in tuple(Standing) and note.run.phase == RunPhase.DRIFT
    because = STANDS[Standing(note.reason)] if stands else SENTENCES[Reason(note.reason)]
    return {"key": note.key, "name": note.name, "reason": note.reason, "because": because, "held_off": note.held_off}


def setup_row(rule: SyncRule, reader: Principal) -> dict[str, Any]:
    names = (*SETTINGS, "paused_why", "scheduled_by")
    row = {**{name: getattr(rule, name) for name in names}, "known_secrets": sync_runs.known_secrets(rule)}
    return row if _may_see_names(reader, rule, rules.environment_of(rule)) else {**row, "adopted": None}


def _may_see_names(reader: Principal, rule: SyncRule, environment: Environment | None) -> bool:
    """In the environment of the secrets; where there is none, in the whole project."""
    return reader.may(SECRETS_READ, place_in(rule.project, environment) if environment else place_of(rule.project))
