"""Values that were moved into a vault stay here too until they were seen there (ADR 35).

Where the Primary has a way of its own to the vault it looks itself, and one look is enough. Where only the gateway's identity may
go, or the Primary does not reach the vault, the gateway answers two questions, each of its own moment, with a grace period
between them.
"""

from __future__ import annotations

import hmac
import logging
import secrets as chance
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Count, Max, QuerySet

from accounts.changes import SYSTEM
from common import audit, feed
from common.errors import Conflict, MazeVaultError, ValidationFailed
from common.rows import hold, locked
from common.sealing import SealBroken
from gateways import dispatch
from gateways.kinds import KINDS
from gateways.models import Gateway, Task
from gateways.storage_looks import FIRST_LOOK, LOOK_AGAIN, Look, Step, decide
from gateways.storage_own import OwnWays
from integrations import places
from integrations.access import OF_THE_GATEWAY, checked_access, method_of
from integrations.azure.errors import NetworkClosed, Unreachable
from integrations.azure.keyvault import KeyVault
from integrations.models import Integration, RunState, StorageMove
from integrations.sights import Seen, look_at
from integrations.storing import storage_of
from protocol.replica import ReplicaKind
from protocol.storage import LookAnswer, LookReport, MovedVersion, MovingSecret, Sight, VersionSeen, seen_digest
from protocol.vocabulary import TaskState
from vault import rules, values
from vault.models import KeptValue, Secret, SecretStatus, SecretVersion

log = logging.getLogger("mazevault.gateways.storage")

KIND = "storage.look"
MOVES_AT_ONCE, LOOKS_AT_ONCE = 20, 20
"""Moves, and secrets of a move that the Primary looks for itself, in one pass."""
OWN_LOOK = timedelta(minutes=5)
"""For so long a secret belongs to the process that looks for it: a look is bounded by seconds for each of its versions."""
OPEN = (TaskState.PENDING, TaskState.CLAIMED)
NOT_SEEN = "NOT_SEEN_IN_VAULT"


@dataclass(frozen=True)
class Kept:
    """What of a move still rests here too; `detail` is why a look saw nothing."""

    count: int = 0
    detail: str = ""


def keep(move: StorageMove, secret: Secret, row: SecretVersion, told_by: Gateway, now: datetime) -> None:
    """The version is about to say that it rests in the vault; its value stays here beside it."""
    value = values.open_value(secret, row)
    KeptValue.objects.update_or_create(
        version=row,
        defaults={
            "sealed_value": values.seal_value(secret, row.version, value), "value_digest": values.digest_of(secret, value),
            "move": move.id, "told_by": f"gateway:{told_by.id}", "kept_at": now, "seen_at": None, "look_at": now + FIRST_LOOK,
            "by_gateway": False, "nonce": "", "trouble": "",
        },
    )  # fmt: skip


def take_home(secret: Secret, row: SecretVersion, told: str, told_by: Gateway) -> str:
    """The value of a version that comes back from the vault. What still rests here counts more than what a gateway brings."""
    kept = KeptValue.objects.select_related("version").filter(version=row).first()
    if kept is None:
        return told
    value = values.open_kept(secret, kept)
    if not hmac.compare_digest(value.encode(), told.encode()):
        _accuse(secret, [row.version], f"gateway:{told_by.id}", "another value was brought back than the one that went there")
    kept.delete()
    return value


def kept_of(moves: Iterable[StorageMove]) -> Mapping[uuid.UUID, Kept]:
    """By move; a move that keeps nothing is not in it."""
    rows = KeptValue.objects.filter(move__in=[move.id for move in moves]).values("move")
    return {row["move"]: Kept(row["many"], row["why"]) for row in rows.annotate(many=Count("pk"), why=Max("trouble"))}


