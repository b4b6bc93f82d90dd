"""Doing tasks: claim, act under the lease, commit what happened, once (DESIGN §2, §7). `results` tells the Primary."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any

import msgspec
from django.db import IntegrityError, transaction

from common.clock import boottime
from common.clock import now as clock_now
from gateway_runtime import probes, results, storage_look, storage_move, sync_run, vaults
from gateway_runtime.client import Channel
from gateway_runtime.frames import Executor, TaskFrame, TaskImpossible
from gateway_runtime.models import Effect
from gateway_runtime.node import MayNotAct, Node
from integrations.azure.cloud import Connection
from integrations.azure.connection_test import PROBE_OWNER, test_connection
from integrations.azure.egress import CALL_SECONDS
from integrations.azure.errors import AzureTrouble, ObjectMissing
from integrations.azure.keyvault import Entry, KeyVault, Marks
from integrations.azure.rbac import RoleAssignments
from protocol import paths
from protocol.messages import (
    AskDirective,
    ClaimTasks,
    Directive,
    OfferedTask,
    TaskOffers,
)
from protocol.vault_access import AskAccess, VaultAccess
from protocol.vocabulary import TaskOutcome, WriteOperation
from protocol.writes import WriteBody
from vault import claims
from vault.claims import Request
from vault.models import Secret, VaultClaim
from vault.ports import SecretChange

log = logging.getLogger("mazevault.gateway.work")

CLAIM_LIMIT = 1
"""Tasks are done one after the other, and a claim runs out: none is taken before it can be begun."""


def probe_surroundings(frame: TaskFrame, payload: Mapping[str, Any]) -> dict[str, Any]:
    """`gateway.probe`: measure database, cache and the way to the Primary, each with its time in milliseconds."""
    measured: dict[str, Callable[[], Any]] = {
        "database": probes.database,
        "cache": probes.cache_server,
        "primary": lambda: _probe_primary(frame.channel, frame.deadline),
    }
    wanted = payload.get("targets", list(measured))
    if any(target not in measured for target in wanted):
        raise TaskImpossible(f"unknown target in {wanted}")
    return {target: msgspec.to_builtins(measured[target]()) for target in wanted}


def _probe_primary(channel: Channel, deadline: float) -> dict[str, Any]:
    began = time.monotonic()
    channel.call(paths.DIRECTIVE, AskDirective(), Directive, timeout=deadline)
    return {"ok": True, "latency_ms": round((time.monotonic() - began) * 1000, 2)}


def try_vault(frame: TaskFrame, payload: Mapping[str, Any]) -> dict[str, Any]:
    """`integration.test`: the way to a vault, stage by stage; writing is tried under the lease."""
    ask = AskAccess(integration=str(payload["integration"]), epoch=frame.epoch)
    connection = vaults.connection_of(frame.channel.call(paths.VAULT_ACCESS, ask, VaultAccess, timeout=frame.deadline))
    credential, guard = vaults.credential_of(connection), vaults.guard()
    marks = Marks(frame.epoch, str(payload["integration"]), PROBE_OWNER) if payload.get("write") else None
    seconds = min(frame.deadline, CALL_SECONDS)
    found = test_connection(connection, credential, guard, marks, frame.effect, seconds=seconds)
    return {"stages": [asdict(one) for one in found]}


def list_access(frame: TaskFrame, payload: Mapping[str, Any]) -> dict[str, Any]:
    """`integration.access`: who has a role on a vault. What Azure refuses is an answer too, with its cause and fix."""
    ask = AskAccess(integration=str(payload["integration"]), epoch=frame.epoch)
    access = frame.channel.call(paths.VAULT_ACCESS, ask, VaultAccess, timeout=frame.deadline)
    credential = vaults.credential_of(vaults.connection_of(access))
    try:
        with RoleAssignments(access.vault_id, credential, vaults.guard()) as assignments:
            found = assignments.access(clock_now())
    except AzureTrouble as trouble:
        return {"trouble": {"cause": trouble.cause, "fix": trouble.fix, "owner": trouble.owner.value, "code": trouble.code}}
    return {"at": found.at.isoformat(), "grants": [asdict(grant) for grant in found.grants]}


def retire_versions(frame: TaskFrame, payload: Mapping[str, Any]) -> dict[str, Any]:
    """`vault.retire`: see that the rotated value is the newest and can be read; only then, if asked to, switch off the others."""
    ask = AskAccess(integration=str(payload["integration"]), epoch=frame.epoch)
    connection = vaults.connection_of(frame.ask(paths.VAULT_ACCESS, ask, VaultAccess))
    name, expected, owner = (str(payload[field]) for field in ("name", "expected", "owner"))
    seconds = min(frame.deadline, CALL_SECONDS)
    with KeyVault(connection, vaults.credential_of(connection), vaults.guard(), seconds=seconds) as vault:
        newest = vault.get(name).entry
        if newest.stands_for != expected:
            raise TaskImpossible(f"the newest version of {name} is {newest.version}, not the rotated one; nothing was retired")
        if payload["retire"] is not True:
            return {"verified": expected, "retired": []}
        mine = [one for one in vault.versions(name) if one.enabled and one.marks and one.marks.owner == owner]
        kept = (expected, newest.version)
        retired = [one for one in mine if one.version not in kept and one.created_at <= newest.created_at]
        for entry in retired:
            with frame.effect():
                vault.switch_off(entry)
    return {"verified": expected, "retired": [entry.version for entry in retired]}


def put_back(frame: TaskFrame, payload: Mapping[str, Any]) -> dict[str, Any]:
    """`vault.put_back`: undo a discarded change, unless somebody changed the name since. Repeating it changes nothing more.

    The newest version must be the one the change set; where it set none (a restoration), the recorded one that it brought back.
    What is not is named as `kept`, and the Primary tells it.
    """
    ask = AskAccess(integration=str(payload["integration"]), epoch=frame.epoch)
    connection = vaults.connection_of(frame.ask(paths.VAULT_ACCESS, ask, VaultAccess))
    does, name, version, recorded = (str(payload[field]) for field in ("does", "name", "version", "recorded"))
    seconds = min(frame.deadline, CALL_SECONDS)
    with (
        _claimed(connection, payload) as claim,
        KeyVault(connection, vaults.credential_of(connection), vaults.guard(), seconds=seconds) as vault,
    ):
        newest = _newest(vault, name)
        claims.prolong(claim, seconds)  # for the looks; before the effect once more
        if does == "recover":
            if newest is None:
                with frame.effect():
                    vault.recover(name)
            return {"put_back": newest is None}
        if newest is None:
            return {"put_back": does == "delete" and _deleted_on_its_way(frame, vault, name), "newest": ""}
        if not (newest.version == version if version else newest.stands_for == recorded):
            done_before = does == "set" and newest.stands_for == recorded
            return {"put_back": False, "newest": newest.version, **({} if done_before else {"kept": newest.version})}
        if does == "delete":
            with frame.effect():
                vault.delete(name)
            return {"put_back": True}
        value = vault.get(name, recorded).value
        claims.prolong(claim, seconds)
        with frame.effect() as epoch:
            marks = Marks(epoch, str(payload["operation"]), str(payload["owner"]), recorded)
            made = vault.put(name, value, marks, key=str(payload["key"]), before=newest)
        return {"put_back": True, "version": made.version}


def _deleted_on_its_way(frame: TaskFrame, vault: KeyVault, name: str) -> bool:
    """A recovery that Azure has not finished brings back what is to be deleted. The name is busy then: the task comes again."""
    try:
        with frame.effect():
            vault.delete(name)
    except ObjectMissing:
        return False
    return True


@contextmanager
def _claimed(connection: Connection, payload: Mapping[str, Any]) -> Iterator[VaultClaim]:
    """The name, from before the look until after the effect: nobody is told meanwhile that a change of it is made (ADR 30).

    Raises `Unavailable` (SECRET_BUSY), upon which the task comes again. A claim whose holder died is undone by the sweep.
    """
    project, environment = (uuid.UUID(one) for one in str(payload["owner"]).removeprefix("project:").split("/"))
    place, key = vaults.guard().vault(connection.vault_url).origin, str(payload["key"])
    living = Secret.objects.filter(project_id=project, environment_id=environment, key=key, deleted_at=None).first()
    undone = SecretChange(
        _UNDOES[str(payload["does"])], living.id if living else uuid.UUID(str(payload["operation"])), project, environment, key,
        None, WriteBody(external_version=str(payload["version"] or payload["recorded"])),
    )  # fmt: skip
    with transaction.atomic():
        claim = claims.take(undone, Request("system"), place)
    if claim is None:
        raise claims.busy(claims.of_name(place, key))
    try:
        yield claim
    except AzureTrouble as trouble:
        if trouble.in_doubt:
            claims.doubt(claim, CALL_SECONDS)
        else:
            claims.release(claim)
        raise
    except BaseException:
        claims.release(claim)
        raise
    claims.release(claim)


_UNDOES = {"set": WriteOperation.UPDATE, "delete": WriteOperation.CREATE, "recover": WriteOperation.DELETE}


def _newest(vault: KeyVault, name: str) -> Entry | None:
    try:
        return vault.get(name).entry
    except ObjectMissing:
        return None


def survey_vault(frame: TaskFrame, payload: Mapping[str, Any]) -> dict[str, Any]:
    """`vault.survey`: which names were last written under an earlier epoch although that had ended by then."""
    ask = AskAccess(integration=str(payload["integration"]), epoch=frame.epoch)
    connection = vaults.connection_of(frame.ask(paths.VAULT_ACCESS, ask, VaultAccess))
    since, epoch, looked_at, late = (
        datetime.fromisoformat(str(payload["since"])),
        int(payload["epoch"]),
        0,
        list[dict[str, Any]](),
    )
    with KeyVault(connection, vaults.credential_of(connection), vaults.guard(), seconds=CALL_SECONDS) as vault:
        for entry in vault.entries():
            looked_at += 1
            marks = entry.marks
            if marks is not None and marks.epoch < epoch and entry.updated_at > since:
                late.append({"name": entry.name, "owner": marks.owner, "epoch": marks.epoch, "operation": marks.operation,
                             "at": entry.updated_at.isoformat()})  # fmt: skip
    return {"looked_at": looked_at, "late": late}


EXECUTORS: Mapping[str, Executor] = {
    "gateway.probe": Executor(probe_surroundings),
    "integration.test": Executor(try_vault, steps=True),
    "integration.access": Executor(list_access, steps=True),
    "vault.survey": Executor(survey_vault, steps=True),
    "vault.retire": Executor(retire_versions, steps=True),
    "vault.put_back": Executor(put_back, steps=True),
    "storage.move": Executor(storage_move.work_on, steps=True),
    "storage.look": Executor(storage_look.work_on, steps=True),
    "sync.run": Executor(sync_run.work_on, steps=True),
}
"""One line a kind; the Primary's table of kinds is `gateways.kinds`."""


