"""Questions to a vault that take their time: asked at once, answered later, and looked up by whoever asked (ADR 29).

No request waits for a vault or a gateway here. What a gateway is asked is a task of it; what this node asks itself, as the
application of the integration or in the name of the person who asks, runs in a thread of its own that ends with its deadline.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from django.db import transaction

from accounts import changes
from accounts.changes import By
from accounts.scoping import absent
from common.clock import database_now, moment_of
from common.direct import give_connection_back
from common.errors import Conflict, MazeVaultError, TooManyRequests, ValidationFailed
from common.locks import transaction_lock
from gateways import dispatch, routes
from gateways.kinds import KINDS
from gateways.models import Task
from integrations.access import checked_access, vault_access
from integrations.azure.cloud import AuthMethod
from integrations.models import Integration, VaultQuestion
from protocol.plain import plain
from protocol.vocabulary import TaskState

log = logging.getLogger("mazevault.gateways.questions")

MOST_OF_A_PROJECT = 4
"""Questions of one project that are open at once."""
MOST_OPEN = 64
"""Open ones of all projects; each one here is a thread of some node for as long as a vault takes."""
KEPT = 20
"""Answers kept for each integration and kind, the oldest of which go when another one is asked."""
LONGEST = timedelta(seconds=90)
"""A question without an answer ends after so long: its gateway is silent, or the node that asked it has ended."""
RETRY_SECONDS = 2
TASK_KINDS = {VaultQuestion.TEST: "integration.test", VaultQuestion.ACCESS: "integration.access"}
WAITING = (TaskState.PENDING, TaskState.CLAIMED)

LONGEST_TEXT, MOST_ROWS = 2000, 1000
TROUBLE: Mapping[str, type] = {"cause": str, "fix": str, "owner": str, "code": str}
FORMS: Mapping[str, Mapping[str, type]] = {
    "stages": {"stage": str, "outcome": str, "milliseconds": int, **TROUBLE},
    "grants": {"principal_id": str, "principal_type": str, "role": str, "scope": str, "inherited": bool, "reads_values": bool,
               "reads_names": bool, "writes": bool},
}  # fmt: skip
"""The rows of an answer, by its name: fields with their types."""
Answer = tuple[dict[str, Any], str]
"""What came back, and a sentence when there is something to say."""


def ask_here(integration: Integration, kind: str, method: AuthMethod, by: By, answer: Callable[[], Answer]) -> VaultQuestion:
    """Have this node find out. Raises `Conflict` (QUESTION_OPEN) and `TooManyRequests` (TOO_MANY_QUESTIONS)."""
    question = _open(integration, kind, method, by, None)
    in_a_thread(question.id, answer)
    return settled(question)


def ask_gateway(integration: Integration, kind: str, method: AuthMethod, by: By, **payload: Any) -> VaultQuestion:
    """Have the active gateway of the vault's environment find out. Raises the same."""
    environment = integration.environment
    if environment is None:
        raise ValidationFailed("environment: the integration names none, so no gateway is known that could reach its vault")
    code = environment.gateway_environment
    checked_access(integration, code)
    wish = {"integration": str(integration.id), **payload}

    def offer() -> uuid.UUID:
        return dispatch.offer(code, KINDS[TASK_KINDS[kind]], wish, actor=by.actor, address=by.address).id

    return _open(integration, kind, method, by, offer)


def seen(integration: Integration, identifier: uuid.UUID, kind: str, by: By) -> VaultQuestion:
    """How a question stands. One in a person's own name is shown to nobody else. Raises `NotFound`."""
    found = VaultQuestion.objects.filter(integration=integration, id=identifier, kind=kind).first()
    if found is None or (found.method == AuthMethod.ON_BEHALF_OF and found.asked_by != by.actor):
        raise absent("question to this vault")
    return settled(found)


def newest(integration: Integration, kind: str, method: AuthMethod) -> VaultQuestion | None:
    """The last one that was asked in this way, with its answer if there is one."""
    asked = VaultQuestion.objects.filter(integration=integration, kind=kind, method=method.value).order_by("-begun_at").first()
    return settled(asked) if asked else None


def taken(question: VaultQuestion) -> bool:
    """Take an answer away to keep it elsewhere. False when somebody else did."""
    return VaultQuestion.objects.filter(id=question.id).exclude(ended_at=None).delete()[0] > 0


def settled(question: VaultQuestion) -> VaultQuestion:
    """The same, with the answer if there is one by now. Safe to repeat and to race."""
    if question.ended_at is None:
        task = Task.objects.select_related("gateway").filter(id=question.task).first() if question.task else None
        if task is not None and task.state not in WAITING:
            _end(question.id, _shaped(task.result), task.detail, ran_at=task.gateway.name if task.gateway else "")
        elif question.begun_at + LONGEST < database_now():
            _end(question.id, {}, _silence(question, task))
        question.refresh_from_db()
    return question


def _open(
    integration: Integration, kind: str, method: AuthMethod, by: By, offer: Callable[[], uuid.UUID] | None
) -> VaultQuestion:
    _settle_open(integration)
    with transaction.atomic():
        transaction_lock(f"vault-questions:{integration.project_id}")
        _refuse_too_many(integration, kind)
        question = VaultQuestion.objects.create(
            integration=integration, kind=kind, method=method.value, asked_by=by.actor, task=_task_for(integration, kind, offer),
            ran_at="" if offer else "primary", vault_id=vault_access(integration).vault_id,
        )  # fmt: skip
        _forget_old(integration, kind)
        details = {"method": method.value, "question": str(question.id), "project_id": integration.project_id}
        changes.record(by, f"integration.{kind}_asked", "integration", integration.id, details)
    question.refresh_from_db()
    return question