def keep_up(now: datetime) -> int:
    """Have what is due looked for. Returns the number of moves in which something was begun or found out."""
    due = KeptValue.objects.filter(look_at__lte=now).order_by().values_list("move", flat=True).distinct()[:MOVES_AT_ONCE]
    return sum(_advance(move, now) for move in list(due))


def _advance(identifier: uuid.UUID, now: datetime) -> bool:
    with transaction.atomic():
        move = locked(StorageMove.objects.select_related("project"), identifier, skip_locked=True)
        if move is None:
            return False
        _drop(move)
        own, others = _shared_out(move, now)
        offered = bool(others) and _offer(move, now)
    for secret, integration in own:
        _look_ourselves(move, secret, integration, now)
    return bool(own) or offered


def take_look(gateway: Gateway, body: LookReport, now: datetime) -> LookAnswer:
    """Keep what a gateway saw; answer with what to look for next. Raises `Conflict` (STALE_CLAIM), `PermissionRefused`."""
    with transaction.atomic():
        dispatch.refuse_unless_active(gateway, body.epoch)
        move = locked(StorageMove.objects.select_related("project__organization"), body.move)
        task = Task.objects.filter(id=move.look).first() if move and move.look else None
        if move is None or task is None or not dispatch.is_claimed(task, gateway, body.claim, body.epoch):
            raise Conflict("this claim no longer counts for a look", code="STALE_CLAIM")
        if body.code:
            _put_off(_due(move, now), f"{body.code}: {body.detail}", now)
            return LookAnswer()
        if body.secret:
            _take_answers(move, gateway, body, now)
            dispatch.note_progress(task.id)
            dispatch.extend_claim(task)
        return _ask(move, gateway, now)


def _ask(move: StorageMove, gateway: Gateway, now: datetime) -> LookAnswer:
    _, others = _shared_out(move, now, own=False)
    if not others:
        return LookAnswer()
    secret, integration = others[0]
    nonce = chance.token_hex(32)
    rows = list(_due(move, now).filter(version__secret=secret).select_related("version").order_by("version__version"))
    _due(move, now).filter(version__secret=secret).update(nonce=nonce)
    versions = [MovedVersion(row.version.version, row.version.external_version) for row in rows]
    access = checked_access(integration, gateway.environment_id)
    asked = MovingSecret(str(secret.id), secret.key, rules.vault_name_of(secret.key), deleted=False, versions=versions)
    return LookAnswer(access, asked, nonce)


def _take_answers(move: StorageMove, gateway: Gateway, body: LookReport, now: datetime) -> None:
    secret = _secret_of(move, body.secret)
    told = {one.version: one for one in body.seen}
    rows = KeptValue.objects.filter(move=move.id, version__secret=secret).exclude(nonce="").select_related("version")
    for kept in rows:
        seen = told.get(
            kept.version.version, VersionSeen(kept.version.version, Sight.UNREADABLE, detail="nothing was said of it")
        )
        try:
            same = seen.sight is Sight.READ and hmac.compare_digest(seen.digest, _proof(secret, kept))
            _follow(
                move, secret, kept, Look(seen.sight, same, own=False, first_seen=kept.seen_at), seen.detail, now, gateway.name
            )
        except SealBroken as broken:  # before anything was changed; the other versions and secrets go on
            _put_off(KeptValue.objects.filter(pk=kept.pk), str(broken), now)


def _proof(secret: Secret, kept: KeptValue) -> str:
    row = kept.version
    return seen_digest(kept.nonce, str(secret.id), row.version, row.external_version, values.open_kept(secret, kept))


