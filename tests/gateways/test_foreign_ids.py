"""What a gateway asks about a thing of another environment is answered as of a thing that never was: status, code, words (I13).

Every id in every message of the channel x one thing of every kind in PRO, asked by the active gateway of NPR.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from django.db import transaction

from accounts.models import Role, RoleGrant, User
from common.clock import now
from gateways import dispatch, inbox
from gateways.kinds import KINDS
from gateways.models import ReceivedWrite
from integrations.models import StorageMove, SyncRun
from protocol import paths, storage, sync
from protocol.messages import Acknowledged, DrainReport, FenceAcknowledged, Message, TaskResult, TaskResults, TaskVerdicts
from protocol.vault_access import AskAccess, VaultAccess
from protocol.vocabulary import TaskOutcome, WriteOperation
from protocol.writes import QueuedWrite, WriteBatch, WriteBody, WriteCheck, WriteKnown, WriteReceipts, head_of
from tests import factories
from tests.architecture.test_matrix import organization_with_everything
from tests.conftest import Person, fleet_of
from tests.fakes.gateway import FakeGateway, NewSecret
from vault.models import Secret

Ask = tuple[str, Message, type[Message]]
"""Path, message, kind of the answer."""


@dataclass
class World:
    npr: FakeGateway
    mine: Secret
    """One that NPR's gateway may name."""
    author: str
    theirs: dict[str, str]
    """One thing of every kind in PRO."""


@pytest.fixture
def world(primary: None, admin: Person) -> World:
    npr, pro = fleet_of("NPR")[0], fleet_of("PRO")[0]
    there = organization_with_everything(admin, "Bank")
    project = factories.project(factories.organization("Insurer"))
    dev, prod = factories.environment_of(project), factories.environment_of(project, "prod")
    writer = User.objects.create(email="w@example.com", role="viewer", password="!")
    RoleGrant.objects.create(user=writer, role=Role.objects.get(name="project_admin"), project=project)
    named = factories.signed_in_at("NPR", writer)
    vault = {"name": "v", "type": "key_vault", "provider": "azure_key_vault", "environment": "prod",
             "config": {"vault_url": "https://kv-pro.vault.azure.net"}}  # fmt: skip
    integration = admin.post(f"projects/{project.id}/integrations", vault)[1]
    secret = Secret.objects.create(project=project, environment=prod, key="p", version=1, created_at=now(), updated_at=now())
    mine = Secret.objects.create(project=project, environment=dev, key="d", version=1, created_at=now(), updated_at=now())
    run = SyncRun.objects.create(
        rule_id=there["rule"], phase="preview", asked_by="a", deletion_count=1, deletion_percent=1, environment=prod, target="t"
    )
    move = StorageMove.objects.create(project=project, gateway_environment="PRO", to="key_vault", asked_by="a")
    task = dispatch.offer("PRO", KINDS["gateway.probe"], {}, actor="a", address="")
    written = pro.write(secret, "v")
    pro.upload_one(written)
    theirs = {
        "integration": integration["id"], "secret": str(secret.id), "environment": str(prod.id), "run": str(run.id),
        "move": str(move.id), "rule": there["rule"], "write": str(ReceivedWrite.objects.get().id), "gateway": pro.id,
        "task": str(task.id),
    }  # fmt: skip
    return World(npr, mine, named, theirs)


def asks(world: World, identifier: str) -> Iterator[tuple[str, Ask]]:
    """Every message with this id in each of its places, the rest as a gateway that is sound says it."""
    claim, epoch, mine = str(uuid.uuid4()), world.npr.epoch, world.mine
    run = {"run": identifier, "claim": claim, "epoch": epoch}
    move = {"move": identifier, "claim": claim, "epoch": epoch}
    place = {"project": str(mine.project_id), "project_environment": str(mine.environment_id), "key": "k", "base_version": None,
             "actor": world.author, "epoch": epoch}  # fmt: skip
    yield "access.integration", (paths.VAULT_ACCESS, AskAccess(identifier, epoch), VaultAccess)
    for operation in (WriteOperation.UPDATE, WriteOperation.CREATE, WriteOperation.PURGE):
        body = WriteBody(external_version="e" * 32) if operation is not WriteOperation.PURGE else WriteBody()
        check = {"operation": operation, "secret": identifier, "body": body, **place}
        yield f"check.secret {operation}", (paths.WRITES_CHECK, WriteCheck(**check), WriteKnown)
        for field in ("project", "project_environment"):
            of_field = WriteCheck(**{**check, "secret": str(mine.id), field: identifier})
            yield f"check.{field} {operation}", (paths.WRITES_CHECK, of_field, WriteKnown)
    yield "ask", (paths.WRITES, WriteBatch(ask=[identifier]), WriteReceipts)
    result = TaskResult(identifier, claim, epoch, TaskOutcome.SUCCEEDED, 1.0)
    yield "result.task", (paths.TASK_RESULTS, TaskResults(results=[result]), TaskVerdicts)
    yield "open.run", (paths.SYNC_OPEN, sync.OpenRun(**run), sync.RunOrder)
    yield "rows.run", (paths.SYNC_ROWS, sync.AskRows(**run, listing=sync.Listing.HISTORY), sync.Rows)
    yield "progress.run", (paths.SYNC_PROGRESS, sync.Progress(**run), sync.ProgressAnswer)
    yield "end.run", (paths.SYNC_END, sync.EndRun(**run, end=sync.RunEnd.DONE), Acknowledged)
    yield "move.move", (paths.STORAGE_MOVE, storage.MoveProgress(**move), storage.MoveAnswer)
    yield "end.move", (paths.STORAGE_END, storage.EndMove(**move), Acknowledged)
    yield "look.move", (paths.STORAGE_LOOK, storage.LookReport(**move), storage.LookAnswer)
    yield "fence.operation", (paths.FENCE_ACKNOWLEDGE, FenceAcknowledged(identifier, epoch), Acknowledged)
    yield "drain.operation", (paths.DRAIN_REPORT, DrainReport(identifier, epoch, 0, 0), Acknowledged)


