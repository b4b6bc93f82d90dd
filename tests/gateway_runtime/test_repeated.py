"""A request with an `Idempotency-Key` is carried out once, at whichever node it is repeated, and after a failover (ADR 44).

Both sides share one database here. A gateway that knows nothing of the first request (another one, or the same one enrolled anew)
is one whose queue was emptied.
"""

from __future__ import annotations

import itertools
import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils.crypto import salted_hmac

from accounts.access import Grant, Principal, PrincipalKind
from common.clock import now
from common.errors import Conflict
from gateway_runtime import write_queue
from gateway_runtime.models import PendingWrite
from gateways import inbox, write_resolution
from gateways.models import ReceivedWrite
from protocol.vocabulary import WriteOperation, WriteOutcome
from protocol.writes import WriteBody
from tests import factories
from tests.gateway_runtime.conftest import SECRETS
from tests.gateway_runtime.test_storage import Keeping, keeping  # noqa: F401  the fixture
from tests.gateway_runtime.test_with_the_primary import Pair, pair  # noqa: F401  the fixture
from vault.models import AnsweredRequest, Secret, SecretVersion
from vault.ports import Origin, SecretChange
from vault.rules import CARRIES_VALUE
from vault.secrets import apply_change

Answer = tuple[int, Any]
WAYS = [
    ("primary", "primary", True), ("gateway", "primary", True), ("gateway", "another gateway", True),
    ("primary", "gateway", True), ("primary", "gateway", False),
]  # fmt: skip
"""Where a request is made, where it is repeated, and whether the copy there has heard of it by then."""


@dataclass
class Desk:
    """Sends requests of one person to either side."""

    pair: Pair
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def send(self, node: str, method: str, path: str, body: Any, key: str) -> Answer:
        answer = self.respond(node, method, path, body, key)
        return answer.status_code, answer.json() if answer.content else None

    def respond(self, node: str, method: str, path: str, body: Any, key: str) -> Any:
        at = f"/{'gw/' if node != 'primary' else ''}api/v1/{path}"
        if node == "another gateway":
            PendingWrite.objects.all().delete()
        more = {"data": body, "content_type": "application/json"} if body is not None else {}
        return getattr(self.pair.ann.client, method)(at, headers={**self.pair.ann.headers, "Idempotency-Key": key}, **more)

    def secret(self, *more: WriteOperation) -> uuid.UUID:
        """A fresh secret in version 2, made at the Primary; the gateway hears of it with the next `pull`."""
        made, site = uuid.uuid4(), self.pair.site
        place = (site.project.id, site.environment.id, f"k{next(self.numbers)}")
        for operation in (WriteOperation.CREATE, WriteOperation.UPDATE, *more):
            body = (
                WriteBody(value="one" if operation is WriteOperation.CREATE else "two")
                if operation in CARRIES_VALUE
                else WriteBody()
            )
            apply_change(SecretChange(operation, made, *place, None, body), Origin("user:admin"), None, now())
        return made

    def known(self) -> uuid.UUID:
        made = self.secret()
        self.pull()
        return made

    def pull(self) -> None:
        """What the gateway's copy does not hold, the Primary does: in one database it has to be put back."""
        held = {row.id: row for row in SecretVersion.objects.exclude(sealed_value=None)}
        self.pair.pull()
        for row in SecretVersion.objects.filter(id__in=held, sealed_value=None):
            SecretVersion.objects.filter(id=row.id).update(sealed_value=held[row.id].sealed_value)


@pytest.fixture
def desk(pair: Pair) -> Desk:  # noqa: F811  the fixture
    return Desk(pair)


Request = tuple[str, str, Any, Any]
"""Method, path, body, and a body that asks for something else (None: there is none)."""


