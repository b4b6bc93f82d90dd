"""Pages of changes for a gateway's copy: complete, in an order that can be stored, and of its own environment only (I13, I17)."""

from __future__ import annotations

import threading
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from accounts.models import Environment, Organization, Project, Role, RoleGrant, Session, User
from common import feed
from common.clock import database_now, now
from common.models import AuditEntry, Change
from gateways import changes, fleet, replica_records
from gateways.models import Gateway, GatewayStatus
from orchestrator import loops
from protocol import paths
from protocol.messages import encode
from protocol.replica import AskChanges, Changes, ReplicaKind
from protocol.vault_access import AskAccess, VaultAccess
from protocol.vocabulary import WriteOperation
from protocol.writes import WriteBody
from tests import factories
from tests.conftest import Person, fleet_of
from tests.fakes.gateway import FakeGateway
from vault.models import Secret
from vault.ports import Origin, SecretChange
from vault.secrets import apply_change

CANARY = "canary-5d21-pro-value"


@pytest.fixture
def gateway(npr: tuple[FakeGateway, FakeGateway]) -> FakeGateway:
    return npr[0]


def note_all(organization: Organization) -> None:
    """What the use cases of people note when they make these things."""
    codes = set(organization.environments.values_list("gateway_environment", flat=True))
    with transaction.atomic():
        feed.note(codes, ReplicaKind.ORGANIZATION, organization.id)
        for environment in organization.environments.all():
            feed.note([environment.gateway_environment], ReplicaKind.ENVIRONMENT, environment.id)
        for project in organization.projects.all():
            feed.note(codes, ReplicaKind.PROJECT, project.id)


def note_principal(user: User) -> None:
    with transaction.atomic():
        feed.note(settings.MAZEVAULT.gateway_environments, ReplicaKind.PRINCIPAL, user.id)


def make_secret(project: Project, slug: str = "dev", key: str = "key", value: str = "value") -> Secret:
    wish = SecretChange(
        WriteOperation.CREATE, uuid.uuid4(), project.id, factories.environment_of(project, slug).id, key, None,
        WriteBody(value=value),
    )  # fmt: skip
    with transaction.atomic():
        return apply_change(wish, Origin("user:admin"), None, database_now()).secret


def change(secret: Secret, operation: WriteOperation, value: str | None = None) -> None:
    wish = SecretChange(operation, secret.id, secret.project_id, secret.environment_id, secret.key, None, WriteBody(value=value))
    with transaction.atomic():
        apply_change(wish, Origin("user:admin"), None, database_now())


def holder(role: str, *, name: str, **place: Any) -> User:
    person = factories.member(role, name=name, **place)
    assert person.token
    user = User.objects.get(full_name=name)
    note_principal(user)
    return user


def ids(pages: list[Changes], kind: str) -> list[str]:
    return [record.id for page in pages for record in getattr(page, kind)]


def test_a_first_read_gives_everything_of_the_environment(gateway: FakeGateway) -> None:
    project = factories.project()
    note_all(project.organization)
    secret = make_secret(project, value="one")
    pages = gateway.all_changes()
    assert ids(pages, "secrets") == [str(secret.id)]
    assert ids(pages, "projects") == [str(project.id)]
    visible = project.organization.environments.filter(gateway_environment="NPR")
    assert len(visible) == 3 and {str(place.id) for place in visible} <= set(ids(pages, "environments"))
    record = pages[-1].secrets[0]
    assert (record.value, record.version, [version.operation for version in record.versions]) == ("one", 1, ["create"])
    assert pages[-1].position == pages[-1].head


def test_what_a_thing_refers_to_comes_with_it_in_the_same_page(gateway: FakeGateway) -> None:
    """The project was changed after its secret, so its own entry comes later: the copy could not store the secret without it."""
    project = factories.project()
    make_secret(project)
    note_all(project.organization)
    start = gateway.changes(limit=1)
    while not start.secrets:
        start = gateway.changes(start.position, start.generation, limit=1)
    assert (len(start.secrets), len(start.projects), len(start.environments), len(start.organizations)) == (1, 1, 1, 1)
    assert start.more


