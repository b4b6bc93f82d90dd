"""The short way of reading a secret answers what the whole way answers, byte for byte, and lets nothing out before its audit."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import Project
from common import audit, audit_commits
from common.audit_commits import Commits
from common.clock import now
from common.errors import TooManyRequests
from common.models import AuditEntry
from common.outages import PoolCrowded
from tests import factories
from tests.conftest import Person
from tests.gateway_runtime.conftest import Site, as_gateway, site  # noqa: F401  fixtures
from vault import hot
from vault.models import Secret, SecretStatus

WHOLE = {"Accept": "application/json, text/plain"}
"""Anything but plain JSON goes the whole way."""
SAME = ("Content-Type", "ETag", "Allow", "Cache-Control", "X-Content-Type-Options", "X-RateLimit-Limit", "Content-Length", "Vary")


@pytest.fixture
def project(primary: None) -> Project:
    return factories.project()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each read was answered on the short way."""
    return ways_of(monkeypatch, hot, "_answer")


def ways_of(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[bool]:
    """Grows by one with each call of this function of a short way: whether it had an answer."""
    ways, answer = list[bool](), getattr(module, name)

    def noted(*args: Any) -> Any:
        found = answer(*args)
        ways.append(found is not None)
        return found

    monkeypatch.setattr(module, name, noted)
    return ways


def make(admin: Person, project: Project, key: str = "db", value: str = "hunter2", environment: str = "dev", **more: Any) -> str:
    status, row = admin.post(
        "secrets", {"project_id": str(project.id), "key": key, "value": value, "environment": environment, **more}
    )
    assert status == 201, row
    return str(row["id"])


def both(person: Person, path: str, prefix: str = "/api/v1/") -> tuple[Any, Any]:
    """The answers of the short and of the whole way."""
    client = Client(raise_request_exception=False)
    return (
        client.get(prefix + path, headers={**person.headers, "Accept": "application/json"}),
        client.get(prefix + path, headers={**person.headers, **WHOLE}),
    )


def same(pair: tuple[Any, Any]) -> Any:
    one, other = pair
    assert (one.status_code, one.content) == (other.status_code, other.content)
    known = [name for name in SAME if name != "X-RateLimit-Limit" or one.status_code != 401]  # a limit is of who is known
    assert [one.get(name) for name in known] == [other.get(name) for name in known]
    return one


RICH = {
    "ttl_hours": 5, "metadata": {"ü": "line \u2028 and \u2029", "b": '"<>&'}, "tags": ["a", "ß"], "description": "d\u00e9",
    "rotation": {"enabled": True, "rotation_interval_days": 3}, "type": "api_key",
}  # fmt: skip


def test_both_ways_give_the_same_bytes_and_headers(admin: Person, project: Project, short: list[bool]) -> None:
    plain, rich = make(admin, project), make(admin, project, "r", 'va\u2028lue \u00fc \\ " \x01 end', **RICH)
    archived = make(admin, project, "old")
    assert admin.post(f"secrets/{archived}/archive")[0] == 200
    for path in (f"secrets/{plain}", f"secrets/{rich}", f"secrets/{archived}", f"secrets/{rich.upper()}",
                 f"secrets?project_id={project.id}&key=db", f"secrets?project_id={project.id}&key=r&environment=DEV",
                 f"secrets/?project_id={project.id}&key=r&environment=%20dev%20"):  # fmt: skip
        assert same(both(admin, path)).status_code == 200, path
    assert short == [True, False] * 7


def test_the_short_way_gives_the_value_of_the_last_version_that_has_one(
    admin: Person, project: Project, short: list[bool]
) -> None:
    made = make(admin, project)
    assert admin.patch(f"secrets/{made}", {"description": "x"})[0] == 200
    body = same(both(admin, f"secrets/{made}")).json()
    assert (body["value"], body["version"]) == ("hunter2", 2) and short[0]


REFUSED: dict[str, Callable[[str, Project], str]] = {
    "unknown": lambda made, project: "secrets/00000000-0000-4000-8000-000000000000",
    "no id": lambda made, project: "secrets/x",
    "no key": lambda made, project: f"secrets?project_id={project.id}&key=none",
    "empty key": lambda made, project: f"secrets?project_id={project.id}&key=",
    "no environment": lambda made, project: f"secrets?project_id={project.id}&key=db&environment=moon",
    "blank environment": lambda made, project: f"secrets?project_id={project.id}&key=db&environment=%20",
    "no project": lambda made, project: "secrets?project_id=x&key=db",
    "other project": lambda made, project: "secrets?project_id=00000000-0000-4000-8000-000000000000&key=db",
    "format": lambda made, project: f"secrets/{made}?format=html",
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_refused_with_the_same_words(kind: str, admin: Person, project: Project) -> None:
    path = REFUSED[kind](make(admin, project), project)
    assert same(both(admin, path)).status_code >= 400


def test_a_name_of_an_environment_is_found_as_well_as_its_slug(admin: Person, project: Project) -> None:
    make(admin, project)
    assert same(both(admin, f"secrets?project_id={project.id}&key=db&environment=development")).json()["value"] == "hunter2"


def test_a_key_in_two_environments_is_decided_by_the_whole_way(admin: Person, project: Project, short: list[bool]) -> None:
    make(admin, project)
    make(admin, project, environment="qa")
    assert same(both(admin, f"secrets?project_id={project.id}&key=db")).json()["environment"] == "dev"
    assert short == [False, False]
    assert AuditEntry.objects.filter(action="secret.read").count() == 2, "the short way audits no read that it does not answer"


def test_a_right_in_one_environment_reads_there_and_learns_nothing_elsewhere(admin: Person, project: Project) -> None:
    """I13: the value of what is foreign is not even read, so nothing of it shows in the time of the answer."""
    here, there = make(admin, project), make(admin, project, "p", "x" * 60_000, environment="prod")
    ann = factories.member("secret_manager", project=project, environment="dev")
    assert same(both(ann, f"secrets/{here}")).json()["value"] == "hunter2"
    foreign, unknown = same(both(ann, f"secrets/{there}")), same(both(ann, "secrets/00000000-0000-4000-8000-000000000000"))
    assert (foreign.status_code, foreign.content) == (404, unknown.content)
    text = hot._FOUND + hot._FROM + hot._BY_ID + hot.ALLOWED
    assert _loops_of_the_value(text, there) == 0 and _loops_of_the_value(text, here) == 1


def _loops_of_the_value(text: str, identifier: str) -> float:
    """How often the statement looked for the value."""
    with connection.cursor() as cursor:
        values = {"id": identifier, "everywhere": False, "places": json.dumps([{"o": "", "p": "", "e": "dev"}])}
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", values)
        found = cursor.fetchone()[0]
    plan = json.loads(found) if isinstance(found, str) else found

    def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield node
        for inner in node.get("Plans", ()):
            yield from nodes(inner)

    return sum(one["Actual Loops"] for one in nodes(plan[0]["Plan"]) if one.get("Relation Name") == "vault_secretversion")


def test_a_viewer_a_stranger_and_an_ended_session_are_refused_as_ever(
    admin: Person, project: Project, person: Callable[[str], Person], anybody: Person
) -> None:
    made = make(admin, project)
    for who, status in ((person("viewer"), 403), (anybody, 401), (Person("mzv_nobody"), 401), (Person("mzvt_nobody"), 401)):
        assert same(both(who, f"secrets/{made}")).status_code == status


def test_a_deleted_secret_and_one_whose_project_is_gone_are_not_there(admin: Person, project: Project) -> None:
    made = make(admin, project)
    Secret.objects.filter(id=made).update(status=SecretStatus.DELETED)
    assert same(both(admin, f"secrets/{made}")).status_code == 404
    Secret.objects.filter(id=made).update(status=SecretStatus.ACTIVE)
    Project.objects.filter(id=project.id).update(deleted_at=now())
    assert same(both(admin, f"secrets/{made}")).status_code == 404


def test_each_way_writes_the_same_entry_once(admin: Person, project: Project) -> None:
    made = make(admin, project)
    same(both(admin, f"secrets/{made}"))
    rows = AuditEntry.objects.filter(action="secret.read").order_by("id").values()
    one, other = ({name: value for name, value in row.items() if name not in ("id", "at")} for row in rows)
    assert one == other and one["entity_id"] == made and one["address"] == "127.0.0.1"


def test_a_call_is_counted_once_on_either_way(admin: Person, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    made, counted = make(admin, project), list[str]()
    from accounts import rates

    count = rates.count_call
    monkeypatch.setattr(rates, "count_call", lambda credential, moment: counted.append(credential) or count(credential, moment))
    for path in (f"secrets/{made}", "secrets/00000000-0000-4000-8000-000000000000"):
        admin.get(path)
    assert len(counted) == 2


def test_a_call_over_the_limit_is_counted_once_too(admin: Person, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    made, counted = make(admin, project), list[str]()
    from accounts import rates

    def over(credential: str, moment: object) -> int:
        counted.append(credential)
        raise TooManyRequests("too many", retry_after=1)

    monkeypatch.setattr(rates, "count_call", over)
    assert admin.get(f"secrets/{made}")[0] == 429 and len(counted) == 1


def test_at_a_gateway_too_both_ways_give_the_same(site: Site, short: list[bool]) -> None:  # noqa: F811
    made, ann = site.secret(), site.person()
    assert same(both(ann, f"secrets/{made.id}", "/gw/api/v1/")).json()["value"] == "one"
    assert same(both(ann, f"secrets?project_id={site.project.id}&key=db/password", "/gw/api/v1/")).status_code == 200
    assert short == [True, False] * 2
    status, queued = ann.put(f"secrets/{made.id}", {"value": "two"})
    assert status in (200, 202), queued


def test_at_a_gateway_what_it_is_not_right_to_give_out_is_refused_on_either_way(site: Site) -> None:  # noqa: F811
    from protocol.vocabulary import Assignment

    made, ann = site.secret(), site.person()
    path = f"secrets/{made.id}"
    for change, code in (
        (lambda: site.become(Assignment.STANDBY), "NOT_ACTIVE"), (lambda: site.become(Assignment.FENCED), "NOT_ACTIVE"),
        (lambda: site.cut_off_for(hours=9), "AUTH_OFFLINE_TOO_LONG"),
    ):  # fmt: skip
        change()
        assert same(both(ann, path, "/gw/api/v1/")).json()["code"] == code
    site.become(Assignment.ACTIVE)
    site.cut_off_for(seconds=30)
    Project.objects.filter(id=site.project.id).update(max_staleness_seconds=10)
    assert same(both(ann, path, "/gw/api/v1/")).json()["code"] == "STALE"
    Project.objects.filter(id=site.project.id).update(max_staleness_seconds=60)
    assert same(both(ann, path, "/gw/api/v1/")).status_code == 200


@pytest.fixture
def made_for_good(committed_primary: None, person: Callable[[str], Person]) -> tuple[Person, str]:
    """Rows that other connections see, and a connection nobody watches: the driver's own road."""
    admin = person("admin")
    return admin, make(admin, factories.project())


@pytest.mark.django_db(transaction=True)
def test_the_drivers_own_road_gives_the_same_and_commits_before_it_answers(made_for_good: tuple[Person, str]) -> None:
    admin, made = made_for_good
    wrappers, connection.execute_wrappers[:] = list(connection.execute_wrappers), []
    try:
        for _ in range(5):  # beyond the number of times after which the database keeps a plan
            assert same(both(admin, f"secrets/{made}")).json()["value"] == "hunter2"
    finally:
        connection.execute_wrappers[:] = wrappers
    assert AuditEntry.objects.filter(action="secret.read", entity_id=made).count() == 10


@pytest.mark.django_db(transaction=True)
def test_a_trail_that_takes_nothing_lets_no_value_out(made_for_good: tuple[Person, str]) -> None:
    admin, made = made_for_good
    with connection.cursor() as cursor:
        cursor.execute("""CREATE FUNCTION trail_is_down() RETURNS trigger LANGUAGE plpgsql AS $$
                          BEGIN RAISE EXCEPTION 'down' USING ERRCODE = 'disk_full'; END $$;
                          CREATE TRIGGER trail_is_down BEFORE INSERT ON common_auditentry
                          FOR EACH ROW EXECUTE FUNCTION trail_is_down()""")
    try:
        answers = [both(admin, path)[0] for path in (f"secrets/{made}", f"secrets?project_id={Project.objects.get().id}&key=db")]
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION trail_is_down CASCADE")
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (503, "AUDIT_UNAVAILABLE") and b"hunter2" not in answer.content
    assert not AuditEntry.objects.filter(action="secret.read").exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (psycopg.OperationalError("no connection"), "UNAVAILABLE"), (PoolCrowded("people", 4, 8.0), "UNAVAILABLE"),
        (psycopg.errors.LockNotAvailable("locked"), "UNAVAILABLE"), (psycopg.errors.AdminShutdown("gone"), "UNAVAILABLE"),
    ],
)  # fmt: skip
def test_who_waited_for_the_database_in_vain_is_told_so_at_once(
    made_for_good: tuple[Person, str], monkeypatch: pytest.MonkeyPatch, error: psycopg.Error, code: str
) -> None:
    admin, made = made_for_good
    asked = list[str]()

    def fails(text: str, values: Any) -> Any:
        asked.append(text)
        raise OperationalError("no") from error

    monkeypatch.setattr(hot, "fetch", fails)
    status, body = admin.get(f"secrets/{made}")
    assert (status, body["code"]) == (503, code) and len(asked) == 1
    assert not AuditEntry.objects.filter(action="secret.read").exists(), "the whole way was not gone too"


def entry(name: str) -> AuditEntry:
    return AuditEntry(at=now(), actor=name, action="t", entity="t", entity_id=name, severity="info", environment="", address="")


def together(commits: Commits, entries: list[AuditEntry]) -> list[Any]:
    """Commit each in a thread of its own, all at once; what each of them got."""
    came, all_here = list[Any](), threading.Barrier(len(entries))

    def one(wanted: AuditEntry) -> None:
        all_here.wait()
        try:
            commits.commit(wanted)
            came.append((wanted.entity_id, "stored"))
        except DatabaseError as refused:
            came.append((wanted.entity_id, type(refused).__name__))
        finally:
            connection.close()

    threads = [threading.Thread(target=one, args=(wanted,)) for wanted in entries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(came)


@pytest.mark.django_db(transaction=True)
def test_entries_of_the_same_time_share_a_commit_and_nobody_goes_on_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    commits, batches, insert = Commits(), list[int](), audit_commits._insert
    first_is_in, go_on = threading.Event(), threading.Event()

    def slow(batch: Any) -> None:
        batches.append(len(batch))
        if len(batches) == 1:
            first_is_in.set()
            assert go_on.wait(20)
        insert(batch)

    monkeypatch.setattr(audit_commits, "_insert", slow)
    first = threading.Thread(target=lambda: (commits.commit(entry("first")), connection.close()))
    first.start()
    assert first_is_in.wait(20)
    others: list[Any] = []
    rest = threading.Thread(target=lambda: others.extend(together(commits, [entry(f"n{number}") for number in range(12)])))
    rest.start()
    while len(commits._waiting) < 12:
        assert rest.is_alive()
    assert others == [] and not AuditEntry.objects.exists(), "nobody goes on before the commit"
    go_on.set()
    rest.join()
    first.join()
    assert len(others) == 12 and AuditEntry.objects.count() == 13
    assert batches == [1, 12]


@pytest.mark.django_db(transaction=True)
def test_an_entry_that_cannot_be_stored_refuses_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    commits = Commits()
    wrong = entry("wrong")
    wrong.severity = "much too long for its column"
    came = together(commits, [wrong, *[entry(f"n{number}") for number in range(6)]])
    assert [name for name, what in came if what != "stored"] == ["wrong"]
    assert AuditEntry.objects.count() == 6


@pytest.mark.django_db(transaction=True)
def test_a_thread_that_dies_while_it_stores_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    commits = Commits()

    def dies(batch: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(audit_commits, "_insert", dies)
    monkeypatch.setattr(audit_commits, "LONGEST_WAIT", 5.0)
    thread = threading.Thread(target=lambda: commits.commit(entry("a")))
    thread.start()
    thread.join(10)
    assert not thread.is_alive() and not commits._storing
    monkeypatch.undo()
    commits.commit(entry("b"))
    assert list(AuditEntry.objects.values_list("entity_id", flat=True)) == ["b"]


def test_in_a_transaction_an_entry_is_part_of_it(primary: None) -> None:
    audit.commit(actor="a", action="b", entity="c", entity_id="d", details={})
    assert AuditEntry.objects.filter(entity_id="d").count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_read_is_one_statement_that_commits_its_entry(made_for_good: tuple[Person, str]) -> None:
    admin, made = made_for_good
    admin.get(f"secrets/{made}")
    with CaptureQueriesContext(connection) as told:
        admin.get(f"secrets/{made}")
    texts = [one["sql"].split()[0] for one in told.captured_queries]
    assert texts == ["SELECT", "WITH"], "rights (remembered where somebody listens), secret with its entry"
