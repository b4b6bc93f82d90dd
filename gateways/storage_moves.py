"""Moving a project's values between our own store and its vault: looked at first, done secret by secret, resumable (DESIGN §10).

Each version says itself where it rests, so a project can be read at any moment of the move. A secret that has not arrived in the
vault yet takes no new value; the gateway moves it with its versions in their order. What it says it moved stays here too until
it was seen in the vault (`gateways.storage_kept`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Count
from django.db.models.functions import Length

from accounts import changes
from accounts.changes import By
from accounts.models import Environment, Project, Storage
from accounts.principals import principal_named
from accounts.roles import PROJECTS_WRITE, SECRETS_READ, SECRETS_WRITE
from accounts.scoping import place_in, project_for
from common import audit, feed
from common.errors import Conflict, MazeVaultError, NotFound, PermissionRefused
from common.rows import locked
from common.sealing import SealBroken
from gateways import dispatch, doubts, storage_kept
from gateways.kinds import KINDS
from gateways.models import Gateway, Task
from gateways.storage_waiting import handed_out, moving_rows, next_one, waiting
from gateways.storage_words import NotBelieved, doubt_of
from integrations.access import checked_access, method_of
from integrations.azure.cloud import AuthMethod
from integrations.keeping import owner_of
from integrations.models import Integration, RunState, StorageMove, SyncRun
from integrations.storing import storage_of
from protocol.replica import ReplicaKind
from protocol.storage import MOST_VERSIONS, EndMove, MoveAnswer, MovedSecret, MovedVersion, MoveProgress, MovingSecret
from protocol.sync import LARGEST_VALUE_THERE
from protocol.vocabulary import TaskState
from vault import encryption, rules, values
from vault.models import Secret, SecretStatus, SecretVersion

log = logging.getLogger("mazevault.gateways.storage")

KIND, PUT_BACK = "storage.move", "vault.put_back"
BROKEN_AT_ONCE = 100
"""Secrets that do not open one answer passes over; the next task goes on."""
MOST_RULES = 1000
"""Rules of a project whose names in a vault are taken over."""


@dataclass
class Share:
    """What a move means in one environment of the project."""

    environment: str
    gateway_environment: str
    target: str = ""
    secrets: int = 0
    versions: int = 0
    deleted: int = 0
    older_versions_that_stay: int = 0


@dataclass
class Preview:
    """A move before anybody agreed to it. `problems` must be gone before it can begin."""

    to: str
    shares: list[Share] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    digest: str = ""


def preview(project_id: uuid.UUID, to: str, by: By) -> Preview:
    """What would be moved, and what stands in the way. Raises `NotFound`, `PermissionRefused`."""
    project = project_for(by.principal, project_id, PROJECTS_WRITE)
    return _preview(project, to, by)


def start(project_id: uuid.UUID, to: str, confirm: str, by: By) -> list[StorageMove]:
    """Switch where new values go, and begin to move the others; one move for each gateway environment.

    Raises `Conflict`: PREVIEW_STALE when the digest is of another preview, STORAGE_CANNOT_MOVE with the first problem,
    STORAGE_MOVING while one runs,
    SYNC_RUNNING while a sync run of the project does.
    """
    with transaction.atomic():
        seen = project_for(by.principal, project_id, PROJECTS_WRITE)
        project = Project.objects.select_for_update().get(id=seen.id)
        if project.storage_moves.filter(state=RunState.RUNNING).exists():
            raise Conflict("storage: the project is being moved; wait until that is over", code="STORAGE_MOVING")
        if SyncRun.objects.filter(rule__project=project, state=RunState.RUNNING).exists():
            raise Conflict("storage: a sync run of the project is not over; wait for it or stop it", code="SYNC_RUNNING")
        shown = _preview(project, to, by)
        if shown.problems:
            raise Conflict(f"storage: {shown.problems[0]}", code="STORAGE_CANNOT_MOVE")
        if shown.digest != confirm:
            raise Conflict("confirm: the project is not as it was looked at; look at the preview again", code="PREVIEW_STALE")
        Project.objects.filter(id=project.id).update(storage=to)
        project.storage = to
        changes.project_changed(project)
        details = {"project_id": project.id, "to": to, "shares": [asdict(share) for share in shown.shares]}
        changes.record(by, "project.storage.moved", "project", project.id, details, severity=audit.Severity.WARNING)
        codes = sorted({share.gateway_environment for share in shown.shares if share.secrets})
        return [_begin(project, to, code, by) for code in codes]


def moves_of(project_id: uuid.UUID, by: By) -> list[StorageMove]:
    """The project's moves, newest first."""
    project_for(by.principal, project_id, SECRETS_READ)  # what stayed is named
    return list(project_for(by.principal, project_id, PROJECTS_WRITE).storage_moves.order_by("-created_at")[:50])