def test_only_what_changed_since_the_cursor_comes_again(gateway: FakeGateway) -> None:
    project = factories.project()
    first, second = make_secret(project, key="a"), make_secret(project, key="b")
    before = gateway.all_changes()[-1]
    change(second, WriteOperation.UPDATE, "new")
    after = gateway.changes(before.position, before.generation)
    assert [(record.id, record.value, record.version) for record in after.secrets] == [(str(second.id), "new", 2)]
    assert after.position > before.position
    idle = gateway.changes(after.position, after.generation)
    assert (idle.position, idle.more, idle.secrets) == (after.position, False, [])
    assert str(first.id) not in ids([after], "secrets")


def test_a_deleted_secret_comes_as_a_tombstone_without_its_value(gateway: FakeGateway) -> None:
    secret = make_secret(factories.project(), value=CANARY)
    change(secret, WriteOperation.DELETE)
    record = gateway.changes().secrets[0]
    assert (record.status, record.value, record.deleted_at is not None) == ("deleted", None, True)


def test_a_change_without_a_value_keeps_the_value_it_had(gateway: FakeGateway) -> None:
    secret = make_secret(factories.project(), value="kept")
    wish = SecretChange(
        WriteOperation.METADATA, secret.id, secret.project_id, secret.environment_id, secret.key, None,
        WriteBody(description="new"),
    )  # fmt: skip
    with transaction.atomic():
        apply_change(wish, Origin("user:admin"), None, database_now())
    record = gateway.changes().secrets[0]
    assert (record.version, record.value, record.description) == (2, "kept", "new")


class TestIsolation:
    """What is of PRO does not exist for a gateway of NPR: not by name, not by id, not as a count, not as an empty record."""

    @pytest.fixture
    def world(self, gateway: FakeGateway) -> Any:
        project = factories.project()
        lonely = Organization.objects.create(name="Only production")
        factories.environment(lonely, "Production", "prod", "PRO")
        hidden = factories.project(lonely, name="hidden-project")
        for owner in (project.organization, lonely):
            note_all(owner)
        visible, secret = make_secret(project), make_secret(project, "prod", "pro/key", CANARY)
        make_secret(hidden, "prod", "pro/other", CANARY)
        insider = holder("secret_manager", name="insider", project=project, environment="prod")
        note_principal(insider)
        return project, hidden, visible, secret, insider

    def test_nothing_of_another_environment_is_in_any_page(self, gateway: FakeGateway, world: Any) -> None:
        project, hidden, visible, secret, insider = world
        text = b"".join(encode(page) for page in gateway.all_changes()).decode()
        places = Environment.objects.filter(gateway_environment="PRO").values_list("id", flat=True)
        hidden_ids = [secret.id, hidden.id, hidden.organization_id, insider.id, *places]
        foreign = [CANARY, "hidden-project", "pro/", "insider", *map(str, hidden_ids)]
        assert [word for word in foreign if word in text] == []
        assert str(visible.id) in text and str(project.id) in text

    def test_the_other_environment_does_get_it(self, world: Any) -> None:
        _, hidden, visible, secret, insider = world
        foreign, _ = fleet_of("PRO")
        pages = foreign.all_changes()
        assert set(ids(pages, "secrets")) >= {str(secret.id)} and str(visible.id) not in ids(pages, "secrets")
        assert str(hidden.id) in ids(pages, "projects")
        assert str(insider.id) in ids(pages, "principals")

    def test_what_happens_there_changes_no_answer_but_a_number(self, gateway: FakeGateway, world: Any) -> None:
        before = gateway.all_changes()[-1]
        _, _, _, secret, _ = world
        change(secret, WriteOperation.UPDATE, CANARY)
        assert gateway.changes(before.position, before.generation) == Changes(
            generation=before.generation, position=before.position, head=before.head, more=False
        )

    def test_a_default_environment_of_the_other_side_is_not_named(self, gateway: FakeGateway, world: Any) -> None:
        Project.objects.filter(id=world[0].id).update(default_environment="prod")
        assert [record.default_environment for page in gateway.all_changes() for record in page.projects] == [""]