PLACES = ("create", "id", "secret", "project", "project_environment", "previous")


IN_USE = "id", "write"
"""Two writes cannot have one id, whoever sent them: the second is kept as evidence (ID_REUSED). What a gateway that is sound
makes up is free, and ids of writes are told to nobody outside their environment."""


def write_of(world: World, place: str, identifier: str) -> QueuedWrite:
    """A queued write with this id in one place of its signed head."""
    mine = world.mine
    if place == "create":
        new = NewSecret(mine.project_id, mine.environment_id, "fresh", uuid.UUID(identifier))
        return world.npr.write(new, "v", operation=WriteOperation.CREATE, actor=world.author)
    named = {"project": mine.project_id, "project_environment": mine.environment_id, "secret": mine.id}
    named |= {place: uuid.UUID(identifier)} if place in named else {}
    target = NewSecret(named["project"], named["project_environment"], mine.key, named["secret"], mine.version)
    more = {place: identifier} if place in ("id", "previous") else {}
    return world.npr.write(target, "v", actor=world.author, **more)


def said(answer: Any, identifier: str) -> str:
    text = msgspec.json.encode(answer).decode() if isinstance(answer, Message) else f"{answer.status_code} {answer.content!r}"
    return MOMENT.sub("<when>", text.replace(identifier, "<the id>"))


MOMENT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z?")


def test_an_id_of_another_environment_is_an_id_of_nobody(world: World) -> None:
    wrong, cells = list[str](), 0
    nobody = str(uuid.uuid4())
    expected = {name: ask_and_take_back(world.npr, ask, nobody) for name, ask in asks(world, nobody)}
    for kind, identifier in world.theirs.items():
        for name, ask in asks(world, identifier):
            cells += 1
            found = ask_and_take_back(world.npr, ask, identifier)
            if found != expected[name]:
                wrong.append(f"{name} = {kind}: {found} and not {expected[name]}")
    print(f"messages with ids of another environment: cells {cells}, wrong {len(wrong)}")
    assert not wrong, "\n".join(wrong)


def ask_and_take_back(gateway: FakeGateway, ask: Ask, identifier: str) -> str:
    with transaction.atomic():
        answer = gateway.call(*ask)
        transaction.set_rollback(True)
    return said(answer, identifier)


@pytest.mark.parametrize("place", PLACES)
def test_a_queued_write_with_an_id_of_another_environment_ends_as_one_with_an_id_of_nobody(world: World, place: str) -> None:
    expected, wrong = outcome(world, place, str(uuid.uuid4())), list[str]()
    for kind, identifier in world.theirs.items():
        if (place, kind) == IN_USE:
            continue
        found = outcome(world, place, identifier)
        if found != expected:
            wrong.append(f"{place} = {kind}: {found} and not {expected}")
    assert not wrong, "\n".join(wrong)


def outcome(world: World, place: str, identifier: str) -> list[str]:
    """What its gateway hears of it, at once and after the next pass; all of it is taken back."""
    before, answers = world.npr.write_sequence, list[str]()
    with transaction.atomic():
        write = write_of(world, place, identifier)
        named = head_of(write.head).id
        for batch in (WriteBatch(writes=[write]), WriteBatch(ask=[named])):
            answer = world.npr.call(paths.WRITES, batch, WriteReceipts)
            answers.append(said(answer, identifier).replace(named, "<the write>"))
            inbox.apply_pending()
        transaction.set_rollback(True)
    world.npr.write_sequence = before
    return answers
