"""The secrets API, the same on the Primary and on a gateway: the node behind it decides whether a change is applied or queued."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.authentication import principal_in
from accounts.roles import SECRETS_DELETE, SECRETS_READ, SECRETS_WRITE
from common.api import Operation, checked, rfc3339
from common.clock import now
from common.described import described
from common.errors import MazeVaultError, NotFound, ValidationFailed
from common.paging import PAGE, page_if_asked
from protocol.spelling import normal
from protocol.vocabulary import WriteOperation, WriteOutcome
from protocol.writes import LONGEST_IDEMPOTENCY_KEY, WriteBody
from vault import hot, hot_change, rules, secrets, selectors, values
from vault.forms import (
    BesideWish,
    ChangeWish,
    CreateWish,
    QueuedRow,
    RollbackWish,
    RotateWish,
    RotationConfig,
    SecretRow,
    SecretWithValue,
    UpdateWish,
    VersionRow,
    VersionWithValue,
)
from vault.generating import USUAL, new_value
from vault.models import Secret, SecretStatus
from vault.ports import Asker, PendingCreation, SecretChange, SecretNode, Shown, Written

_ETAG = re.compile(r'^(?:W/)?"?(\d{1,10})"?$', re.ASCII)
_VERSION = re.compile(r"^\d{1,10}$", re.ASCII)


class SecretOperation(Operation):
    """A path of the secrets API on one node."""

    scoped = True
    node: SecretNode | None = None
    only_repeated = False
    said_by_header = False
    """Whether `If-Match` said what version a change was made on."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """What is plain is answered at once (`vault.hot`); everything else, and every refusal, takes the framework's way."""
        answer = self.at_once(request, **kwargs)
        if answer is None:
            return super().dispatch(request, *args, **kwargs)
        answer["Allow"] = ", ".join(self.allowed_methods)
        return answer

    def at_once(self, request: HttpRequest, **named: str) -> HttpResponse | None:
        """The answer on the shortest way, where this path has one."""
        return None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        self.here.admit()

    @property
    def here(self) -> SecretNode:
        if self.node is None:
            raise TypeError("the route names no node")
        return self.node

    def secret_to_read(self, identifier: str) -> Secret:
        """Raises `NotFound`; for a secret that is promised and not there yet it names the write that creates it."""
        caller = principal_in(self.request)
        try:
            return selectors.secret_for(caller, identifier)
        except NotFound:
            creation = self._creation(identifier)
            if creation is not None:
                selectors.refuse_promised(caller, creation)
            raise

    def secret_to_change(self, identifier: str, needed: str, statuses: Iterable[str] = selectors.SHOWN) -> Secret:
        """Also one that is only promised: the change then waits behind the write that creates it. With an idempotency key also
        one that is gone: the change may be the repetition of what made it so."""
        caller = principal_in(self.request)
        try:
            return selectors.secret_for(caller, identifier, needed, statuses)
        except NotFound:
            creation = self._creation(identifier)
            if creation is not None:
                return selectors.promised_secret(caller, creation, needed)
            if not self.idempotency_key:
                raise
            found = selectors.secret_for(caller, identifier, needed, SecretStatus.values)
            self.only_repeated = True
            return found

    def _creation(self, identifier: str) -> PendingCreation | None:
        wanted = selectors.as_uuid(identifier)
        return self.here.creation_of(wanted) if wanted else None

    def row(self, secret: Secret, value: str | None = None) -> dict[str, Any]:
        return selectors.secret_row(secret, self.here.freshness(secret.project), self.here.pending(secret.id), value)

    def opened(self, secret: Secret) -> Response:
        """The secret with its value, once the audit entry of this read is committed (I17). HEAD gets no value and opens none."""
        self.here.freshness(secret.project)  # refuses what is too old before anything is opened
        if self.request.method == "HEAD":
            return self.tagged(self.row(secret))
        shown = self.shown(secret, None)
        seen = shown.secret or secret
        if seen.status not in selectors.SHOWN:
            raise NotFound(rules.ABSENT)
        return self.tagged({**self.row(seen, shown.value), **_found_in(shown, newest=True)})

    def shown(self, secret: Secret, version: int | None) -> Shown:
        return secrets.show(secret, version, self.asker, self.here.keeper)

    @property
    def asker(self) -> Asker:
        return Asker(principal_in(self.request), self.address, self.request.auth)

    def tagged(self, row: dict[str, Any], status: int = 200) -> Response:
        return Response(row, status=status, headers={"ETag": f'"{row["version"]}"'})

    @property
    def idempotency_key(self) -> str:
        key: str = self.request.headers.get("Idempotency-Key", "")
        if len(key) > LONGEST_IDEMPOTENCY_KEY or "\0" in key:
            raise ValidationFailed(f"Idempotency-Key: must have at most {LONGEST_IDEMPOTENCY_KEY} characters, and no NUL")
        return key

    def write(self, change: SecretChange) -> Written:
        return self.here.write(change, self.asker, idempotency_key=self.idempotency_key, now=now())

    def change(
        self, secret: Secret, operation: WriteOperation, body: WriteBody, base: int | None, *, generated: bool = False,
        length: int | None = None,
    ) -> Written:  # fmt: skip
        place = secret.project_id, secret.environment_id, secret.key
        return self.write(SecretChange(operation, secret.id, *place, base, body, generated, self.only_repeated, length))

    def answer(self, written: Written, secret: uuid.UUID, *, status: int = 200, value: str | None = None) -> Response:
        """The secret after an applied change, or where to follow a queued one.

        A repeated request may meet a newer state. It is told the version that it made itself, so that a next change on that one
        conflicts with what came between.
        """
        if written.outcome is not WriteOutcome.APPLIED or written.secret is None:
            return _queued(written, secret)
        mine = written.version == written.secret.version
        return self.tagged({**self.row(written.secret, value if mine else None), "version": written.version}, status)

    def handle_exception(self, exc: Exception) -> Response:
        """What is wrong with the version a change was made on is told under the name the caller gave it."""
        if isinstance(exc, MazeVaultError) and self.said_by_header:
            exc.sentence = re.sub(r"^base_version:", "If-Match:", exc.sentence)
        return super().handle_exception(exc)

    def base(self, wish: dict[str, Any]) -> int | None:
        """The version the change was made on, from `If-Match` or the body. None: whatever is there."""
        said = self.request.headers.get("If-Match", "").strip()
        found = _ETAG.match(said)
        if said not in ("", "*") and not found:
            raise ValidationFailed('If-Match: must be a version such as "3"')
        header = int(found.group(1)) if found else None
        body: int | None = wish.get("base_version")
        if header is not None and body is not None and header != body:
            raise ValidationFailed(f"base_version: is {body}, but If-Match says {header}; send one of them")
        self.said_by_header = header is not None and body is None
        return body if header is None else header