class TestPrincipals:
    def test_only_what_counts_here_is_said_of_somebody(self, gateway: FakeGateway) -> None:
        project = factories.project()
        user = holder("project_admin", name="ann", project=project)
        RoleGrant.objects.create(user=user, role=Role.objects.get(name="secret_manager"), environment="prod")
        RoleGrant.objects.create(user=user, role=Role.objects.get(name="secret_manager"), expires_at=now() - timedelta(minutes=1))
        Session.objects.create(user=user, token_hash="old", expires_at=now() - timedelta(minutes=1))
        Session.objects.create(user=user, token_hash="revoked", expires_at=now() + timedelta(hours=1), revoked_at=now())
        record = gateway.changes().principals[0]
        assert [(grant.permissions, grant.project, grant.environment) for grant in record.grants] == [
            (["secrets:delete", "secrets:read", "secrets:write"], str(project.id), "")
        ]
        assert [token.hash for token in record.tokens] == [user.sessions.get(address="127.0.0.1").token_hash]

    def test_who_was_named_is_told_to_be_forgotten_and_nobody_else(self, gateway: FakeGateway) -> None:
        project = factories.project()
        known, never = holder("secret_manager", name="known", project=project), holder("viewer", name="never")
        before = gateway.all_changes()[-1]
        assert ids([before], "principals") == [str(known.id)]
        RoleGrant.objects.filter(user=known).delete()
        for user in (known, never):
            note_principal(user)
        after = gateway.changes(before.position, before.generation)
        assert [(record.id, record.grants, record.tokens, record.name) for record in after.principals] == [
            (str(known.id), [], [], "")
        ]

    def test_a_disabled_person_is_forgotten(self, gateway: FakeGateway) -> None:
        user = holder("secret_manager", name="leaver", project=factories.project())
        position = gateway.all_changes()[-1].position
        User.objects.filter(id=user.id).update(is_active=False)
        note_principal(user)
        assert [record.tokens for record in gateway.changes(position).principals] == [[]]


class TestPlacing:
    def test_everything_that_waits_gets_its_position_however_much_it_is(self, gateway: FakeGateway) -> None:
        feed.place_pending()
        with transaction.atomic():
            for _ in range(7):
                feed.note(["NPR"], "secret", uuid.uuid4())
        assert feed.place_pending(batch=3) == 7
        assert not Change.objects.filter(position=None).exists()

    def test_an_environment_counts_only_its_own_changes(self, gateway: FakeGateway) -> None:
        """Else a gateway of NPR would see from its positions how much changes in PRO (I13)."""
        feed.place_pending()
        before, of_pro = gateway.all_changes()[-1].position, feed.head("PRO")
        with transaction.atomic():
            for _ in range(50):
                feed.note(["PRO"], "secret", uuid.uuid4())
            feed.note(["NPR"], "secret", uuid.uuid4())
            feed.note(["PRO", "NPR"], "secret", uuid.uuid4())
        assert feed.place_pending() == 53
        assert gateway.changes(before).head == feed.head("NPR") == before + 2
        assert feed.head("PRO") == of_pro + 51

    def test_an_older_entry_of_a_thing_goes_and_one_in_another_environment_stays(self, gateway: FakeGateway) -> None:
        feed.place_pending()
        one = uuid.uuid4()
        for scopes in (["NPR", "PRO"], ["NPR"], ["NPR"]):
            with transaction.atomic():
                feed.note(scopes, "secret", one)
            feed.place_pending()
        left = dict(Change.objects.filter(entity_id=one).values_list("scope", "position"))
        assert left == {"NPR": feed.head("NPR"), "PRO": feed.head("PRO")} and Change.objects.filter(entity_id=one).count() == 2

    def test_it_does_not_take_a_gateway_that_asks(self) -> None:
        assert feed.place_pending in [use_case for _, use_case, _ in loops.LOOPS]