def requests_of(desk: Desk) -> dict[str, Request]:
    """One of each kind, each about a secret of its own that both sides know."""
    creation = {"project_id": str(desk.pair.site.project.id), "environment": "dev", "key": "fresh", "value": "v"}
    found = {
        "create": ("post", "secrets", creation, {**creation, "value": "w"}),
        "update": ("put", f"secrets/{desk.secret()}", {"value": "x"}, {"value": "y"}),
        "update of a version": ("put", f"secrets/{desk.secret()}", {"value": "x", "base_version": 2}, {"value": "x"}),
        "metadata": ("patch", f"secrets/{desk.secret()}", {"description": "x"}, {"description": "y"}),
        "rotate": ("post", f"secrets/{desk.secret()}/rotate", {}, {"value": "chosen"}),
        "rollback": ("post", f"secrets/{desk.secret()}/rollback", {"version": 1}, {"version": 1, "change_reason": "y"}),
        "archive": ("post", f"secrets/{desk.secret()}/archive", {}, {"change_reason": "y"}),
        "restore": ("post", f"secrets/{desk.secret(WriteOperation.ARCHIVE)}/restore", {}, {"change_reason": "y"}),
        "delete": ("delete", f"secrets/{desk.secret()}", None, None),
        "purge": ("delete", f"secrets/{desk.secret(WriteOperation.ARCHIVE)}/permanent", None, None),
    }
    desk.pull()
    return found


@pytest.mark.parametrize(("first", "second", "heard"), WAYS, ids=lambda value: str(value))
def test_every_change_is_made_once_wherever_it_is_repeated(desk: Desk, first: str, second: str, heard: bool) -> None:
    wrong, cells = list[str](), 0
    for name, (method, path, body, other) in requests_of(desk).items():
        key = uuid.uuid4().hex
        answer = desk.send(first, method, path, body, key)
        if heard:
            desk.pull()
        made = SecretVersion.objects.count()
        again = desk.send(second, method, path, body, key)
        cells += 1
        if not (200 <= answer[0] < 300 and said(again) == said(answer) and SecretVersion.objects.count() == made):
            wrong.append(f"{name}: {answer} then {again}")
        if other is not None:
            status, refused = desk.send(second, method, path, other, key)
            cells += 1
            if (status, refused.get("code")) != (409, "IDEMPOTENCY_MISMATCH") or SecretVersion.objects.count() != made:
                wrong.append(f"{name}, another request: {status} {refused}")
    print(f"repeated at another node, {first} then {second}: cells {cells}, wrong {len(wrong)}")
    assert not wrong, wrong


@pytest.mark.parametrize("node", ["primary", "gateway", "another gateway"])
def test_a_repeated_change_is_told_the_version_it_made_and_not_a_newer_one(desk: Desk, node: str) -> None:
    wrong = list[str]()
    for name, (method, path, body, _) in requests_of(desk).items():
        if name in ("delete", "purge", "archive", "create"):
            continue
        key = uuid.uuid4().hex
        first = desk.respond(node, method, path, body, key)
        newer = desk.respond("primary", "put", "/".join(path.split("/")[:2]), {"value": "theirs"}, uuid.uuid4().hex)
        assert newer.json()["version"] == first.json()["version"] + 1, (name, newer.content)
        desk.pull()
        again = desk.respond(node, method, path, body, key)
        if (again.status_code, again["ETag"], again.json()["version"]) != (200, first["ETag"], first.json()["version"]):
            wrong.append(f"{name}: {first['ETag']} then {again['ETag']} {again.content!r}")
    assert not wrong, wrong


def said(answer: Answer) -> tuple[Any, ...]:
    status, body = answer
    return status, *((body[name] for name in ("id", "version", "status", "key")) if body else ())


def test_a_repetition_never_overwrites_what_somebody_set_since(desk: Desk) -> None:
    path = f"secrets/{desk.known()}"
    assert desk.send("gateway", "put", path, {"value": "mine"}, "k")[1]["version"] == 3
    assert desk.send("primary", "put", path, {"value": "theirs"}, "other")[1]["version"] == 4
    for node in ("primary", "another gateway"):
        status, row = desk.send(node, "put", path, {"value": "mine"}, "k")
        assert status == 200 and "value" not in row and row["version"] == 3, row
    assert desk.send("primary", "get", path, None, "")[1]["value"] == "theirs"