class Secrets(SecretOperation):
    """Create a secret; find one by project and key; list a project's."""

    permissions = {"GET": SECRETS_READ, "POST": SECRETS_WRITE}

    def at_once(self, request: HttpRequest, **named: str) -> HttpResponse | None:
        return hot.one_of_key(self.here, request) if request.method == "GET" else None

    @described(operation_id="createSecret", request=CreateWish, responses={201: SecretRow, 202: QueuedRow})
    def post(self, request: Request) -> Response:
        wish = checked(CreateWish, request.data)
        key = one_of(wish, "key", "name")
        if not key:
            raise ValidationFailed("key: is required")
        project = selectors.project_for(principal_in(request), wish["project_id"], SECRETS_WRITE)
        environment = selectors.environment_of(project, wish.get("environment") or "")
        identifier = uuid.uuid4()
        body = _body(wish, value=wish["value"])
        change = SecretChange(
            WriteOperation.CREATE, identifier, project.id, environment.id, normal(key), self.base(wish), body
        )  # fmt: skip
        return self.answer(self.write(change), identifier, status=201)

    @described(
        operation_id="listSecrets",
        parameters=[
            OpenApiParameter("project_id", required=True),
            OpenApiParameter("key", description="with it the answer is one object with its value"),
            OpenApiParameter("environment", description="name or slug"),
            OpenApiParameter("status", description="active, archived, deleted or all; for lists"),
            *PAGE,
        ],
        responses=SecretRow(many=True),
    )
    def get(self, request: Request) -> Response:
        caller, asked = principal_in(request), request.query_params
        if not asked.get("project_id"):
            raise ValidationFailed("project_id: is required")
        project = selectors.project_for(caller, asked["project_id"])
        environment = asked.get("environment", "")
        if "key" in asked:
            if idle := sorted({"status", "limit", "offset"} & asked.keys()):
                raise ValidationFailed(f"{idle[0]}: is for lists; with key the answer is one active secret")
            return self.opened(selectors.secret_of_key(caller, project, asked["key"], environment))
        fresh = self.here.freshness(project)
        found = page_if_asked(selectors.secrets_of(caller, project, environment, asked.get("status", "active")), request)
        pending = self.here.pending_of([row.id for row in found])
        return Response([selectors.secret_row(row, fresh, pending.get(row.id)) for row in found])


