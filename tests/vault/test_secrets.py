"""Every change of a secret compared with a model of thirty lines, and what each change leaves behind: version, audit, feed."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.access import Scope
from accounts.models import Project
from common.clock import now
from common.errors import Conflict, MazeVaultError, NotFound, PermissionRefused, ValidationFailed
from common.models import AuditEntry, Change
from protocol.vocabulary import WriteOperation
from protocol.writes import WriteBody
from tests import factories
from vault import rules, values
from vault.models import Secret, SecretStatus, SecretVersion
from vault.ports import Applied, Origin, SecretChange, VersionConflict
from vault.secrets import ACTIONS, apply_change, reveal

pytestmark = pytest.mark.django_db
W = WriteOperation


def change_of(project: Project, operation: WriteOperation, secret: uuid.UUID | None = None, *, base: int | None = None,
              slug: str = "dev", key: str = "db", **body: Any) -> SecretChange:  # fmt: skip
    environment = factories.environment_of(project, slug)
    return SecretChange(operation, secret or uuid.uuid4(), project.id, environment.id, key, base, WriteBody(**body))


def apply(change: SecretChange, caller: Any = None, **origin: Any) -> Applied:
    return apply_change(change, Origin("user:ann", **origin), caller, now())


@dataclass
class Model:
    """What a secret is, in the simplest words: a list of the values it had, and a status."""

    status: str = "none"
    history: list[str | None] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)

    def apply(self, operation: WriteOperation, base: int | None, body: dict[str, Any]) -> str:
        """`made`, `same`, or the code of the refusal."""
        if operation is W.CREATE:
            if base:  # a creation has nothing before it; whoever names a version means another operation
                return "VERSION_CONFLICT"
            return "new" if self.status in ("none", "deleted", "purged") else "DUPLICATE_NAME"
        if self.status == "none":
            return "RESOURCE_NOT_FOUND"
        if base is not None and base != len(self.history):
            return "VERSION_CONFLICT"
        verdict = self._judge(operation)
        if verdict == "made":
            problem = self._make(operation, body)
            return problem or verdict
        return verdict

    def _judge(self, operation: WriteOperation) -> str:
        if self.status in ("deleted", "purged"):
            dead = {W.DELETE: "same", W.PURGE: "made" if self.status == "deleted" else "same"}
            return dead.get(operation, "made" if (operation, self.status) == (W.RESTORE, "deleted") else "RESOURCE_NOT_FOUND")
        if self.status == "archived":
            return {W.ARCHIVE: "same", W.RESTORE: "made", W.DELETE: "made", W.PURGE: "made"}.get(operation, "SECRET_ARCHIVED")
        return {W.RESTORE: "same", W.PURGE: "SECRET_IN_USE"}.get(operation, "made")

    def _make(self, operation: WriteOperation, body: dict[str, Any]) -> str | None:
        value = self.history[-1]
        if operation is W.ROLLBACK:
            if body["rollback_to"] >= len(self.history) + 0 or body["rollback_to"] < 1:
                return "VALIDATION_ERROR"
            value = self.history[body["rollback_to"] - 1]
        self.history.append(body.get("value", value))
        self.metadata = body.get("metadata", self.metadata)
        self.status = {W.ARCHIVE: "archived", W.RESTORE: "active", W.DELETE: "deleted", W.PURGE: "purged"}.get(
            operation, self.status
        )
        if operation is W.PURGE:
            self.history, self.metadata = [None] * len(self.history), {}
        return None


STEP = st.tuples(
    st.sampled_from(list(WriteOperation)),
    st.one_of(st.none(), st.integers(-2, 1)),  # the base as a distance from the current version
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20),
    st.dictionaries(st.sampled_from(["a", "b"]), st.text("xyz", max_size=3), max_size=2),
    st.integers(1, 6),
)


def body_for(operation: WriteOperation, value: str, metadata: dict[str, str], old: int) -> dict[str, Any]:
    if operation is W.ROTATE:
        return {"value": value}
    if operation in rules.CARRIES_VALUE:
        return {"value": value, "metadata": metadata}
    bodies: dict[WriteOperation, dict[str, Any]] = {W.METADATA: {"metadata": metadata}, W.ROLLBACK: {"rollback_to": old}}
    return bodies.get(operation, {})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=st.lists(STEP, min_size=1, max_size=14))
def test_any_sequence_of_changes_does_what_the_model_says(steps: list[Any], db: None) -> None:
    from django.db import transaction

    with transaction.atomic():
        follow(steps)
        transaction.set_rollback(True)


def follow(steps: list[Any]) -> None:
    project = factories.project()
    model, current = Model(), uuid.uuid4()
    for operation, distance, value, metadata, old in steps:
        body = body_for(operation, value, metadata, old)
        base = None if distance is None else max(0, len(model.history) + distance)
        if operation is W.CREATE:
            base = None if distance is None else max(0, distance)
        expected = model.apply(operation, base, body)
        if expected == "new":
            model, current = Model("active", [value], metadata), uuid.uuid4()
        wish = change_of(project, operation, uuid.uuid4() if expected == "DUPLICATE_NAME" else current, base=base, **body)
        assert outcome(wish) == {"new": "made"}.get(expected, expected), (operation, model)
        if model.status != "none":
            compare(model, Secret.objects.select_related("environment", "project").get(id=current))


def outcome(change: SecretChange) -> str:
    try:
        return "made" if apply(change).changed else "same"
    except MazeVaultError as error:
        return error.code


def compare(model: Model, secret: Secret) -> None:
    assert (secret.status, secret.version, secret.metadata) == (model.status, len(model.history), model.metadata)
    assert list(secret.versions.order_by("version").values_list("version", flat=True)) == list(range(1, secret.version + 1))
    for number, value in enumerate(model.history, 1):
        row = values.holding(secret, number)
        assert (values.open_value(secret, row) if row else None) == value


@pytest.fixture
def project(db: None) -> Project:
    return factories.project()


@pytest.fixture
def secret(project: Project) -> Secret:
    return apply(change_of(project, W.CREATE, value="one", metadata={"a": "b"}, tags=["t"], description="d")).secret


class TestTraces:
    CHANGES = [
        (W.UPDATE, {"value": "two"}),
        (W.METADATA, {"tags": ["x"]}),
        (W.ARCHIVE, {}),
        (W.RESTORE, {}),
        (W.UPDATE, {"value": "three"}),
        (W.ROLLBACK, {"rollback_to": 1}),
        (W.DELETE, {}),
        (W.PURGE, {}),
    ]

    def test_each_change_leaves_a_version_an_audit_entry_and_a_place_in_the_feed(self, project: Project, secret: Secret) -> None:
        for number, (operation, body) in enumerate(self.CHANGES, 2):
            before = AuditEntry.objects.count(), Change.objects.count()
            made = apply(change_of(project, operation, secret.id, **body))
            assert made.version == number
            assert (AuditEntry.objects.count(), Change.objects.count()) == (before[0] + 1, before[1] + 1)
            entry, noted = AuditEntry.objects.latest("id"), Change.objects.latest("id")
            assert (entry.action, entry.entity_id, entry.environment) == (ACTIONS[operation], str(secret.id), "NPR")
            assert entry.details["version"] == number
            assert (noted.scope, noted.kind, noted.entity_id) == ("NPR", "secret", secret.id)
            assert SecretVersion.objects.get(secret=secret, version=number).operation == operation.value

    def test_a_change_of_production_is_noted_for_its_own_gateways_only(self, project: Project) -> None:
        """I13."""
        apply(change_of(project, W.CREATE, slug="prod", value="x"))
        assert set(Change.objects.values_list("scope", flat=True)) == {"PRO"}

    def test_a_fulfilled_wish_leaves_nothing(self, project: Project, secret: Secret) -> None:
        apply(change_of(project, W.ARCHIVE, secret.id))
        before = AuditEntry.objects.count(), Change.objects.count(), SecretVersion.objects.count()
        assert apply(change_of(project, W.ARCHIVE, secret.id)).changed is False
        assert (AuditEntry.objects.count(), Change.objects.count(), SecretVersion.objects.count()) == before

    def test_no_value_and_no_metadata_is_in_the_audit(self, project: Project, secret: Secret) -> None:
        """I16."""
        apply(change_of(project, W.UPDATE, secret.id, value="a-canary", metadata={"owner": "a-canary"}, tags=["a-canary"]))
        assert "a-canary" not in str(list(AuditEntry.objects.values()))

    def test_the_origin_of_a_gateways_write_is_kept(self, project: Project, secret: Secret) -> None:
        write = uuid.uuid4()
        apply(change_of(project, W.UPDATE, secret.id, value="x"), node="gateway:1", write=write, epoch=7)
        row = SecretVersion.objects.get(secret=secret, version=2)
        assert (row.origin, row.write, row.epoch, row.author) == ("gateway:1", write, 7, "user:ann")
        assert AuditEntry.objects.latest("id").details["write"] == str(write)

    def test_a_purge_destroys_values_digests_and_fields_and_keeps_a_tombstone(self, project: Project, secret: Secret) -> None:
        apply(change_of(project, W.DELETE, secret.id))
        apply(change_of(project, W.PURGE, secret.id))
        row = Secret.objects.get(id=secret.id)
        assert (row.status, row.metadata, row.tags, row.description) == (SecretStatus.PURGED, {}, [], "")
        assert set(row.versions.values_list("sealed_value", "value_digest")) == {(None, "")}
        assert list(row.versions.order_by("version").values_list("version", flat=True)) == [1, 2, 3]

    def test_equal_values_have_equal_digests_within_a_secret_only(self, project: Project, secret: Secret) -> None:
        apply(change_of(project, W.UPDATE, secret.id, value="one"))
        other = apply(change_of(project, W.CREATE, key="other", value="one")).secret
        first, second = secret.versions.order_by("version").values_list("value_digest", flat=True)
        assert first == second != other.versions.get().value_digest


class TestRefusals:
    def test_a_key_is_free_again_after_its_secret_was_deleted(self, project: Project, secret: Secret) -> None:
        with pytest.raises(Conflict, match="already exists") as caught:
            apply(change_of(project, W.CREATE, value="x"))
        assert caught.value.code == "DUPLICATE_NAME"
        apply(change_of(project, W.DELETE, secret.id))
        apply(change_of(project, W.CREATE, value="x"))
        with pytest.raises(Conflict, match="already exists"):
            apply(change_of(project, W.RESTORE, secret.id))

    def test_the_same_key_lives_in_each_environment(self, project: Project, secret: Secret) -> None:
        assert apply(change_of(project, W.CREATE, slug="prod", value="x")).secret.environment.slug == "prod"

    @pytest.mark.parametrize("base", [0, 2, 99])
    def test_a_base_that_is_not_the_current_version_is_a_conflict(self, project: Project, secret: Secret, base: int) -> None:
        with pytest.raises(VersionConflict) as caught:
            apply(change_of(project, W.UPDATE, secret.id, base=base, value="x"))
        assert (caught.value.code, caught.value.current, caught.value.extra) == (
            "VERSION_CONFLICT", 1, {"current_version": 1},
        )  # fmt: skip

    def test_a_change_that_names_another_project_or_environment_finds_nothing(self, project: Project, secret: Secret) -> None:
        other = factories.project(project.organization, "other")
        for wish in (
            change_of(other, W.UPDATE, secret.id, value="x"),
            change_of(project, W.UPDATE, secret.id, slug="prod", value="x"),
        ):
            with pytest.raises(NotFound):
                apply(wish)

    def test_an_environment_of_another_organization_is_refused(self, project: Project) -> None:
        other = factories.project(factories.organization("Other"))
        wish = change_of(other, W.CREATE, value="x")
        with pytest.raises(ValidationFailed, match="environment: the project"):
            apply(SecretChange(wish.operation, wish.secret, project.id, wish.environment, "db", None, wish.body))

    def test_values_of_a_key_vault_project_are_refused(self, project: Project, secret: Secret) -> None:
        Project.objects.filter(pk=project.pk).update(storage="key_vault")
        for wish in (
            change_of(project, W.CREATE, key="new", value="x"),
            change_of(project, W.UPDATE, secret.id, value="x"),
            change_of(project, W.ROLLBACK, secret.id, rollback_to=1),
        ):
            with pytest.raises(Conflict) as caught:
                apply(wish)
            assert caught.value.code in ("STORAGE_NOT_AVAILABLE",)
        assert apply(change_of(project, W.DELETE, secret.id)).changed

    def test_changes_of_a_deleted_project_find_nothing(self, project: Project, secret: Secret) -> None:
        Project.objects.filter(pk=project.pk).update(deleted_at=now())
        for wish in (change_of(project, W.UPDATE, secret.id, value="x"), change_of(project, W.CREATE, key="n", value="x")):
            with pytest.raises(NotFound):
                apply(wish)


class TestPermission:
    def test_every_operation_needs_its_permission_in_the_very_place(self, project: Project, secret: Secret) -> None:
        place = rules.place_of(project, secret.environment)
        elsewhere = Scope(place.organization, place.project, "prod")
        for operation, needed in rules.NEEDED.items():
            body = body_for(operation, "x", {}, 1)
            wish = change_of(project, operation, secret.id if operation is not W.CREATE else None, key="new", **body)
            with pytest.raises(NotFound):
                apply(wish, factories.principal("admin", elsewhere))
            with pytest.raises(PermissionRefused, match=needed):
                apply(wish, reader(place))

    def test_a_user_writes_and_does_not_delete(self, project: Project, secret: Secret) -> None:
        caller = factories.principal("user", rules.place_of(project, secret.environment))
        assert apply(change_of(project, W.UPDATE, secret.id, value="x"), caller).version == 2
        with pytest.raises(PermissionRefused):
            apply(change_of(project, W.DELETE, secret.id), caller)


def reader(place: Scope) -> Any:
    from dataclasses import replace

    from accounts.access import Grant

    return replace(factories.principal(), grants=(Grant(frozenset({"secrets:read"}), place),))


BAD = {
    "empty key": (W.CREATE, {"value": "x"}, "", "key"),
    "long key": (W.CREATE, {"value": "x"}, "k" * 256, "key"),
    "control character": (W.CREATE, {"value": "x"}, "a\nb", "key"),
    "blank around": (W.CREATE, {"value": "x"}, " a", "key"),
    "no value": (W.CREATE, {}, "k", "value"),
    "empty value": (W.UPDATE, {"value": ""}, "", "value"),
    "large value": (W.UPDATE, {"value": "x" * 65_537}, "", "value"),
    "large in utf-8 only": (W.UPDATE, {"value": "ž" * 32_769}, "", "value"),
    "nul in value": (W.UPDATE, {"value": "a\0b"}, "", "value"),
    "half a pair in value": (W.UPDATE, {"value": "\ud800"}, "", "value"),
    "ttl below": (W.UPDATE, {"value": "x", "ttl_hours": -1}, "", "ttl_hours"),
    "ttl above": (W.UPDATE, {"value": "x", "ttl_hours": 87_601}, "", "ttl_hours"),
    "large metadata": (W.METADATA, {"metadata": {"a": "x" * 16_384}}, "", "metadata"),
    "metadata of numbers": (W.METADATA, {"metadata": {"a": 1}}, "", "metadata.a"),
    "nul in metadata": (W.METADATA, {"metadata": {"a": "\0"}}, "", "metadata"),
    "nameless metadata": (W.METADATA, {"metadata": {"": "x"}}, "", "metadata"),
    "unknown type": (W.METADATA, {"type": "token"}, "", "type"),
    "long description": (W.METADATA, {"description": "x" * 1001}, "", "description"),
    "nul in description": (W.METADATA, {"description": "\0"}, "", "description"),
    "many tags": (W.METADATA, {"tags": ["x"] * 51}, "", "tags"),
    "empty tag": (W.METADATA, {"tags": [""]}, "", "tags"),
    "long tag": (W.METADATA, {"tags": ["x" * 101]}, "", "tags"),
    "long reason": (W.DELETE, {"reason": "x" * 501}, "", "change_reason"),
    "unknown rotation": (W.METADATA, {"rotation": {"x": 1}}, "", "rotation.x"),
    "rotation days": (W.METADATA, {"rotation": {"rotation_interval_days": True}}, "", "rotation.rotation_interval_days"),
    "rotation addresses": (W.METADATA, {"rotation": {"notification_emails": ["x"]}}, "", "rotation.notification_emails"),
    "rotation enabled": (W.METADATA, {"rotation": {"enabled": "yes"}}, "", "rotation.enabled"),
    "rotation schedule": (W.METADATA, {"rotation": {"schedule": 7}}, "", "rotation.schedule"),
    "nothing": (W.METADATA, {}, "", "the body names nothing"),
    "value with metadata": (W.METADATA, {"value": "x"}, "", "value"),
    "fields with delete": (W.DELETE, {"ttl_hours": 1}, "", "ttl_hours"),
    "rollback to nowhere": (W.ROLLBACK, {}, "", "version"),
    "rollback to zero": (W.ROLLBACK, {"rollback_to": 0}, "", "version"),
    "rollback to now": (W.ROLLBACK, {"rollback_to": 1}, "", "version"),
    "rollback to the future": (W.ROLLBACK, {"rollback_to": 2**31}, "", "version"),
    "rollback with an update": (W.UPDATE, {"value": "x", "rollback_to": 1}, "", "version"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_the_name_of_its_field(name: str, project: Project, secret: Secret) -> None:
    operation, body, key, begins = BAD[name]
    wish = change_of(project, operation, None if operation is W.CREATE else secret.id, key=key, **body)
    before = AuditEntry.objects.count(), SecretVersion.objects.count()
    with pytest.raises(ValidationFailed) as caught:
        apply(wish)
    assert caught.value.sentence.startswith(begins), caught.value.sentence
    assert (AuditEntry.objects.count(), SecretVersion.objects.count()) == before


def test_the_largest_that_is_allowed_is_taken(project: Project) -> None:
    made = apply(change_of(
        project, W.CREATE, key="k" * 255, value="ž" * 32_768, ttl_hours=87_600, tags=["x" * 100] * 50, description="d" * 1000,
        metadata={"a": "x" * (16_384 - 9)}, reason="r" * 500,
        rotation={"enabled": True, "schedule": "0 3 * * *", "rotation_interval_days": 90, "notification_emails": None},
    ))  # fmt: skip
    assert reveal(made.secret, None, actor="user:ann", address="") == "ž" * 32_768


def test_every_status_knows_every_operation_but_creation() -> None:
    pairs = {(status.value, operation) for status in SecretStatus for operation in W if operation is not W.CREATE}
    assert {(str(status), operation) for status, operation in rules.STEPS} == pairs


def test_a_value_is_read_with_an_audit_entry_in_the_same_transaction(project: Project, secret: Secret) -> None:
    """I17."""
    assert reveal(secret, None, actor="user:ann", address="10.0.0.1") == "one"
    entry = AuditEntry.objects.latest("id")
    assert (entry.action, entry.actor, entry.address) == ("secret.read", "user:ann", "10.0.0.1")
    assert entry.details == {"version": 1, "key": "db", "project": str(project.id), "environment": "dev"}


def test_no_value_is_in_the_database_in_the_clear(project: Project) -> None:
    """I16: neither as text nor in a binary column."""
    apply(change_of(project, W.CREATE, key="a-key-in-the-clear", value="a-canary-of-nineteen"))
    assert tables_with("a-canary-of-nineteen") == set()
    assert "vault_secret" in tables_with("a-key-in-the-clear"), "the search finds what is there"


def tables_with(text: str) -> set[str]:
    found = set()
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names():
            cursor.execute(f'SELECT t::text FROM "{table}" AS t')  # noqa: S608  names of our own tables
            rows = "\n".join(row[0] for row in cursor.fetchall())
            if text in rows or text.encode().hex() in rows:
                found.add(table)
    return found


def test_a_change_does_not_show_its_content_when_it_is_printed() -> None:
    wish = SecretChange(
        WriteOperation.UPDATE, uuid.uuid4(), uuid.uuid4(), uuid.uuid4(), "db", None, WriteBody(value="canary-9a1")
    )
    assert "canary-9a1" not in repr(wish) and "db" in repr(wish)
