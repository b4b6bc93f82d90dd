"""Keys change while everything runs, are killed in the middle and go on; no value is ever out of reach (DESIGN §10)."""

from __future__ import annotations

import base64
import json
import os
import secrets as random_bytes
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from accounts.models import Project
from cli.stack.layout import ROOT
from common.clock import now
from common.models import AuditEntry
from protocol.vocabulary import WriteOperation
from protocol.writes import WriteBody
from tests import factories
from vault import encryption, keys, values
from vault.encryption import MasterKeyMismatch, SealBroken, forget_keys
from vault.models import KeyEncryptionKey, Secret, SecretVersion
from vault.ports import Origin, SecretChange
from vault.secrets import apply_change, reveal

COUNT = 7


@pytest.fixture(autouse=True)
def no_keys_in_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each look at a value reads its key from the database, as a fresh process does."""
    monkeypatch.setattr("orchestrator.management.commands.keys.READERS_SECONDS", 0.0)
    forget_keys()
    yield
    forget_keys()


def made(project: Project, number: int, slug: str = "dev") -> Secret:
    environment = factories.environment_of(project, slug)
    change = SecretChange(
        WriteOperation.CREATE, uuid.uuid4(), project.id, environment.id, f"key-{number}", None, WriteBody(value=f"value-{number}")
    )
    with transaction.atomic():
        return apply_change(change, Origin("user:ann"), None, now()).secret


@pytest.fixture
def filled(primary: None) -> dict[uuid.UUID, str]:
    """Seven secrets in NPR, one in PRO, each with its value; and the keys of the authorities and the channel."""
    project = factories.project()
    found = {made(project, number).id: f"value-{number}" for number in range(COUNT)}
    return {**found, made(project, 99, "prod").id: "value-99"}


def readable() -> dict[uuid.UUID, str]:
    """All values as a process sees them that has no key in memory."""
    forget_keys()
    rows = Secret.objects.select_related("project", "environment")
    with transaction.atomic():
        return {row.id: reveal(row, None, actor="user:ann", address="") for row in rows}


def rotate(scope: str = "NPR", batch: int = 2) -> None:
    keys.begin(scope, "test", now())
    for _step in keys.reseal(scope, batch):
        pass
    keys.destroy_unused(scope, "test")


def dies_at(monkeypatch: pytest.MonkeyPatch, turn: int) -> None:
    """The process ends when it reaches a failpoint of `vault.keys` for the n-th time; what it did not commit is gone."""
    reached: list[str] = []

    def reach(name: str) -> None:
        reached.append(name)
        if len(reached) == turn:
            raise KeyboardInterrupt

    monkeypatch.setattr(keys, "reach", reach)


class TestEnvironmentKey:
    def test_a_rotation_moves_every_value_and_destroys_the_old_key(self, filled: dict[uuid.UUID, str]) -> None:
        before = KeyEncryptionKey.objects.get(scope="NPR")
        rotate()
        after = KeyEncryptionKey.objects.get(scope="NPR")
        assert after.id != before.id
        named = {encryption.key_named_by(bytes(row.sealed_value)) for row in npr_versions()}
        assert named == {after.id}
        assert readable() == filled

    def test_values_are_readable_at_every_step(self, filled: dict[uuid.UUID, str]) -> None:
        keys.begin("NPR", "test", now())
        assert readable() == filled
        steps = 0
        for _step in keys.reseal("NPR", 2):
            steps += 1
            assert readable() == filled
        assert steps >= COUNT // 2
        keys.destroy_unused("NPR", "test")
        assert readable() == filled

    @pytest.mark.parametrize("turn", range(1, 12))
    def test_killed_at_any_batch_it_goes_on_where_it_was(
        self, filled: dict[uuid.UUID, str], monkeypatch: pytest.MonkeyPatch, turn: int
    ) -> None:
        """Turn 1 to 9: a batch, empty ones at the end of a table too; 10: the destruction of the old key; at 11 nothing dies."""
        dies_at(monkeypatch, turn)
        try:
            rotate()
            assert turn == 11, "nothing died"
        except KeyboardInterrupt:
            assert KeyEncryptionKey.objects.filter(scope="NPR").count() == 2
            assert readable() == filled
        monkeypatch.undo()
        begun = list(KeyEncryptionKey.objects.filter(scope="NPR", retired_at=None).values_list("id", flat=True))
        if KeyEncryptionKey.objects.filter(scope="NPR").count() == 2:
            rotate()
            assert [row.id for row in KeyEncryptionKey.objects.filter(scope="NPR")] == begun, "no third key was made"
        assert readable() == filled

    def test_digests_follow_the_key_so_equal_values_are_still_recognised(self, filled: dict[uuid.UUID, str]) -> None:
        secret = Secret.objects.select_related("environment").get(key="key-0")
        before = secret.versions.get().value_digest
        rotate()
        assert secret.versions.get().value_digest == values.digest_of(secret, "value-0") != before

    def test_the_keys_of_the_other_environments_stay(self, filled: dict[uuid.UUID, str]) -> None:
        others = set(KeyEncryptionKey.objects.exclude(scope="NPR").values_list("id", flat=True))
        rotate()
        assert set(KeyEncryptionKey.objects.exclude(scope="NPR").values_list("id", flat=True)) == others

    def test_authorities_and_channel_keys_move_with_the_platform_key(self, filled: dict[uuid.UUID, str]) -> None:
        from gateways import identity
        from vault import authorities

        public = identity.signing_key().public_key().public_bytes_raw()
        rotate("platform")
        forget_keys()
        assert KeyEncryptionKey.objects.filter(scope="platform").count() == 1
        assert identity.signing_key().public_key().public_bytes_raw() == public
        assert authorities.export_root_key(b"a long passphrase").startswith(b"-----BEGIN ENCRYPTED")

    def test_a_value_that_does_not_open_keeps_its_old_key_and_stops_nothing_else(self, filled: dict[uuid.UUID, str]) -> None:
        one, two = npr_versions()[:2]
        SecretVersion.objects.filter(pk=one.pk).update(sealed_value=bytes(two.sealed_value))
        keys.begin("NPR", "test", now())
        steps = list(keys.reseal("NPR", 2))
        assert (sum(step.done for step in steps), sum(step.broken for step in steps)) == (COUNT, 1)
        assert keys.destroy_unused("NPR", "test") == 0
        assert keys.held_by_retired("NPR") == 1

    def test_each_step_is_in_the_audit_and_no_key_is(self, filled: dict[uuid.UUID, str]) -> None:
        rotate()
        actions = AuditEntry.objects.filter(entity="encryption_key").order_by("id").values_list("action", flat=True)
        assert list(actions) == ["encryption.key.rotated", "encryption.key.destroyed"]


class TestMasterKey:
    @pytest.fixture
    def new_master(self, settings: Any) -> Callable[[], None]:
        """The process starts again with a new master key, and the old one as the previous."""

        def change() -> None:
            old = settings.MAZEVAULT.master_key
            settings.MAZEVAULT = replace(settings.MAZEVAULT, master_key=random_bytes.token_bytes(32), previous_master_key=old)
            forget_keys()

        return change

    def forget_previous(self, settings: Any) -> None:
        settings.MAZEVAULT = replace(settings.MAZEVAULT, previous_master_key=None)

    def test_all_keys_move_and_then_the_old_master_key_is_needed_no_more(
        self, filled: dict[uuid.UUID, str], new_master: Callable[[], None], settings: Any
    ) -> None:
        count = KeyEncryptionKey.objects.count()
        new_master()
        assert (keys.wrapped_elsewhere(), count) == (count, 3)
        while keys.rewrap_next("test").done:
            assert readable() == filled
        self.forget_previous(settings)
        assert keys.wrapped_elsewhere() == 0
        assert readable() == filled

    @pytest.mark.parametrize("turn", [1, 2, 3])
    def test_killed_at_any_key_it_goes_on_where_it_was(
        self,
        filled: dict[uuid.UUID, str],
        new_master: Callable[[], None],
        settings: Any,
        monkeypatch: pytest.MonkeyPatch,
        turn: int,
    ) -> None:
        new_master()
        with monkeypatch.context() as patch:
            dies_at(patch, turn)
            with pytest.raises(KeyboardInterrupt):
                while keys.rewrap_next("test").done:
                    pass
        assert keys.wrapped_elsewhere() == 3 - (turn - 1), "the one under work is as it was"
        assert readable() == filled
        while keys.rewrap_next("test").done:
            pass
        self.forget_previous(settings)
        assert readable() == filled

    def test_without_the_old_master_key_nothing_is_touched(self, filled: dict[uuid.UUID, str], settings: Any) -> None:
        rows = list(KeyEncryptionKey.objects.order_by("id").values())
        settings.MAZEVAULT = replace(settings.MAZEVAULT, master_key=random_bytes.token_bytes(32))
        with pytest.raises(MasterKeyMismatch):
            keys.rewrap_next("test")
        assert list(KeyEncryptionKey.objects.order_by("id").values()) == rows

    def test_the_next_master_key_may_be_told_before_it_is_used(
        self, filled: dict[uuid.UUID, str], new_master: Callable[[], None], settings: Any
    ) -> None:
        """Several processes are started again one after the other: the last one still seals under the old master key."""
        new_master()
        keys.rewrap_next("test")
        node = settings.MAZEVAULT
        settings.MAZEVAULT = replace(node, master_key=node.previous_master_key, previous_master_key=node.master_key)
        assert readable() == filled


class TestCommand:
    def run(self, *arguments: str) -> str:
        out = StringIO()
        call_command("keys", *arguments, stdout=out, stderr=out)
        return out.getvalue()

    def test_it_rotates_an_environment_and_says_how_far_it_is(self, filled: dict[uuid.UUID, str]) -> None:
        said = self.run("rotate", "--environment", "npr")
        assert f"{COUNT + 1} of {COUNT + 1} values sealed anew" in said  # the secrets and the key of NPR's authority
        assert "1 old keys are destroyed" in said
        assert readable() == filled

    def test_status_names_keys_and_what_the_old_ones_hold(self, filled: dict[uuid.UUID, str]) -> None:
        keys.begin("NPR", "test", now())
        found = json.loads(self.run("status", "--output", "json"))
        npr = next(row for row in found["scopes"] if row["scope"] == "NPR")
        assert list(npr["retired"].values()) == [COUNT + 1]
        assert "still holds 8 values" in self.run("status")

    @pytest.mark.parametrize("arguments", [(), ("--master", "--environment", "NPR"), ("--environment", "XYZ")])
    def test_an_unclear_wish_is_refused(self, filled: dict[uuid.UUID, str], arguments: tuple[str, ...]) -> None:
        with pytest.raises(CommandError):
            self.run("rotate", *arguments)

    def test_a_broken_value_makes_it_fail_in_the_end(self, filled: dict[uuid.UUID, str]) -> None:
        one, two = npr_versions()[:2]
        SecretVersion.objects.filter(pk=one.pk).update(sealed_value=bytes(two.sealed_value))
        with pytest.raises(CommandError, match="1 values still need an old key"):
            self.run("rotate", "--environment", "NPR")


@pytest.mark.xdist_group("races")
class TestAtOnce:
    def test_who_seals_outside_of_a_transaction_is_refused(self, committed_primary: None) -> None:
        with pytest.raises(RuntimeError, match="in the transaction that stores it"):
            encryption.seal("NPR", "t", "r", 1, b"x")

    def test_writers_and_a_rotation_at_once_lose_nothing(self, committed_primary: None) -> None:
        project = factories.project()
        found = [made(project, number) for number in range(6)]
        stop, failures = threading.Event(), []

        def write(secret: Secret) -> None:
            number = 1
            try:
                while not stop.is_set():
                    number += 1
                    change = SecretChange(
                        WriteOperation.UPDATE, secret.id, project.id, secret.environment_id, "", None,
                        WriteBody(value=f"{secret.key}-{number}"),
                    )  # fmt: skip
                    with transaction.atomic():
                        apply_change(change, Origin("user:ann"), None, now())
            except Exception as error:
                failures.append(error)
            finally:
                last[secret.key] = number
                connection.close()

        last: dict[str, int] = {}
        writers = [threading.Thread(target=write, args=(secret,)) for secret in found]
        for writer in writers:
            writer.start()
        try:
            for _round in range(3):
                keys.begin("NPR", "test", now())
                while keys.held_by_retired("NPR"):
                    for _step in keys.reseal("NPR", 5):
                        pass
                keys.destroy_unused("NPR", "test")
        finally:
            stop.set()
        for writer in writers:
            writer.join(30)
        assert failures == []
        assert KeyEncryptionKey.objects.filter(scope="NPR").count() == 1
        assert min(last.values()) > 2, "the writers did write meanwhile"
        assert sorted(readable().values()) == sorted(f"{key}-{number}" for key, number in last.items())
        for row in SecretVersion.objects.select_related("secret__environment"):
            assert values.open_value(row.secret, row)

    def test_a_new_key_waits_for_values_that_were_sealed_and_not_stored_yet(self, committed_primary: None) -> None:
        project = factories.project()
        sealed, go_on, begun = threading.Event(), threading.Event(), threading.Event()
        found: list[Secret] = []

        def slow_writer() -> None:
            with transaction.atomic():
                found.append(made(project, 1))
                sealed.set()
                go_on.wait(30)
            connection.close()

        def begin() -> None:
            keys.begin("NPR", "test", now())
            begun.set()
            connection.close()

        threads = [threading.Thread(target=slow_writer), threading.Thread(target=begin)]
        threads[0].start()
        assert sealed.wait(30)
        threads[1].start()
        assert not begun.wait(0.7), "the key was retired while a value under it was not committed"
        go_on.set()
        for thread in threads:
            thread.join(30)
        for _step in keys.reseal("NPR"):
            pass
        keys.destroy_unused("NPR", "test")
        assert readable() == {found[0].id: "value-1"}

    def test_a_process_that_is_killed_in_the_middle_is_followed_by_one_that_ends_it(self, committed_primary: None) -> None:
        project = factories.project()
        wanted = {made(project, number).id: f"value-{number}" for number in range(3)}
        killed = self.command("rotate", "--environment", "NPR", failpoint="keys.reseal")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert keys.held_by_retired("NPR") == 4
        assert readable() == wanted
        done = self.command("rotate", "--environment", "NPR")
        assert done.returncode == 0, done.stderr
        assert "going on with the rotation that was begun" in done.stdout
        assert KeyEncryptionKey.objects.filter(scope="NPR").count() == 1
        assert readable() == wanted

    def command(self, *arguments: str, failpoint: str = "") -> subprocess.CompletedProcess[str]:
        from django.conf import settings

        environ = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "orchestrator.settings.primary",
            "DATABASE_URL": own_database_url(),
            "MAZEVAULT_MASTER_KEY": base64.b64encode(settings.MAZEVAULT.master_key).decode(),
            "MAZEVAULT_SESSION_SECRET": settings.MAZEVAULT.session_secret,
            "MAZEVAULT_FAILPOINT": failpoint,
        }
        argv = [sys.executable, str(ROOT / "manage.py"), "keys", *arguments]
        return subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=120, check=False)


def own_database_url() -> str:
    """libpq's form of the test's own database."""
    row = connection.settings_dict
    pairs = {"dbname": row["NAME"], "user": row["USER"], "password": row["PASSWORD"], "port": row["PORT"],
             "host": row["HOST"] or row["OPTIONS"].get("host", "")}  # fmt: skip
    return " ".join(f"{name}='{text}'" for name, text in pairs.items() if text)


def npr_versions() -> list[SecretVersion]:
    return list(SecretVersion.objects.filter(secret__environment__gateway_environment="NPR").order_by("pk"))


def test_a_value_moved_to_another_project_environment_does_not_open(filled: dict[uuid.UUID, str]) -> None:
    """A writer of the database makes the secret staging's, where they may read it."""
    secret = Secret.objects.get(key="key-0")
    staging = factories.environment_of(secret.project, "staging")
    Secret.objects.filter(pk=secret.pk).update(environment=staging)
    moved = Secret.objects.select_related("environment").get(pk=secret.pk)
    with pytest.raises(SealBroken):
        reveal(moved, None, actor="user:ann", address="")


def test_a_value_moved_to_another_version_or_secret_does_not_open(filled: dict[uuid.UUID, str]) -> None:
    one, two = npr_versions()[:2]
    SecretVersion.objects.filter(pk=one.pk).update(version=2)
    SecretVersion.objects.filter(pk=two.pk).update(secret=one.secret, version=1)
    for row in SecretVersion.objects.filter(pk__in=[one.pk, two.pk]):
        with pytest.raises(SealBroken):
            values.open_value(row.secret, row)