def take_progress(gateway: Gateway, body: MoveProgress, now: datetime) -> MoveAnswer:
    """Keep how secrets ended; answer with the next one. Raises `Conflict` (STALE_CLAIM, RUN_ENDED) or `PermissionRefused`, and
    `ValidationFailed` for what is not believed, which holds the gateway."""
    try:
        with transaction.atomic():
            return _taken(gateway, body, now)
    except NotBelieved as said:
        doubts.refuse(gateway, said.doubt)


def _taken(gateway: Gateway, body: MoveProgress, now: datetime) -> MoveAnswer:
    move = _move(gateway, body.claim, body.epoch, body.move)
    for ended in body.ended:
        _settle(move, ended, gateway, now)
    if body.ended:
        dispatch.note_progress(move.task)
        move.save(update_fields=["moved", "failed", "opened"])
    answer = MoveAnswer(to_vault=move.to == Storage.KEY_VAULT)
    after = uuid.UUID(body.ended[-1].secret) if body.ended else None
    for _ in range(BROKEN_AT_ONCE):
        secret = next_one(move, after)
        if secret is None or not _may(move, secret, now):
            return answer
        try:
            return _answer(move, secret, gateway, answer)
        except SealBroken as broken:  # of its value, or of the integration: it stays where it is, and the others go on
            move.failed = {**move.failed, str(secret.id): {"key": secret.key, "code": "SEAL_BROKEN", "error": str(broken)}}
            move.save(update_fields=["failed"])
    return answer


def _answer(move: StorageMove, secret: Secret, gateway: Gateway, answer: MoveAnswer) -> MoveAnswer:
    """The next secret for the gateway, with its values. Raises `SealBroken`, before anything is noted."""
    integration = storage_of(move.project, secret.environment)
    access = checked_access(integration, gateway.environment_id)
    owner = owner_of(move.project_id, secret.environment_id)
    moving = _moving(move, secret)
    _note_opened(move, secret, integration)
    return MoveAnswer(answer.to_vault, owner, access, moving, _taken_over(move) if answer.to_vault else [])


def _taken_over(move: StorageMove) -> list[str]:
    """The project's rules whose vaults belong to this environment: of another one a gateway learns nothing, not even an id."""
    rules_here = move.project.sync_rules.filter(integration__environment__gateway_environment=move.gateway_environment)
    return [str(rule) for rule in rules_here.order_by("id").values_list("id", flat=True)[:MOST_RULES]]


@transaction.atomic
def end_move(gateway: Gateway, body: EndMove, now: datetime) -> None:
    """End a move, or offer its work again."""
    move = _move(gateway, body.claim, body.epoch, body.move)
    if body.paused:
        _offer(move)
    elif body.code:
        end(move, RunState.FAILED, now, body.code, body.detail)
    else:
        left = waiting(move.project, move.to, move.gateway_environment)
        end(move, RunState.INCOMPLETE if left else RunState.SUCCEEDED, now)


def sweep(now: datetime) -> int:
    """End the moves that no task works on any more. Returns how many ended."""
    ended = 0
    for identifier in StorageMove.objects.filter(state=RunState.RUNNING).values_list("id", flat=True):
        with transaction.atomic():
            running = StorageMove.objects.filter(state=RunState.RUNNING).select_related("project")
            move = locked(running, identifier, skip_locked=True)
            task = Task.objects.filter(id=move.task).first() if move and move.task else None
            if move is None or (task is not None and task.state in (TaskState.PENDING, TaskState.CLAIMED)):
                continue
            end(move, RunState.FAILED, now, "TASK_ENDED", f"the gateway gave it up: {task.detail if task else ''}")
            ended += 1
    return ended


def end(move: StorageMove, state: RunState, now: datetime, code: str = "", detail: str = "") -> None:
    _close_opened(move)
    move.state, move.ended_at, move.code, move.detail = state.value, now, code, detail[:1000]
    move.save(update_fields=["state", "ended_at", "code", "detail", "opened"])
    details = {"project_id": move.project_id, "to": move.to, "state": state.value, "moved": move.moved,
               "failed": len(move.failed), "code": code}  # fmt: skip
    changes.record(None, "project.storage.move_ended", "project", move.project_id, details)
    log.info("move of project %s in %s ended: %s", move.project_id, move.gateway_environment, details)