def claim_and_do(node: Node, channel: Channel) -> bool:
    """Claim what is offered and do it. False when nothing was."""
    asked_at = boottime()
    claim = ClaimTasks(epoch=node.standing().epoch, limit=CLAIM_LIMIT)
    offers = channel.call(paths.TASK_CLAIM, claim, TaskOffers, timeout=10)
    for offered in offers.tasks:
        do_task(node, channel, offered, asked_at)
    return bool(offers.tasks)


def do_task(node: Node, channel: Channel, offered: OfferedTask, claimed_at: float) -> None:
    """Act under the lease and commit the outcome. A refusal is an outcome too: nothing was touched then.

    `claimed_at` is the boot time at which the claim was asked for.
    """
    try:
        with node.effect() as epoch:
            _refuse_unless_due(offered, epoch, boottime() - claimed_at)
            executor = EXECUTORS.get(offered.kind)
            effect = _begin(offered, epoch)
            if effect is None:
                return
            frame = TaskFrame(channel, node, epoch, node.timing.effect_deadline, offered.claim)
            if executor is None or not executor.steps:
                _act(frame, executor, offered, effect)
        if executor is not None and executor.steps:
            _act(frame, executor, offered, effect)
    except MayNotAct as refused:
        _record_refusal(offered, str(refused))