class SecretOne(SecretOperation):
    """Read, change or delete one secret."""

    permissions = {"GET": SECRETS_READ, "PUT": SECRETS_WRITE, "PATCH": SECRETS_WRITE, "DELETE": SECRETS_DELETE}

    def at_once(self, request: HttpRequest, **named: str) -> HttpResponse | None:
        if request.method == "PUT":
            return hot_change.new_value(self.here, request, named["identifier"])
        return hot.one_of_id(self.here, request, named["identifier"]) if request.method == "GET" else None

    @described(operation_id="getSecret", responses=SecretWithValue)
    def get(self, request: Request, identifier: str) -> Response:
        return self.opened(self.secret_to_read(identifier))

    @described(operation_id="updateSecret", request=UpdateWish, responses={200: SecretWithValue, 202: QueuedRow})
    def put(self, request: Request, identifier: str) -> Response:
        secret = self.secret_to_change(identifier, SECRETS_WRITE)
        wish = checked(UpdateWish, request.data)
        replaced = {**wish, "ttl_hours": wish.get("ttl_hours") or 0, "metadata": wish.get("metadata") or {}}
        written = self.change(secret, WriteOperation.UPDATE, _body(replaced, value=wish["value"]), self.base(wish))
        return self.answer(written, secret.id, value=wish["value"])

    @described(operation_id="changeSecret", request=BesideWish, responses={200: SecretRow, 202: QueuedRow})
    def patch(self, request: Request, identifier: str) -> Response:
        secret = self.secret_to_change(identifier, SECRETS_WRITE)
        wish = checked(BesideWish, request.data)
        if "value" in wish:
            raise ValidationFailed("value: PATCH changes what stands beside the value; send a new value with PUT")
        return self.answer(self.change(secret, WriteOperation.METADATA, _body(wish), self.base(wish)), secret.id)

    @described(operation_id="deleteSecret", request=None, responses={204: None, 202: QueuedRow})
    def delete(self, request: Request, identifier: str) -> Response:
        secret = self.secret_to_change(identifier, SECRETS_DELETE)
        written = self.change(secret, WriteOperation.DELETE, WriteBody(), self.base({}))
        return _gone(written, secret.id)


class SecretPermanent(SecretOperation):
    """Destroy a deleted or archived secret for good: its values and metadata. A tombstone stays."""

    permissions = {"DELETE": SECRETS_DELETE}

    @described(operation_id="purgeSecret", request=None, responses={204: None, 202: QueuedRow})
    def delete(self, request: Request, identifier: str) -> Response:
        statuses = (*selectors.SHOWN, SecretStatus.DELETED)
        secret = self.secret_to_change(identifier, SECRETS_DELETE, statuses)
        written = self.change(secret, WriteOperation.PURGE, WriteBody(), self.base({}))
        return _gone(written, secret.id)


class SecretVersions(SecretOperation):
    """All versions of a secret, newest first, without their values."""

    permissions = {"GET": SECRETS_READ}

    @described(operation_id="listSecretVersions", parameters=PAGE, responses=VersionRow(many=True))
    def get(self, request: Request, identifier: str) -> Response:
        secret = self.secret_to_read(identifier)
        self.here.freshness(secret.project)
        rows = page_if_asked(selectors.versions_of(secret), request)
        return Response([selectors.version_row(row, secret.version) for row in rows])


class SecretRotationConfig(SecretOperation):
    """The rotation of a secret: what is set, what of it is in force, and when it is due next. Set with the secret."""

    permissions = {"GET": SECRETS_READ}

    @described(operation_id="getRotationConfig", responses=RotationConfig)
    def get(self, request: Request, identifier: str) -> Response:
        secret = self.secret_to_read(identifier)
        self.here.freshness(secret.project)
        newest = values.resting(secret)
        return Response(selectors.rotation_row(secret, newest.created_at if newest else None))


class SecretVersionOne(SecretOperation):
    """The value a secret had in one version."""

    permissions = {"GET": SECRETS_READ}

    @described(operation_id="getSecretVersion", responses=VersionWithValue)
    def get(self, request: Request, identifier: str, number: str) -> Response:
        secret = self.secret_to_read(identifier)
        self.here.freshness(secret.project)
        wanted = int(number) if _VERSION.match(number) else 0
        row = secret.versions.filter(version=wanted).first() if wanted <= rules.NEWEST_VERSION else None
        if row is None:
            raise NotFound("there is no such version of this secret")
        told = {"id": str(secret.id), "key": secret.key, **selectors.version_row(row, secret.version)}
        if request.method == "HEAD":
            return self.tagged(told)
        shown = self.shown(secret, row.version)
        return self.tagged({**told, "value": shown.value, **_found_in(shown, newest=False)})