def test_a_queued_write_that_was_repeated_at_the_primary_ends_with_that_answer(desk: Desk) -> None:
    path, site = f"secrets/{desk.known()}", desk.pair.site
    site.primary.down = True
    status = desk.send("gateway", "put", path, {"value": "x"}, "k")[0]
    assert status == 202 and desk.send("gateway", "put", path, {"value": "y"}, "follows")[0] == 202
    assert desk.send("primary", "put", path, {"value": "x"}, "k")[1]["version"] == 3
    site.primary.down = False
    for _ in range(2):
        site.upload()
        inbox.apply_pending()
        PendingWrite.objects.update(not_before=now())
    outcomes = dict(PendingWrite.objects.values_list("idempotency_key", "outcome"))
    assert outcomes == {"k": "duplicate", "follows": "applied"}, "what was made after it stands on the answer"
    assert list(
        SecretVersion.objects.filter(secret=path.removeprefix("secrets/")).values_list("version", flat=True).order_by("version")
    ) == [1, 2, 3, 4]
    assert desk.send("gateway", "put", path, {"value": "x"}, "k")[:1] == (200,)


def test_a_creation_repeated_at_the_primary_is_the_one_that_is_followed(desk: Desk) -> None:
    site = desk.pair.site
    wish = {"project_id": str(site.project.id), "environment": "dev", "key": "fresh", "value": "v"}
    site.primary.down = True
    status, queued = desk.send("gateway", "post", "secrets", wish, "k")
    made = desk.send("primary", "post", "secrets", wish, "k")[1]
    assert status == 202 and queued["secret_id"] != made["id"]
    site.primary.down = False
    site.upload()
    inbox.apply_pending()
    PendingWrite.objects.update(not_before=now())
    site.upload()
    assert Secret.objects.filter(key="fresh").count() == 1
    followed = desk.pair.ann.get(f"writes/{queued['id']}")[1]
    assert (followed["outcome"], followed["secret_id"], followed["version"]) == ("duplicate", made["id"], 1)
    assert desk.send("gateway", "post", "secrets", wish, "k")[1]["id"] == made["id"]


def test_what_waits_for_a_person_is_not_applied_when_it_was_made_elsewhere(desk: Desk) -> None:
    """The first gateway lost the environment before its write arrived; the caller repeated it at the next one."""
    made, gateway = Secret.objects.get(id=desk.known()), desk.pair.gateway
    wish = SecretChange(
        WriteOperation.UPDATE,
        made.id,
        made.project_id,
        made.environment_id,
        made.key,
        None,
        WriteBody(value="x", ttl_hours=0, metadata={}),
    )
    body = WriteBody(value="x", ttl_hours=0, metadata={}, request=wish.fingerprint())
    late = gateway.write(made, body=body, actor=desk.pair.ann.actor, idempotency_key="k", base_version=1)
    assert gateway.upload_one(late).outcome is WriteOutcome.CONFLICT or ReceivedWrite.objects.filter(outcome="received").exists()
    inbox.apply_pending()
    row = ReceivedWrite.objects.get(idempotency_key="k")
    assert row.outcome == "conflict", (row.outcome, row.code)
    assert desk.send("primary", "put", f"secrets/{made.id}", {"value": "x"}, "k")[1]["version"] == 3
    decides = Principal(PrincipalKind.USER, str(uuid.uuid4()), "ada", (Grant(frozenset(SECRETS)),), now())
    with pytest.raises(Conflict, match="made version 3") as caught:
        write_resolution.resolve(row.id, "apply", decides, address="", now=now())
    assert caught.value.code == "SYNC_CONFLICT" and made.versions.count() == 3


