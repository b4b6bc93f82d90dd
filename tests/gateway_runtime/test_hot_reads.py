"""Reading a secret while it is being changed: row and value are of one instant, and nobody is sent away."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import connection, transaction

from tests.gateway_runtime.conftest import Site
from vault import encryption, values
from vault.models import Secret, SecretVersion

ROUNDS = 40
THE_WHOLE_WAY = {"Accept": "application/json, text/plain"}
"""Anything but plain JSON goes through the framework (`vault.hot`)."""


def take_next_version(secret: Secret) -> None:
    """What a page of the copy does: the new version comes with its value, the former one loses it."""
    with transaction.atomic():
        Secret.objects.select_for_update().get(id=secret.id)
        row = Secret.objects.select_related("project", "environment").get(id=secret.id)
        number = row.version + 1
        SecretVersion.objects.create(
            secret=row, version=number, sealed_value=values.seal_value(row, number, f"value {number}"), operation="update",
            author="user:ann",
        )  # fmt: skip
        Secret.objects.filter(id=row.id).update(version=number)
        SecretVersion.objects.filter(secret=row, version__lt=number).update(sealed_value=None)


def test_a_change_between_finding_and_opening_is_seen_whole(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, ann = site.secret(value="value 1"), site.person()
    fresh = type(site.node).freshness
    moved = list[bool]()

    def while_it_moves(self: Any, project: Any) -> Any:
        if not moved:
            moved.append(True)
            take_next_version(secret)
        return fresh(self, project)

    monkeypatch.setattr(type(site.node), "freshness", while_it_moves)
    status, read = ann.call("get", f"secrets/{secret.id}", headers=THE_WHOLE_WAY)
    assert (status, read.get("value"), read.get("version")) == (200, "value 2", 2), read


def test_a_change_after_the_one_statement_of_the_short_way_is_not_seen_in_part(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There row and value are read together, so what comes between reading and answering changes neither."""
    secret, ann = site.secret(value="value 1"), site.person()
    moved, opened = list[bool](), encryption.open_sealed

    def while_it_moves(*args: Any) -> bytes:
        if not moved:
            moved.append(True)
            take_next_version(secret)
        return opened(*args)

    monkeypatch.setattr(encryption, "open_sealed", while_it_moves)
    status, read = ann.get(f"secrets/{secret.id}")
    assert moved and (status, read.get("value"), read.get("version")) == (200, "value 1", 1), read
    status, read = ann.get(f"secrets/{secret.id}")
    assert (status, read.get("value"), read.get("version")) == (200, "value 2", 2), read


@pytest.mark.django_db(transaction=True)
def test_a_hot_writer_sends_no_reader_away(site: Site) -> None:
    secret, ann = site.secret(value="value 1"), site.person()
    stop = threading.Event()

    def write() -> None:
        try:
            while not stop.is_set():
                take_next_version(secret)
        finally:
            connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        answers = [ann.get(f"secrets/{secret.id}") for _ in range(ROUNDS)]
    finally:
        stop.set()
        writer.join()
    assert {status for status, _ in answers} == {200}
    assert {body["value"] for _, body in answers} == {f"value {body['version']}" for _, body in answers}
    assert all(body["value"] == f"value {body['version']}" for _, body in answers)
