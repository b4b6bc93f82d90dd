"""Rotations: a new value first, and the ones before it retired only when it has arrived everywhere (verify before retire).

A rotated value has arrived when each sync rule that brings the secret to a vault has brought it, or, where the project keeps its
values in a vault, when it is the newest there. The gateway looks at the vault itself before it switches anything off.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import InterfaceError, OperationalError, transaction
from django.db.models import F, OuterRef, Subquery

from accounts.changes import By
from accounts.models import Storage
from accounts.principals import principal_named
from accounts.roles import SECRETS_READ
from common import audit, feed
from common.errors import MazeVaultError
from common.rows import locked
from gateways import dispatch, sync_runs
from gateways.kinds import KINDS
from gateways.models import Task
from integrations import tallies
from integrations.keeping import owner_of
from integrations.models import Rotation, RotationState, RunState, SyncDirection, SyncItem, SyncRule
from integrations.storing import storage_of
from protocol.replica import ReplicaKind
from protocol.sync import RunPhase
from protocol.vocabulary import TaskState, WriteOperation
from protocol.writes import WriteBody
from vault import generating, rules, schedules, selectors, values
from vault.models import Secret, SecretStatus, SecretVersion
from vault.ports import Origin, SecretChange
from vault.secrets import apply_change

log = logging.getLogger("mazevault.gateways.rotations")

KIND = "vault.retire"
BY_SCHEDULE = "system:rotation"
RETRY = timedelta(minutes=10)
"""So long after a run that failed, or that somebody stopped, a rotation asks for another."""
AT_ONCE = 500
"""Open rotations looked at in one pass."""
LOOKED_AT = 500
"""Secrets with a rotation looked at in one pass."""
NOTICED = timedelta(days=30)
"""A rotated version is noticed within seconds; one that is older than this was made while no Primary ran for a month."""
OPEN = (RotationState.WAITING, RotationState.VERIFYING, RotationState.RETIRING)


@dataclass
class _Place:
    """Where the next pass of this process goes on; from the beginning without one."""

    after: uuid.UUID | None = None


_place = _Place()


@dataclass(frozen=True)
class Target:
    """A name in a vault that has the rotated value: `expected` is its version there. `task` looks, or then retires."""

    integration: str
    name: str
    expected: str
    owner: str
    task: str = ""


def keep_up(now: datetime) -> int:
    """Rotate what is due, notice what was rotated, and go on with open rotations. Returns how many moved."""
    return rotate_due(now) + _notice(now) + sum(_alone(_advance, identifier, now) for identifier in _open())


def rotate_due(now: datetime) -> int:
    """Secrets with a rotation that is due get a value nobody chose. Those in a vault are rotated by people or programs."""
    return sum(_alone(_rotate, secret, now) for secret in _due(now))


def _due(now: datetime) -> list[Secret]:
    """Those that are due among the next ones with a rotation: a bounded number a pass, and all of them one pass after the other.

    Two times of a rotation are an hour apart at least, so a secret that is looked at some minutes late is rotated in time. What
    was missed while no Primary ran is made up for once.
    """
    enabled = Secret.objects.filter(rotation__enabled=True, status=SecretStatus.ACTIVE).order_by("id")
    ids = list((enabled.filter(id__gt=_place.after) if _place.after else enabled).values_list("id", flat=True)[:LOOKED_AT])
    _place.after = ids[-1] if len(ids) == LOOKED_AT else None
    here = Secret.objects.filter(id__in=ids, type__in=generating.GENERATED)
    here = here.filter(project__storage=Storage.MAZEVAULT, project__deleted_at=None, environment__deleted_at=None)
    newest = values.valued(SecretVersion.objects.filter(secret=OuterRef("id"))).order_by("-version")
    found = here.annotate(
        set_at=Subquery(newest.values("created_at")[:1]), rests_in=Subquery(newest.values("external_version")[:1])
    ).filter(rests_in="")  # fmt: skip
    return [secret for secret in found.select_related("project", "environment") if _is_due(secret, now)]


def _alone(work: Callable[[Any, datetime], bool], item: Any, now: datetime) -> bool:
    """One that fails in a way nobody foresaw stops no other; the traceback is kept."""
    try:
        return work(item, now)
    except (OperationalError, InterfaceError):  # the database is away, or gave up: told by who called, once for all items
        raise
    except Exception:
        log.exception("rotation of %s failed", getattr(item, "id", item))
        return False


def _is_due(secret: Secret, now: datetime) -> bool:
    due = schedules.next_due(secret.rotation, secret.set_at, secret.updated_at)  # type: ignore[attr-defined]  # annotated
    return due is not None and due <= now


def rotations_of(identifier: uuid.UUID, by: By) -> list[Rotation]:
    """The rotations of a secret, newest first. Raises `NotFound`."""
    secret = selectors.secret_for(by.principal, str(identifier), SECRETS_READ, (*selectors.SHOWN, SecretStatus.DELETED))
    found = Rotation.objects.filter(version__secret=secret).select_related("version").order_by("-version__version")
    return list(found[:100])


def _rotate(secret: Secret, now: datetime) -> bool:
    change = SecretChange(
        WriteOperation.ROTATE, secret.id, secret.project_id, secret.environment_id, secret.key, secret.version,
        WriteBody(value=generating.new_value(secret.type), reason="its rotation is due"),
    )  # fmt: skip
    try:
        with transaction.atomic():
            apply_change(change, Origin(BY_SCHEDULE), None, now)
    except MazeVaultError as refused:  # somebody changed it just now; the next look tells whether it is still due
        log.warning("secret %s was not rotated: %s", secret.id, refused.sentence)
        return False
    return True


def _notice(now: datetime) -> int:
    """Each version that a rotation made begins its way here, whichever node it was made at."""
    grace = now + timedelta(hours=settings.MAZEVAULT.rotation_grace_hours)
    rotated = SecretVersion.objects.filter(operation=WriteOperation.ROTATE.value, created_at__gte=now - NOTICED)
    fresh = values.valued(rotated.filter(rotation=None))
    rows = [Rotation(version=version, grace_until=grace) for version in fresh.defer("sealed_value")[:500]]
    return len(Rotation.objects.bulk_create(rows, ignore_conflicts=True))


def _open() -> list[uuid.UUID]:
    """Those not looked at for longest, so that many that wait keep nobody else waiting."""
    found = Rotation.objects.filter(state__in=OPEN).order_by(F("looked_at").asc(nulls_first=True), "grace_until", "version_id")
    return list(found.values_list("version_id", flat=True)[:AT_ONCE])


def _advance(identifier: uuid.UUID, now: datetime) -> bool:
    with transaction.atomic():
        rows = Rotation.objects.filter(state__in=OPEN)
        related = rows.select_related("version__secret__project", "version__secret__environment")
        rotation = locked(related, identifier, skip_locked=True)
        if rotation is None:
            return False
        Rotation.objects.filter(version_id=identifier).update(looked_at=now)
        secret = rotation.version.secret
        newest = values.resting(secret)
        if newest is None or newest.id != rotation.version_id or secret.status == SecretStatus.PURGED:
            return _end(rotation, RotationState.SUPERSEDED, now, "another value was set meanwhile")
        try:
            return _wait(rotation, now) if rotation.state == RotationState.WAITING else _follow(rotation, now)
        except MazeVaultError as refused:
            _tell(rotation, f"it cannot go on: {refused.sentence}")
            return False


def _wait(rotation: Rotation, now: datetime) -> bool:
    """Until the value has arrived everywhere and the grace period is over; then the gateways look."""
    targets = _targets(rotation, now)
    if targets is None or now < rotation.grace_until:
        return False
    return _offer(rotation, [asdict(target) for target in targets], RotationState.VERIFYING)


def _offer(rotation: Rotation, targets: list[dict[str, str]], state: RotationState) -> bool:
    code, offered = rotation.version.secret.environment.gateway_environment, list[dict[str, str]]()
    for target in targets:
        wish: dict[str, object] = {name: target[name] for name in ("integration", "name", "expected", "owner")}
        wish["retire"] = state is RotationState.RETIRING
        task = dispatch.offer(code, KINDS[KIND], wish, actor=rotation.version.author, address="")
        offered.append({**target, "task": str(task.id)})
    rotation.targets, rotation.state = offered, state
    rotation.save(update_fields=["targets", "state"])
    return True


def _follow(rotation: Rotation, now: datetime) -> bool:
    tasks = Task.objects.filter(id__in=[target["task"] for target in rotation.targets])
    states = {task.state: task.detail for task in tasks}
    if len(tasks) < len(rotation.targets):
        return _end(rotation, RotationState.FAILED, now, "its tasks are gone, so nothing is known of what they did")
    if set(states) & {TaskState.PENDING.value, TaskState.CLAIMED.value}:
        return False
    failed = [detail for state, detail in states.items() if state != TaskState.SUCCEEDED]
    if failed:
        why = "not verified, so nothing was retired" if rotation.state == RotationState.VERIFYING else "not all were retired"
        return _end(rotation, RotationState.FAILED, now, f"{why}: {failed[0]}")
    if rotation.state == RotationState.VERIFYING and rotation.targets:
        return _offer(rotation, rotation.targets, RotationState.RETIRING)
    _retire(rotation, now)
    return _end(rotation, RotationState.RETIRED, now, "")


def _targets(rotation: Rotation, now: datetime) -> list[Target] | None:
    """Where the value has to be; None while some rule has not brought it yet."""
    version, secret = rotation.version, rotation.version.secret
    if version.external_version:
        integration = storage_of(secret.project, secret.environment)
        name = rules.vault_name_of(secret.key)
        return [Target(str(integration.id), name, version.external_version, owner_of(secret.project_id, secret.environment_id))]
    found = list[Target]()
    items = SyncItem.objects.filter(memory__rule__project=secret.project, memory__environment=secret.environment.slug)
    for item in items.filter(key=secret.key, memory__rule__deleted_at=None).select_related("memory__rule__integration"):
        rule = item.memory.rule
        if rule.sync_direction == SyncDirection.PULL:
            continue
        if item.our_version < version.version:
            _bring(rotation, rule, now)
            return None
        found.append(Target(str(rule.integration_id), item.name, item.their_version, str(rule.id)))
    return found


def _bring(rotation: Rotation, rule: SyncRule, now: datetime) -> None:
    """Run the rule in the name of who rotated, or of who scheduled it. What stands in its way is told in the rotation."""
    _tell(rotation, _why_not_brought(rotation, rule, now))


def _tell(rotation: Rotation, why: str) -> None:
    if why[:1000] != rotation.detail:
        rotation.detail = why[:1000]
        rotation.save(update_fields=["detail"])


def _why_not_brought(rotation: Rotation, rule: SyncRule, now: datetime) -> str:
    version = rotation.version
    if rule.paused:
        return f"the rule {rule.name!r} is paused and has not brought the value"
    last = rule.runs.filter(phase=RunPhase.APPLY).order_by("-created_at").first()
    if last is not None and last.state == RunState.RUNNING:
        return f"the rule {rule.name!r} is running"
    if last is not None and last.created_at > version.created_at:
        again = last.state in (RunState.FAILED, RunState.STOPPED) and last.created_at + RETRY <= now
        if not again:
            return f"the last run of the rule {rule.name!r} is {last.state} and did not bring the value; see what it left alone"
    caller = principal_named(version.author, now) or principal_named(rule.scheduled_by, now)
    if caller is None:
        return f"nobody is there any more in whose name the rule {rule.name!r} could run; run it"
    try:
        with transaction.atomic():
            sync_runs.start(rule.id, sync_runs.RunWish(RunPhase.APPLY), By(caller))
    except MazeVaultError as refused:
        return f"the rule {rule.name!r} could not be run: {refused.sentence}"
    return f"the rule {rule.name!r} was told to run"


def _retire(rotation: Rotation, now: datetime) -> None:
    secret, newest = rotation.version.secret, rotation.version.version
    before = values.valued(secret.versions.filter(version__lt=newest, retired_at=None))
    numbers = list(before.values_list("version", flat=True))
    before.update(retired_at=now)
    feed.note([values.scope_of(secret)], ReplicaKind.SECRET, secret.id)
    audit.record(
        actor=rotation.version.author, action="secret.version.retired", entity="secret", entity_id=str(secret.id),
        environment=values.scope_of(secret), organization=secret.project.organization_id, project=secret.project_id,
        details={"key": secret.key, "versions": numbers, "by": newest,
                 "vaults": [f"{target['name']} {target['expected']}" for target in rotation.targets]},
    )  # fmt: skip


def _end(rotation: Rotation, state: RotationState, now: datetime, detail: str) -> bool:
    rotation.state, rotation.ended_at, rotation.detail = state, now, detail[:1000]
    rotation.save(update_fields=["state", "ended_at", "detail"])
    tallies.count(tallies.ROTATION, [("", state.value)])
    if state is RotationState.FAILED:
        log.warning("rotation of secret %s: %s", rotation.version.secret_id, detail)
    return True