def _refuse_unless_due(offered: OfferedTask, epoch: int, age: float) -> None:
    """Raises `MayNotAct` for a task of another epoch, and for one whose claim the Primary may have given to somebody else."""
    if epoch != offered.epoch:
        raise MayNotAct(f"the task belongs to epoch {offered.epoch}, the lease to {epoch}")
    if age >= offered.claim_seconds:
        raise MayNotAct(f"the claim is {age:.0f} s old and was good for {offered.claim_seconds:g} s")


def close_interrupted() -> int:
    """At start: effects that were running when the last process died have an unknown end, so they count as failed."""
    return Effect.objects.filter(outcome="").update(
        outcome=TaskOutcome.FAILED.value, detail="the gateway ended while the task ran; whether it was done is not known"
    )


def _begin(offered: OfferedTask, epoch: int) -> Effect | None:
    try:
        with transaction.atomic():
            return Effect.objects.create(
                task=uuid.UUID(offered.id),
                claim=uuid.UUID(offered.claim),
                kind=offered.kind,
                epoch=epoch,
                started_at=clock_now(),
                started_boot=boottime(),
            )
    except IntegrityError:
        log.warning("task %s was begun under this claim before", offered.id)
        return None


def _act(frame: TaskFrame, executor: Executor | None, offered: OfferedTask, effect: Effect) -> None:
    began, node = time.monotonic(), frame.node
    try:
        if executor is None:
            raise TaskImpossible(f"this gateway does not know the kind {offered.kind}")
        effect.result = results.fitting(executor.work(frame, offered.payload))
        effect.outcome = TaskOutcome.SUCCEEDED.value
        node.tasks_succeeded += 1
    except MayNotAct as refused:
        effect.outcome, effect.detail = TaskOutcome.REFUSED.value, str(refused)
        log.warning("task %s stops: %s", offered.id, refused)
    except Exception as error:  # an executor may fail in any way; the outcome says how and the next task goes on
        effect.outcome, effect.detail = TaskOutcome.FAILED.value, f"{type(error).__name__}: {error}"[:2000]
        effect.retry = not isinstance(error, TaskImpossible)
        if effect.retry:
            node.mind_unseen_end(effect.started_boot)
        node.tasks_failed += 1
        log.warning("task %s (%s) failed: %s", offered.id, offered.kind, effect.detail)
    effect.ended_boot, effect.duration_seconds = boottime(), time.monotonic() - began
    effect.save()


def _record_refusal(offered: OfferedTask, why: str) -> None:
    moment = boottime()
    Effect.objects.get_or_create(
        claim=uuid.UUID(offered.claim),
        defaults={
            "task": uuid.UUID(offered.id),
            "kind": offered.kind,
            "epoch": offered.epoch,
            "started_at": clock_now(),
            "started_boot": moment,
            "ended_boot": moment,
            "outcome": TaskOutcome.REFUSED.value,
            "detail": why,
        },
    )
    log.warning("task %s refused: %s", offered.id, why)