def _preview(project: Project, to: str, by: By) -> Preview:
    found = Preview(to)
    moved, names = [to, str(project.id)], dict[tuple[str, str], str]()
    for environment in _environments(project):
        secrets = waiting(project, to, environment.gateway_environment, environment)
        if not secrets:
            continue
        place = place_in(project, environment)
        for permission in (SECRETS_READ, SECRETS_WRITE):
            if not by.principal.may(permission, place):
                raise PermissionRefused(f"moving values needs the permission {permission} in {environment.slug} of the project")
        share = Share(environment.slug, environment.gateway_environment)
        found.shares.append(share)
        found.problems += _problems(project, environment, to, secrets, share, names)
        counts = _counted(secrets, to)
        for secret in secrets:
            count = counts.get(secret.id, 0)
            share.secrets += 1
            share.deleted += secret.status == SecretStatus.DELETED
            share.versions += min(count, MOST_VERSIONS)
            share.older_versions_that_stay += max(0, count - MOST_VERSIONS)
            moved.append(f"{secret.id} {secret.version}")
    found.digest = hashlib.sha256(json.dumps(sorted(moved)).encode()).hexdigest()[:32]
    return found


def _problems(
    project: Project, environment: Environment, to: str, secrets: list[Secret], share: Share, names: dict[tuple[str, str], str]
) -> list[str]:
    """`names` holds whose each name in each vault will be, over all environments of the project."""
    try:
        integration = storage_of(project, environment)
        share.target = checked_access(integration, environment.gateway_environment).vault_url
    except MazeVaultError as refused:
        return [refused.sentence.removeprefix("storage: ")]
    if method_of(integration) is AuthMethod.ON_BEHALF_OF:
        return [
            f"the integration {integration.name!r} reaches the vault in each person's own name, and a move has no person; choose "
            "managed identity or an application for it"
        ]
    return _unfit(secrets, share.target, names) if to == Storage.KEY_VAULT else []


def _unfit(secrets: list[Secret], target: str, names: dict[tuple[str, str], str]) -> list[str]:
    """What a vault cannot hold, each with its fix."""
    problems, too_large = list[str](), _too_large(secrets)
    for secret in secrets:
        whose = f"{secret.key!r} in {secret.environment.slug}"
        try:
            rules.vault_name_of(secret.key)
        except MazeVaultError:
            problems.append(f"the key {secret.key!r} makes no name in a vault; rename it: letters, digits, hyphens, `_` and `.`")
            continue
        other = names.setdefault((target, rules.folded_vault_name(secret.key)), whose)
        if other != whose:
            problems.append(
                f"the keys {other} and {whose} would get the same name in one vault; rename one, or choose another vault "
                "for one of the environments"
            )
        if secret.id in too_large:
            problems.append(f"a value of {secret.key!r} has more than {LARGEST_VALUE_THERE} bytes, which a vault does not hold")
    return problems


def _counted(secrets: list[Secret], to: str) -> dict[uuid.UUID, int]:
    rows = moving_rows(secrets, to).order_by().values_list("secret").annotate(many=Count("id"))
    return dict(rows)


def _too_large(secrets: list[Secret]) -> set[uuid.UUID]:
    """Secrets with a value that no vault takes. A sealed value tells its length, so none is opened for that."""
    rows = moving_rows(secrets, Storage.KEY_VAULT).annotate(size=Length("sealed_value"))
    return set(rows.filter(size__gt=encryption.sealed_size(LARGEST_VALUE_THERE)).values_list("secret", flat=True))


def _begin(project: Project, to: str, code: str, by: By) -> StorageMove:
    move = StorageMove.objects.create(project=project, gateway_environment=code, to=to, asked_by=by.actor)
    _offer(move)
    move.refresh_from_db()
    return move


def _offer(move: StorageMove) -> None:
    wish = {"move": str(move.id)}
    task = dispatch.offer(
        move.gateway_environment, KINDS[KIND], wish, actor=move.asked_by, address="", pause=timedelta(0)
    )  # fmt: skip
    move.task = task.id
    move.save(update_fields=["task"])


def _move(gateway: Gateway, claim: str, epoch: int, identifier: str) -> StorageMove:
    dispatch.refuse_unless_active(gateway, epoch)
    move = locked(StorageMove.objects.select_related("project__organization"), identifier)
    task = Task.objects.filter(id=move.task).first() if move and move.task else None
    if move is None or not dispatch.is_claimed(task, gateway, claim, epoch):
        raise Conflict("this claim no longer counts for a move", code="STALE_CLAIM")
    if move.state != RunState.RUNNING or move.project.deleted_at is not None:
        raise Conflict("the move has ended", code="RUN_ENDED")
    return move


def _may(move: StorageMove, secret: Secret, now: datetime) -> bool:
    """Whether whoever asked for the move still may read and write there. If not, what is left stays where it is."""
    caller = principal_named(move.asked_by, now)
    place = place_in(move.project, secret.environment)
    return caller is not None and all(caller.may(permission, place) for permission in (SECRETS_READ, SECRETS_WRITE))