class SecretRollback(SecretOperation):
    """Make a new version with the value of an old one."""

    permissions = {"POST": SECRETS_WRITE}

    @described(operation_id="rollbackSecret", request=RollbackWish, responses={200: SecretRow, 202: QueuedRow})
    def post(self, request: Request, identifier: str) -> Response:
        secret = self.secret_to_change(identifier, SECRETS_WRITE)
        wish = checked(RollbackWish, request.data)
        body = WriteBody(rollback_to=wish["version"], reason=wish.get("change_reason") or "")
        return self.answer(self.change(secret, WriteOperation.ROLLBACK, body, self.base(wish)), secret.id)


class SecretRotate(SecretOperation):
    """Put a new value in place of the present one, which is retired once the new one has arrived everywhere."""

    permissions = {"POST": SECRETS_WRITE}

    @described(operation_id="rotateSecret", request=RotateWish, responses={200: SecretRow, 202: QueuedRow})
    def post(self, request: Request, identifier: str) -> Response:
        secret = self.secret_to_change(identifier, SECRETS_WRITE)
        wish = checked(RotateWish, request.data)
        if wish.get("value") == "":
            raise ValidationFailed("value: must not be empty; leave it out to have one generated")
        if "value" in wish and "length" in wish:
            raise ValidationFailed("length: is for a value that is generated; send it or a value")
        length = wish.get("length", USUAL)
        value = wish.get("value") or new_value(secret.type, length)
        body = WriteBody(value=value, reason=one_of(wish, "change_reason", "reason") or "")
        asked = None if length == USUAL else length
        written = self.change(secret, WriteOperation.ROTATE, body, self.base(wish), generated=not wish.get("value"), length=asked)
        return self.answer(written, secret.id)


class _StatusChange(SecretOperation):
    operation: WriteOperation
    statuses: tuple[str, ...] = selectors.SHOWN

    def make(self, request: Request, identifier: str) -> Response:
        secret = self.secret_to_change(identifier, SECRETS_WRITE, self.statuses)
        wish = checked(ChangeWish, request.data)
        body = WriteBody(reason=wish.get("change_reason") or "")
        return self.answer(self.change(secret, self.operation, body, self.base(wish)), secret.id)


class SecretArchive(_StatusChange):
    """Take a secret out of use: found by id only, refused for changes, until it is restored."""

    permissions = {"POST": SECRETS_WRITE}
    operation = WriteOperation.ARCHIVE

    @described(operation_id="archiveSecret", request=ChangeWish, responses={200: SecretRow, 202: QueuedRow})
    def post(self, request: Request, identifier: str) -> Response:
        return self.make(request, identifier)


class SecretRestore(_StatusChange):
    """Put an archived or deleted secret back into use."""

    permissions = {"POST": SECRETS_WRITE}
    operation = WriteOperation.RESTORE
    statuses = (*selectors.SHOWN, SecretStatus.DELETED)

    @described(operation_id="restoreSecret", request=ChangeWish, responses={200: SecretRow, 202: QueuedRow})
    def post(self, request: Request, identifier: str) -> Response:
        return self.make(request, identifier)


def one_of(wish: dict[str, Any], name: str, other: str) -> str | None:
    """A text that has two names in this API. Raises `ValidationFailed` where both are sent and differ."""
    first, second = wish.get(name) or "", wish.get(other) or ""
    if first and second and first != second:
        raise ValidationFailed(f"{other}: is another word for {name}, and they differ; send one of them")
    return first or second or None


def _found_in(shown: Shown, *, newest: bool) -> dict[str, Any]:
    """What a value from a vault tells beside itself: which version it is there, and whether that one was set past us."""
    if not shown.external_version:
        return {}
    return {"vault_version": shown.external_version, **({"changed_in_vault": shown.changed} if newest else {})}


def _body(wish: dict[str, Any], value: str | None = None) -> WriteBody:
    kind = wish.get("type")
    return WriteBody(
        value=value,
        ttl_hours=wish.get("ttl_hours"),
        metadata=wish.get("metadata"),
        type="general" if kind == "generic" else kind,  # the word of an older guide
        description=wish.get("description"),
        tags=wish.get("tags"),
        rotation=wish.get("rotation"),
        reason=wish.get("change_reason") or "",
    )


def _gone(written: Written, secret: uuid.UUID) -> Response:
    return Response(status=204) if written.outcome is WriteOutcome.APPLIED else _queued(written, secret)


def _queued(written: Written, secret: uuid.UUID) -> Response:
    row = {
        "durability": "gateway",
        "id": str(written.write),
        "status": written.outcome.value,
        "status_url": f"/api/v1/writes/{written.write}",
        "secret_id": str(written.secret_id or secret),
        "because": written.because,
        "since": rfc3339(written.since),
    }
    return Response(row, status=202)