def _settle_open(integration: Integration) -> None:
    """Those of the project that have ended meanwhile take nobody's place."""
    for one in VaultQuestion.objects.filter(integration__project=integration.project_id, ended_at=None)[:MOST_OF_A_PROJECT]:
        settled(one)
    for one in VaultQuestion.objects.filter(ended_at=None, begun_at__lt=database_now() - LONGEST)[:MOST_OPEN]:
        settled(one)


def _refuse_too_many(integration: Integration, kind: str) -> None:
    waiting = VaultQuestion.objects.filter(ended_at=None)
    same = waiting.filter(integration=integration, kind=kind).first()
    if same is not None:
        raise Conflict(
            "this vault is being asked already; wait for that answer", code="QUESTION_OPEN", retry_after=RETRY_SECONDS,
            extra={"question": str(same.id)},
        )  # fmt: skip
    if waiting.filter(integration__project=integration.project_id).count() >= MOST_OF_A_PROJECT:
        raise _too_many(f"{MOST_OF_A_PROJECT} questions of this project wait for their vaults already")
    if waiting.count() >= MOST_OPEN:
        raise _too_many(f"{MOST_OPEN} questions wait for vaults already")


def _too_many(sentence: str) -> TooManyRequests:
    return TooManyRequests(f"{sentence}; try again in a moment", code="TOO_MANY_QUESTIONS", retry_after=RETRY_SECONDS)


def _task_for(integration: Integration, kind: str, offer: Callable[[], uuid.UUID] | None) -> uuid.UUID | None:
    """The task of an earlier question that no gateway has taken yet serves this one too, so that they do not pile up."""
    if offer is None:
        return None
    asked = VaultQuestion.objects.filter(integration=integration, kind=kind).order_by("-begun_at").first()
    earlier = asked.task if asked else None
    return earlier if earlier and Task.objects.filter(id=earlier, state=TaskState.PENDING).exists() else offer()


def _forget_old(integration: Integration, kind: str) -> None:
    ended = VaultQuestion.objects.filter(integration=integration, kind=kind).exclude(ended_at=None)
    old = ended.order_by("-begun_at").values_list("id", flat=True)[KEPT : 2 * KEPT]
    VaultQuestion.objects.filter(id__in=list(old)).delete()


def in_a_thread(identifier: uuid.UUID, answer: Callable[[], Answer]) -> None:
    """Outside of any transaction, since the thread looks the question up on a connection of its own."""
    threading.Thread(target=find_out, args=(identifier, answer), name="vault question", daemon=True).start()


def find_out(identifier: uuid.UUID, answer: Callable[[], Answer]) -> None:
    try:
        found, detail = answer()
    except MazeVaultError as error:
        found, detail = {"trouble": {"cause": error.sentence, "code": error.code, "fix": "", "owner": ""}}, error.sentence
    except Exception:  # the edge of a thread: whatever was raised is logged, and the question gets an answer
        log.exception("a question to a vault broke off")
        found, detail = {}, "something went wrong here; the log of the server names the cause"
    try:
        _end(identifier, found, detail)
    finally:
        give_connection_back()


def _end(identifier: uuid.UUID, answer: dict[str, Any], detail: str, ran_at: str | None = None) -> None:
    """Keep the first answer that comes; the trail has it once."""
    with transaction.atomic():
        still_open = VaultQuestion.objects.filter(id=identifier, ended_at=None)
        told = {"ran_at": ran_at} if ran_at else {}
        if not still_open.update(ended_at=database_now(), answer=answer, detail=plain(detail)[:2000], **told):
            return
        question = VaultQuestion.objects.select_related("integration").get(id=identifier)
        details = {"ran_at": question.ran_at, "method": question.method, "asked_by": question.asked_by,
                   "question": str(question.id), "project_id": question.integration.project_id}  # fmt: skip
        past = {VaultQuestion.TEST: "integration.tested", VaultQuestion.ACCESS: "integration.access_listed"}[question.kind]
        changes.record(None, past, "integration", question.integration_id, {**details, "ok": went_well(question)})


def _shaped(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a gateway says, as far as it has the form of an answer: its word is shown to people and nothing else."""
    lists = {name: told.get(name) for name in FORMS}
    kept: dict[str, Any] = {
        name: [_only(row, FORMS[name]) for row in rows[:MOST_ROWS] if _fits(row, FORMS[name])]
        for name, rows in lists.items()
        if isinstance(rows, list)
    }
    trouble, at = told.get("trouble"), told.get("at")
    if isinstance(trouble, dict) and _fits(trouble, TROUBLE):
        kept["trouble"] = _only(trouble, TROUBLE)
    return {**kept, "at": at} if isinstance(at, str) and moment_of(at) else kept


def _fits(row: Any, form: Mapping[str, type]) -> bool:
    return isinstance(row, dict) and all(
        isinstance(row.get(name), kind) and len(str(row[name])) <= LONGEST_TEXT for name, kind in form.items()
    )


def _only(row: Mapping[str, Any], form: Mapping[str, type]) -> dict[str, Any]:
    return {name: row[name] for name in form}


def went_well(question: VaultQuestion) -> bool | None:
    """None while it is not known."""
    if question.ended_at is None:
        return None
    stages = question.answer.get("stages")
    return all(stage["outcome"] != "failed" for stage in stages) if stages else "grants" in question.answer


def _silence(question: VaultQuestion, task: Task | None) -> str:
    if question.task is None:
        return "the node that asked the vault has ended before an answer came; ask again"
    code = routes.environment_of(task.environment_id).code if task else "the environment"
    return f"no gateway of {code} answered within {LONGEST.total_seconds():.0f} seconds; see the health of its gateways"