def _moving(move: StorageMove, secret: Secret) -> MovingSecret:
    to_vault = move.to == Storage.KEY_VAULT
    rows = handed_out(secret, move.to)
    versions = [
        MovedVersion(row.version, "" if to_vault else row.external_version, values.open_value(secret, row) if to_vault else None)
        for row in rows
    ]
    action = "secret.moving_to_vault" if to_vault else "secret.moving_from_vault"
    _tell(move, secret, action, {"versions": [row.version for row in rows], "from": [row.external_version for row in rows]})
    deleted = secret.status == SecretStatus.DELETED
    return MovingSecret(str(secret.id), secret.key, rules.vault_name_of(secret.key), deleted, versions, secret.version)


def _note_opened(move: StorageMove, secret: Secret, integration: Integration) -> None:
    """A deleted secret is recovered in the vault to be read; that is known before it happens, so that no crash leaves it so."""
    if move.to == Storage.MAZEVAULT and secret.status == SecretStatus.DELETED:
        move.opened = {**move.opened, str(secret.id): str(integration.id)}
        move.save(update_fields=["opened"])


def _close_opened(move: StorageMove) -> None:
    """Have what was recovered and never told of again deleted in the vault, unless it lives again by now."""
    rows = Secret.objects.filter(id__in=list(move.opened), status=SecretStatus.DELETED).select_related("environment")
    for secret in filter(_newest_there, rows):
        wish = {
            "integration": move.opened[str(secret.id)], "name": rules.vault_name_of(secret.key), "key": secret.key,
            "does": "delete", "version": _newest_there(secret), "recorded": "", "operation": str(move.id),
            "owner": owner_of(move.project_id, secret.environment_id),
        }  # fmt: skip
        dispatch.offer(move.gateway_environment, KINDS[PUT_BACK], wish, actor=move.asked_by, address="")
    move.opened = {}


def _newest_there(secret: Secret) -> str:
    row = values.resting(secret)
    return row.external_version if row else ""


def _settle(move: StorageMove, ended: MovedSecret, gateway: Gateway, now: datetime) -> None:
    rows = Secret.objects.select_related("project", "environment").filter(project=move.project)
    secret = locked(rows, ended.secret, no_key=True) if rows.filter(id=ended.secret).exists() else None
    if secret is None or secret.environment.gateway_environment != move.gateway_environment:
        raise NotFound("secret: is not part of this move")
    move.opened = {name: at for name, at in move.opened.items() if name != ended.secret}
    if ended.code:
        move.failed = {**move.failed, ended.secret: {"key": secret.key, "code": ended.code, "error": ended.detail}}
        return
    if secret.version != ended.at or secret.status == SecretStatus.PURGED:
        return  # it changed meanwhile; it is handed out again as it is now, or there is nothing left of it
    if doubt := doubt_of(ended.versions, secret.version, to_vault=move.to == Storage.KEY_VAULT):
        raise NotBelieved(doubt)
    rows_told = {row.version: row for row in handed_out(secret, move.to)}
    arrived = [(rows_told[one.version], one) for one in ended.versions if one.version in rows_told]
    if not arrived:
        return  # it was told before
    for row, one in arrived:
        _place(move, secret, row, one, gateway, now)
    _forget_retired(secret)
    move.moved += 1
    move.failed = {name: why for name, why in move.failed.items() if name != ended.secret}
    feed.note([values.scope_of(secret)], ReplicaKind.SECRET, secret.id)
    _tell(move, secret, "secret.moved", {"versions": [one.version for one in ended.versions], "to": move.to})


def _forget_retired(secret: Secret) -> None:
    """Nobody gets a retired value back, so none is left where the others have gone from."""
    secret.versions.exclude(retired_at=None).update(sealed_value=None, value_digest="", external_version="")


def _place(
    move: StorageMove, secret: Secret, row: SecretVersion, told: MovedVersion, gateway: Gateway, now: datetime
) -> None:  # fmt: skip
    """Where the version rests from now on. That it is in the vault is a gateway's word, so our value is kept for a while."""
    if move.to == Storage.KEY_VAULT:
        storage_kept.keep(move, secret, row, gateway, now)
        row.external_version, row.sealed_value, row.value_digest = told.external_version, None, ""
    else:
        value = storage_kept.take_home(secret, row, told.value or "", gateway)
        row.sealed_value = values.seal_value(secret, row.version, value)
        row.value_digest, row.external_version = values.digest_of(secret, value), ""
    row.save(update_fields=["external_version", "sealed_value", "value_digest"])


def _environments(project: Project) -> list[Environment]:
    rows = Environment.objects.filter(organization_id=project.organization_id, deleted_at=None)
    return list(rows.order_by("slug"))


def _tell(move: StorageMove, secret: Secret, action: str, details: dict[str, object]) -> None:
    audit.record(
        actor=move.asked_by, action=action, entity="secret", entity_id=str(secret.id), environment=values.scope_of(secret),
        organization=move.project.organization_id, project=move.project_id, details={"key": secret.key, **details},
    )  # fmt: skip