def _look_ourselves(move: StorageMove, secret: Secret, integration: Integration, now: datetime) -> None:
    """Outside of any transaction, then the result in one of its own."""
    rows = list(KeptValue.objects.filter(move=move.id, version__secret=secret).select_related("version"))
    try:
        found = {kept.version.external_version: seen for kept, seen in _seen_here(secret, integration, rows)}
    except (Unreachable, NetworkClosed) as unreached:
        own = KeptValue.objects.filter(pk__in=[kept.pk for kept in rows])
        own.update(by_gateway=True, look_at=now, trouble=f"the Primary does not reach the vault: {unreached.cause}"[:1000])
        return
    except MazeVaultError as trouble:
        _put_off(KeptValue.objects.filter(pk__in=[kept.pk for kept in rows]), f"{trouble.code}: {trouble.sentence}", now)
        return
    with transaction.atomic():
        held = locked(StorageMove.objects.select_related("project"), move.id)
        hold(Secret, [secret.id], no_key=True)
        for kept in KeptValue.objects.filter(pk__in=[one.pk for one in rows]).select_related("version"):
            seen = found.get(kept.version.external_version)
            if seen is not None and held is not None:
                try:
                    same = hmac.compare_digest(seen.value.encode(), values.open_kept(secret, kept).encode())
                    _follow(
                        held, secret, kept, Look(seen.sight, same, own=True, first_seen=None), seen.detail, now, "the Primary"
                    )
                except SealBroken as broken:
                    _put_off(KeptValue.objects.filter(pk=kept.pk), str(broken), now)


def _seen_here(secret: Secret, integration: Integration, rows: list[KeptValue]) -> list[tuple[KeptValue, Seen]]:
    ways = OwnWays()
    connection, credential = ways.connect(integration, None)
    guard, name = ways.guard(), rules.vault_name_of(secret.key)
    with (
        places.taken(guard.vault(connection.vault_url).host, str(secret.project_id)),
        KeyVault(connection, credential, guard, seconds=ways.seconds) as vault,
    ):
        return [(kept, look_at(vault, name, kept.version.external_version)) for kept in rows]


def _follow(move: StorageMove, secret: Secret, kept: KeptValue, look: Look, detail: str, now: datetime, by: str) -> None:
    decision = decide(look, now, timedelta(hours=settings.MAZEVAULT.storage_grace_hours))
    if decision.step is Step.WAIT:
        kept.seen_at = kept.seen_at or (now if look.same else None)
        kept.nonce, kept.look_at, kept.trouble = "", decision.look_at or now + LOOK_AGAIN, detail[:1000]
        kept.save(update_fields=["seen_at", "nonce", "look_at", "trouble"])
        return
    if decision.step is Step.PUT_BACK:
        why = detail if look.sight is Sight.GONE else "what the vault has under this version is not the value that went there"
        _put_back(move, secret, kept, why)
    else:
        _tell(move, secret, "secret.seen_in_vault", {"version": kept.version.version, "by": by})
    kept.delete()


def _put_back(move: StorageMove, secret: Secret, kept: KeptValue, why: str) -> None:
    """The version rests here again, as before the move. It is shown among what the move left, and can be moved again."""
    row, value = kept.version, values.open_kept(secret, kept)
    row.sealed_value, row.value_digest = values.seal_value(secret, row.version, value), values.digest_of(secret, value)
    row.external_version = ""
    row.save(update_fields=["sealed_value", "value_digest", "external_version"])
    feed.note([values.scope_of(secret)], ReplicaKind.SECRET, secret.id)
    move.failed = {**move.failed, str(secret.id): {"key": secret.key, "code": NOT_SEEN, "error": why[:1000]}}
    move.state = RunState.INCOMPLETE.value if move.state == RunState.SUCCEEDED else move.state
    move.save(update_fields=["failed", "state"])
    _accuse(secret, [row.version], kept.told_by, why)


def _accuse(secret: Secret, versions: list[int], told_by: str, why: str) -> None:
    audit.record(
        actor=SYSTEM, action="secret.move_contradicted", entity="secret", entity_id=str(secret.id),
        environment=values.scope_of(secret), organization=secret.project.organization_id, project=secret.project_id,
        severity=audit.Severity.CRITICAL, details={"key": secret.key, "versions": versions, "told_by": told_by, "why": why},
    )  # fmt: skip
    log.error("secret %s: %s said it was moved, but %s; our own value counts", secret.id, told_by, why)