def test_another_environment_learns_nothing_of_a_request(desk: Desk) -> None:
    """I13: the same person and key in PRO are a request of their own to a gateway of NPR."""
    made = Secret.objects.get(id=desk.known())
    pro = factories.environment_of(made.project, "prod")
    theirs = Secret.objects.create(project=made.project, environment=pro, key="p", version=1, created_at=now(), updated_at=now())
    AnsweredRequest.objects.create(actor=desk.pair.ann.actor, key="k", digest="", secret=theirs, version=1, at=now())
    status, row = desk.send("gateway", "put", f"secrets/{made.id}", {"value": "x"}, "k")
    assert (status, row["version"]) == (200, 3)
    assert AnsweredRequest.objects.get(key="k").secret_id == theirs.id, "and does not take its place"
    assert desk.send("another gateway", "put", f"secrets/{made.id}", {"value": "x"}, "k")[1]["version"] == 3, "and is one itself"
    assert desk.send("another gateway", "put", f"secrets/{made.id}", {"value": "y"}, "k")[1]["code"] == "IDEMPOTENCY_MISMATCH"


def test_a_key_means_one_request_at_the_primary_whatever_the_environment(desk: Desk) -> None:
    made = Secret.objects.get(id=desk.known())
    pro = factories.environment_of(made.project, "prod")
    wish = {"project_id": str(made.project_id), "environment": pro.slug, "key": "p", "value": "v"}
    assert desk.send("primary", "put", f"secrets/{made.id}", {"value": "x"}, "k")[1]["version"] == 3
    assert desk.send("primary", "post", "secrets", wish, "k")[1]["code"] == "IDEMPOTENCY_MISMATCH"


def test_what_an_older_release_answered_is_not_made_again_through_a_gateway(desk: Desk) -> None:
    """In what form that one would have stored it, the gateway's write does not tell: operation and secret must fit."""
    path, other = f"secrets/{desk.known()}", f"secrets/{desk.known()}"
    assert desk.send("primary", "put", path, {"value": "x"}, "k")[1]["version"] == 3
    AnsweredRequest.objects.update(digest="0" * 64)
    assert desk.send("gateway", "put", path, {"value": "x"}, "k")[1]["version"] == 3
    assert desk.send("another gateway", "put", other, {"value": "x"}, "k")[1]["code"] == "IDEMPOTENCY_MISMATCH"


def test_what_an_older_release_queued_is_not_queued_again(desk: Desk) -> None:
    """A queue may be days old. The digest is composed here by hand, as the release before ADR 44 stored it."""
    made = Secret.objects.get(id=desk.known())
    desk.pair.site.primary.down = True
    status, queued = desk.send("gateway", "put", f"secrets/{made.id}", {"value": "x"}, "k")
    body = '{"value":"x","ttl_hours":0,"metadata":{}}'
    asked = "\0".join(["update", str(made.id), str(made.project_id), str(made.environment_id), made.key, "None", body])
    PendingWrite.objects.update(request_digest=salted_hmac("queued-request", asked, algorithm="sha256").hexdigest())
    again = desk.send("gateway", "put", f"secrets/{made.id}", {"value": "x"}, "k")
    assert status == again[0] == 202 and again[1]["id"] == queued["id"] and PendingWrite.objects.count() == 1
    assert desk.send("gateway", "put", f"secrets/{made.id}", {"value": "y"}, "k")[1]["code"] == "IDEMPOTENCY_MISMATCH"


