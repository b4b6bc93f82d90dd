"""An environment with a project, somebody who may write there, and the two sides that change its secrets."""

from __future__ import annotations

import uuid
from typing import Any

from django.db import transaction

from accounts.models import Project, User
from common.clock import database_now
from failover import driver
from failover.operations import Asked, Wish, request
from gateways.models import ReceivedWrite, Route
from protocol.vocabulary import WriteOperation
from protocol.writes import QueuedWrite, WriteBody, head_of
from tests import factories
from tests.fakes.gateway import FakeGateway, NewSecret
from vault import values
from vault.models import Secret, SecretVersion
from vault.ports import Origin, SecretChange
from vault.secrets import apply_change


class Desk:
    """`change` is what people do at the Primary, `write` what they do at the active gateway."""

    def __init__(self, active: FakeGateway, standby: FakeGateway) -> None:
        self.active, self.standby = active, standby
        self.project = factories.project()
        self.dev = factories.environment_of(self.project, "dev")
        self.prod = factories.environment_of(self.project, "prod")
        self.writer = User.objects.create(email="writer@example.com", full_name="Writer", role="secret_manager", password="!")
        self.actor = factories.signed_in_at(active.environment, self.writer)

    def secret(self, key: str = "db/password", value: str = "one") -> Secret:
        """A secret the Primary holds in version 1."""
        made = uuid.uuid4()
        self.change(WriteOperation.CREATE, made, key=key, value=value)
        return Secret.objects.get(id=made)

    def change(self, operation: WriteOperation, secret: uuid.UUID, *, key: str = "", value: str | None = None) -> None:
        wish = SecretChange(operation, secret, self.project.id, self.dev.id, key, None, WriteBody(value=value))
        with transaction.atomic():
            apply_change(wish, Origin("user:admin"), None, database_now())

    def write(self, secret: Any, value: str | None = "two", **other: Any) -> QueuedWrite:
        return self.active.write(secret, value, **{"actor": self.actor, **other})

    def new(self, key: str = "new/key") -> NewSecret:
        return NewSecret(self.project.id, self.dev.id, key)

    def policy(self, **fields: str) -> None:
        Project.objects.filter(id=self.project.id).update(**fields)

    def move_to_standby(self, *, acknowledged: bool = True) -> None:
        """The standby becomes active in the next epoch: after the old gateway's word, or when its lease has run out."""
        request("NPR", "activate-dr", Wish(), Asked("user:admin", ""))
        if acknowledged:
            order = self.active.told_to_fence()
            self.active.acknowledge_fence(order.operation, order.epoch)
        else:
            Route.objects.filter(pk="NPR").update(lease_until=None, lease_blocked_until=None)
        driver.drive_all()
        assert Route.objects.get(pk="NPR").active_gateway_id == self.standby.row.id


def id_of(write: QueuedWrite) -> str:
    return head_of(write.head).id


def row_of(write: QueuedWrite) -> ReceivedWrite:
    return ReceivedWrite.objects.get(id=id_of(write))


def value_of(secret: Any) -> str:
    row = Secret.objects.select_related("environment").get(id=secret.id)
    return values.open_value(row, values.holding(row))


def history(secret: Any) -> list[tuple[int, str]]:
    return list(SecretVersion.objects.filter(secret_id=secret.id).order_by("version").values_list("version", "operation"))