def _drop(move: StorageMove) -> None:
    """Nobody gets a retired value back, and a purged one is gone: there is nothing to be kept of them."""
    gone = KeptValue.objects.filter(move=move.id)
    gone.exclude(version__retired_at=None).delete()
    gone.filter(version__secret__status=SecretStatus.PURGED).delete()


Due = list[tuple[Secret, Integration]]


def _shared_out(move: StorageMove, now: datetime, *, own: bool = True) -> tuple[Due, Due]:
    """The secrets that are due now: those the Primary looks for itself, which are then this process's for a while, and those of
    the gateway. What nobody can look at now is put off."""
    ours, theirs = Due(), Due()
    for secret in _due_secrets(move, now):
        rows = _due(move, now).filter(version__secret=secret)
        if secret.status == SecretStatus.DELETED:
            _put_off(rows, "the secret is deleted, and so is its name in the vault: it is looked for when it is restored", now)
            continue
        try:
            integration = storage_of(secret.project, secret.environment)
            checked_access(integration, secret.environment.gateway_environment)
        except MazeVaultError as refused:
            _put_off(rows, refused.sentence, now)
            continue
        if method_of(integration) in OF_THE_GATEWAY or rows.filter(by_gateway=True).exists():
            theirs.append((secret, integration))
        elif own:
            rows.update(look_at=now + OWN_LOOK)
            ours.append((secret, integration))
    return ours, theirs


def _due_secrets(move: StorageMove, now: datetime) -> list[Secret]:
    """The longest due first, and in the same order at each question: who answers nothing of use is asked for the same again."""
    due = _due(move, now).order_by("look_at", "version__secret").values_list("version__secret", flat=True)[: LOOKS_AT_ONCE * 5]
    ids = list(dict.fromkeys(due))[:LOOKS_AT_ONCE]
    found = Secret.objects.select_related("project", "environment").in_bulk(ids)
    return [found[one] for one in ids]


def _due(move: StorageMove, now: datetime) -> QuerySet[KeptValue]:
    return KeptValue.objects.filter(move=move.id, look_at__lte=now)


def _offer(move: StorageMove, now: datetime) -> bool:
    """One task at a time looks for what is due of a move; after one that failed there is a pause."""
    last = Task.objects.filter(id=move.look).first() if move.look else None
    if last is not None and last.state in OPEN:
        return False
    if last is not None and last.state != TaskState.SUCCEEDED:
        _put_off(_due(move, now), last.detail, now)
        StorageMove.objects.filter(id=move.id).update(look=None)
        return False
    task = dispatch.offer(move.gateway_environment, KINDS[KIND], {"move": str(move.id)}, actor=SYSTEM, address="")
    StorageMove.objects.filter(id=move.id).update(look=task.id)
    return True


def _put_off(rows: QuerySet[KeptValue], why: str, now: datetime) -> None:
    rows.update(look_at=now + LOOK_AGAIN, trouble=why[:1000], nonce="")


def _secret_of(move: StorageMove, identifier: str) -> Secret:
    try:
        known = uuid.UUID(identifier)
    except ValueError:
        raise ValidationFailed("secret: must be an id") from None
    hold(Secret, [known], no_key=True)
    found = Secret.objects.select_related("project", "environment").filter(id=known, project=move.project).first()
    if found is None:
        raise ValidationFailed("secret: is not part of this move")
    return found


def _tell(move: StorageMove, secret: Secret, action: str, details: dict[str, object]) -> None:
    audit.record(
        actor=move.asked_by, action=action, entity="secret", entity_id=str(secret.id), environment=values.scope_of(secret),
        organization=secret.project.organization_id, project=secret.project_id, details={"key": secret.key, **details},
    )  # fmt: skip