class TestPages:
    def test_large_values_make_several_pages_of_about_a_mebibyte(self, gateway: FakeGateway) -> None:
        project = factories.project()
        made = {str(make_secret(project, key=f"key-{number}", value="x" * 65_000).id) for number in range(40)}
        pages = gateway.all_changes()
        assert set(ids(pages, "secrets")) == made
        assert len(pages) >= 3
        assert max(len(encode(page)) for page in pages) < 1.1 * changes.PAGE_BYTES

    def test_a_page_costs_the_same_number_of_queries_for_one_secret_and_for_forty(self, gateway: FakeGateway) -> None:
        project = factories.project()
        make_secret(project, key="only")
        position = 0

        def count() -> int:
            nonlocal position
            with CaptureQueriesContext(
                connection,
            ) as seen:
                position = gateway.changes(position).position
            return len(seen.captured_queries)

        one = count()
        for number in range(40):
            make_secret(project, key=f"key-{number}")
        assert count() <= one + 3

    def test_a_damaged_value_leaves_a_hole_and_stops_nothing(self, gateway: FakeGateway) -> None:
        project = factories.project()
        good, bad = make_secret(project, key="good", value="fine"), make_secret(project, key="bad")
        bad.versions.update(sealed_value=b"\x01damaged")
        found = {record.id: record.value for record in gateway.changes().secrets}
        assert found == {str(good.id): "fine", str(bad.id): None}

    def test_a_long_page_names_every_secret_in_the_audit(self, gateway: FakeGateway) -> None:
        project = factories.project()
        made = {str(make_secret(project, key=f"key-{number}").id) for number in range(101)}
        gateway.all_changes()
        entries = AuditEntry.objects.filter(action="gateway.replica.sent")
        named = [one for entry in entries for one in entry.details["secrets"]]
        assert (set(named), len(named)) == (made, 101), "none is cut from a list that is too long"

    def test_what_leaves_with_a_value_is_in_the_audit_before(self, gateway: FakeGateway, monkeypatch: Any) -> None:
        secret = make_secret(factories.project(), value=CANARY)
        page = gateway.changes()
        entry = AuditEntry.objects.get(action="gateway.replica.sent")
        assert (entry.details["secrets"], entry.details["position"]) == ([str(secret.id)], page.position)
        assert CANARY not in str(entry.details)

        def broken(**_: Any) -> None:
            raise RuntimeError("the audit cannot be written")

        monkeypatch.setattr(changes.audit, "record", broken)
        gateway.client.raise_request_exception = False
        answer = gateway.changes()
        assert answer.status_code == 500 and CANARY.encode() not in answer.content