def test_a_person_applies_another_request_under_a_used_key_as_its_own_change(desk: Desk) -> None:
    made, gateway = Secret.objects.get(id=desk.known()), desk.pair.gateway
    assert desk.send("primary", "put", f"secrets/{made.id}", {"value": "first"}, "k")[1]["version"] == 3
    body = WriteBody(value="second", ttl_hours=0, metadata={}, request="1" * 64)
    late = gateway.write(made, body=body, actor=desk.pair.ann.actor, idempotency_key="k", base_version=3)
    gateway.upload_one(late)
    inbox.apply_pending()
    row = ReceivedWrite.objects.get(idempotency_key="k")
    assert (row.outcome, row.code) == ("dead_letter", "IDEMPOTENCY_MISMATCH")
    decides = Principal(PrincipalKind.USER, str(uuid.uuid4()), "ada", (Grant(frozenset(SECRETS)),), now())
    assert write_resolution.preview(row.id, decides)["applying"]["possible"]
    assert write_resolution.resolve(row.id, "apply", decides, address="", now=now()).write.version == 4
    assert desk.send("primary", "put", f"secrets/{made.id}", {"value": "first"}, "k")[1]["version"] == 3, "the key is the first's"
    assert made.versions.count() == 4


def test_a_fingerprint_is_the_same_in_every_release(desk: Desk) -> None:
    """Nodes of two releases compare them: a new field of `WriteBody` changes none, else requests would be made twice."""
    place = (uuid.UUID(int=1), uuid.UUID(int=2), uuid.UUID(int=3), "k")
    bare = SecretChange(WriteOperation.UPDATE, *place, None, WriteBody())
    full = SecretChange(WriteOperation.CREATE, *place, 4, WriteBody(
        value="v", ttl_hours=1, metadata={"a": "b"}, type="general", description="d", tags=["t"], rotation={"enabled": True},
        rollback_to=2, reason="r", external_version="e", value_hash="0" * 64, request="1" * 64,
    ))  # fmt: skip
    assert [one.fingerprint()[:16] for one in (bare, full)] == ["76526d737e0a0cc4", "1dd51b45eaf6e38d"]


def test_writes_without_a_key_cost_no_statement_more(desk: Desk) -> None:
    path = f"secrets/{desk.known()}"
    with CaptureQueriesContext(connection) as plain:
        desk.pair.put("x")
    assert path and not [one for one in plain.captured_queries if "answeredrequest" in one["sql"].lower()]


def test_the_fingerprint_is_never_in_the_open(desk: Desk) -> None:
    """It tells of the value to who can guess it: it rests sealed and travels sealed."""
    path = f"secrets/{desk.known()}"
    desk.pair.site.primary.down = True
    desk.send("gateway", "put", path, {"value": "x"}, "k")
    row = PendingWrite.objects.get(idempotency_key="k")
    seen = write_queue.on_the_wire(row, promised=True)
    fingerprint = seen.body.split('"request":"')[1][:64]
    assert fingerprint not in str(vars(row)) and fingerprint not in repr(seen)
    desk.pair.site.primary.down = False
    desk.pair.site.upload()
    inbox.apply_pending()
    assert fingerprint not in str(list(AnsweredRequest.objects.values())) + str(list(ReceivedWrite.objects.values()))


def test_a_vault_hears_of_a_repeated_request_once(keeping: Keeping) -> None:  # noqa: F811  the fixture
    """Also when the gateway that is asked again knows nothing of the first time."""
    row = keeping.create()[1]
    path, key = f"secrets/{row['id']}", {"Idempotency-Key": "k"}
    first = keeping.pair.ann.put(path, {"value": "two"}, **key)
    PendingWrite.objects.all().delete()
    again = keeping.pair.ann.put(path, {"value": "two"}, **key)
    assert (first[0], again[0], again[1]["version"], keeping.sets()) == (200, 200, 2, 2)
    assert keeping.pair.ann.put(path, {"value": "three"}, **key)[1]["code"] == "IDEMPOTENCY_MISMATCH" and keeping.sets() == 2


def test_a_new_secret_has_no_twin(desk: Desk) -> None:
    """Two creations under two keys are two requests: the second one meets the first one's name."""
    wish = {"project_id": str(desk.pair.site.project.id), "environment": "dev", "key": "n", "value": "v"}
    assert desk.send("gateway", "post", "secrets", wish, "a")[0] == 201
    assert desk.send("primary", "post", "secrets", wish, "b")[1]["code"] == "DUPLICATE_NAME"