@pytest.mark.django_db(transaction=True)
def test_a_secret_that_is_changed_while_the_page_is_made_is_whole_in_it(
    committed_primary: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = fleet_of("NPR")[0]
    secret = make_secret(factories.project(), value="value 1")
    read, changed = replica_records._versions_of, list[bool]()

    def meanwhile() -> None:
        with transaction.atomic():
            wish = SecretChange(
                WriteOperation.UPDATE, secret.id, secret.project_id, secret.environment_id, secret.key, None,
                WriteBody(value="value 2"),
            )  # fmt: skip
            apply_change(wish, Origin("user:x"), None, now())
        connection.close()

    def versions_of(rows: Any) -> Any:
        if not changed:
            changed.append(True)
            writer = threading.Thread(target=meanwhile)
            writer.start()
            writer.join()
        return read(rows)

    monkeypatch.setattr(replica_records, "_versions_of", versions_of)
    for number in (1, 2):
        ask = AskChanges(after=0, limit=100)
        page = changes.take_changes(gateway.row, ask, now())
        told = next(one for one in page.secrets if one.id == str(secret.id))
        assert (told.version, told.versions[0].version, told.value) == (number, number, f"value {number}")


class TestOfAHeldGateway:
    """Whoever redeemed a stolen token first may be the thief: nothing new is given away until a person has looked (ADR 3)."""

    @pytest.fixture
    def site(self, gateway: FakeGateway) -> Project:
        project = factories.project()
        note_all(project.organization)
        return project

    def hold(self, gateway: FakeGateway) -> None:
        assert fleet.hold("NPR", Gateway.objects.filter(pk=gateway.row.pk), "its bootstrap token was presented again", now())

    def test_it_gets_no_new_value_and_nobody_it_does_not_know(self, gateway: FakeGateway, site: Project) -> None:
        known, secret = holder("user", name="known"), make_secret(site, value="before")
        read = gateway.all_changes()[-1]
        self.hold(gateway)
        change(secret, WriteOperation.UPDATE, "canary-after")
        make_secret(site, key="other", value="canary-other")
        holder("user", name="unknown")
        note_principal(known)
        page = gateway.changes(read.position)
        assert page.rights_only and (page.position, page.more, page.mark) == (read.position, False, None)
        assert [one.name for one in page.principals] == ["known@example.com"]
        assert not (page.secrets or page.projects or page.environments or page.organizations)
        assert b"canary" not in encode(page) and b"canary" not in encode(gateway.changes(0))

    def test_who_lost_their_rights_loses_them_there_too(self, gateway: FakeGateway, site: Project) -> None:
        known = holder("user", name="known")
        read = gateway.all_changes()[-1]
        self.hold(gateway)
        User.objects.filter(pk=known.pk).update(is_active=False)
        note_principal(known)
        page = gateway.changes(read.position)
        assert [(one.id, one.grants, one.tokens) for one in page.principals] == [(str(known.id), [], [])]

    def test_it_hears_of_everybody_who_lost_something_in_pages_of_bounded_size_and_of_each_once(
        self, gateway: FakeGateway, site: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = [holder("user", name=f"known{number:02}") for number in range(12)]
        read = gateway.all_changes()[-1]
        self.hold(gateway)
        for one in known:
            note_principal(one)  # with all that is left, so that pages have a size
        for number in range(5):
            make_secret(site, key=f"between{number}")
        monkeypatch.setattr(changes, "PAGE_BYTES", 900)
        monkeypatch.setattr(changes, "CHUNK", 5)
        pages = [gateway.changes(read.position, limit=7)]
        while pages[-1].more:
            assert len(pages) < 30, "it comes to an end"
            pages.append(gateway.changes(read.position, limit=7, rights_after=pages[-1].rights_position))
        assert sorted(ids(pages, "principals")) == sorted(str(one.id) for one in known)
        assert all(page.rights_only and page.position == read.position for page in pages)
        assert len(pages) > 4 and max(len(page.principals) for page in pages) < 5, "by bytes"
        again = gateway.changes(read.position, rights_after=pages[-1].rights_position)
        assert (again.principals, again.more, again.rights_position) == ([], False, again.head)

    def test_nothing_that_was_given_since_is_in_it(self, gateway: FakeGateway, site: Project) -> None:
        known = holder("secret_reader", name="known")
        read, before = gateway.all_changes()[-1], Session.objects.get(user=known)
        self.hold(gateway)
        Session.objects.create(user=known, token_hash="ab" * 32, expires_at=now() + timedelta(hours=1))
        RoleGrant.objects.create(user=known, role=Role.objects.get(name="secret_manager"))
        note_principal(known)
        (person,) = gateway.changes(read.position).principals
        assert [one.hash for one in person.tokens] == [before.token_hash]
        assert not any("secrets:write" in grant.permissions for grant in person.grants)

    def test_one_of_the_former_version_hears_of_losses_in_its_own_words_or_that_it_is_held(
        self, gateway: FakeGateway, site: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It knows no field `rights_only`, and takes whatever is the last page for a complete copy."""
        known = [holder("user", name=f"known{number}") for number in range(4)]
        read = gateway.all_changes()[-1]
        gateway.heartbeat(replica_position=read.position, replica_digest="2:" + "0" * 62)
        GatewayStatus.objects.filter(gateway_id=gateway.id).update(resync_ordered_at=None)
        self.hold(gateway)
        for one in known:
            User.objects.filter(pk=one.pk).update(is_active=False)
            note_principal(one)
        make_secret(site)
        page = gateway.changes(read.position, rights_after=None)
        assert b"rights" not in encode(page) and (page.position, page.more) == (read.position, False)
        assert {(one.id, len(one.tokens)) for one in page.principals} == {(str(one.id), 0) for one in known}
        with monkeypatch.context() as small:
            small.setattr(changes, "PAGE_BYTES", 200)
            refused = gateway.changes(read.position, rights_after=None)
            assert (refused.status_code, refused.json()["code"]) == (403, "GATEWAY_HELD"), "half of it would be taken for all"
        GatewayStatus.objects.filter(gateway_id=gateway.id).update(resync_ordered_at=now())
        refused = gateway.changes(read.position, rights_after=None)
        assert (refused.status_code, refused.json()["code"]) == (403, "GATEWAY_HELD"), "it would drop what it has not read again"

    def test_it_gets_no_vault_and_everything_after_the_release(self, gateway: FakeGateway, site: Project, admin: Person) -> None:
        read, secret = gateway.all_changes()[-1], make_secret(site, value="after")
        self.hold(gateway)
        ask = AskAccess(epoch=gateway.epoch, integration=str(uuid.uuid4()))
        refused = gateway.call(paths.VAULT_ACCESS, ask, VaultAccess)
        assert (refused.status_code, refused.json()["code"]) == (403, "GATEWAY_HELD")
        assert admin.post(f"gateways/{gateway.id}/release", {"reason": "it was us"})[0] == 200
        found = [one for page in gateway.all_changes(read.position) for one in page.secrets]
        assert [(one.id, one.value) for one in found] == [(str(secret.id), "after")]
