"""Reading one secret with its value on the shortest way: one statement, one committed audit entry, no ORM, no framework.

Only what is plain and allowed is answered here. Whatever is unusual (a cookie, another media type, a value in a vault) or to be
refused goes the whole way in `vault.api`, which decides again and says why: there is one place for refusals (docs/adr/0036).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, LiteralString

from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse

from accounts.access import EVERYWHERE, Principal, Scope
from accounts.roles import SECRETS_READ
from common.api import GIVEN_UP, client_address
from common.clock import now
from common.errors import MazeVaultError
from common.outages import AWAY
from common.statements import fetch, plain
from vault import secrets, selectors, values
from vault.found import Found, FoundEnvironment, FoundProject, FoundValue
from vault.ports import HotPart, SecretNode

LONGEST_HEADER = 4096
_FOUND: LiteralString = """
SELECT s.id, s.project_id, s.environment_id, s.key, s.type, s.description, s.tags, s.metadata, s.ttl_hours, s.rotation, s.status,
       s.version, s.created_by, s.created_at, s.updated_at, p.organization_id, p.storage, p.max_staleness_seconds, e.slug,
       e.gateway_environment, v.version AS held_version, v.sealed_value, v.retired_at"""
_FROM: LiteralString = """
  FROM vault_secret s
  JOIN accounts_project p ON p.id = s.project_id AND p.deleted_at IS NULL
  JOIN accounts_environment e ON e.id = s.environment_id AND e.deleted_at IS NULL
  LEFT JOIN LATERAL (SELECT version, sealed_value, retired_at FROM vault_secretversion
                      WHERE secret_id = s.id AND version <= s.version AND (sealed_value IS NOT NULL OR external_version <> '')
                      ORDER BY version DESC LIMIT 1) v ON true"""
ALLOWED: LiteralString = """
   AND (%(everywhere)s::boolean OR EXISTS (
        SELECT 1 FROM jsonb_to_recordset(%(places)s::text::jsonb) AS g(o text, p text, e text)
         WHERE g.o IN ('', p.organization_id::text) AND g.p IN ('', p.id::text) AND g.e IN ('', lower(e.slug))))"""
"""What the caller may not read is not looked at: neither its size nor its being there shows in the time of the answer (I13)."""
_BY_ID: LiteralString = " WHERE s.id = %(id)s::uuid AND s.status IN ('active', 'archived')"
_BY_KEY: LiteralString = """
 WHERE s.project_id = %(project)s::uuid AND s.key = %(key)s::text AND s.status = 'active'
   AND (%(environment)s::text = '' OR lower(e.slug) = %(environment)s::text)"""


_AUDITED: LiteralString = """
, told AS (
  INSERT INTO common_auditentry (at, actor, action, entity, entity_id, severity, environment, address, organization, project,
                                 details)
  SELECT clock_timestamp(), %(actor)s::text, 'secret.read', 'secret', id::text, 'info', gateway_environment, %(address)s::text,
         organization_id, project_id,
         jsonb_build_object('version', version, 'key', key, 'project', project_id::text, 'environment', slug)
    FROM found WHERE sealed_value IS NOT NULL AND retired_at IS NULL AND (SELECT count(*) FROM found) = 1)
SELECT * FROM found"""
"""What `secrets.tell_read` says, committed by the statement that finds the value: entries of requests at the same time share a
flush of the database."""


def one_of_id(node: SecretNode, request: HttpRequest, identifier: str) -> HttpResponse | None:
    """The answer of `GET secrets/{id}`, or None where the whole way must be gone."""
    if request.META.get("QUERY_STRING") or _has_body(request) or selectors.as_uuid(identifier) is None:
        return None
    return _answer(node, request, _BY_ID, {"id": identifier})


def one_of_key(node: SecretNode, request: HttpRequest) -> HttpResponse | None:
    """The answer of `GET secrets?project_id=&key=`, or None where the whole way must be gone."""
    asked = request.GET
    if not {"project_id", "key"} <= asked.keys() <= {"project_id", "key", "environment"} or _has_body(request):
        return None
    if any(len(values) > 1 for _, values in asked.lists()):
        return None
    if selectors.as_uuid(asked["project_id"]) is None:
        return None
    environment = asked.get("environment", "")
    if environment and not environment.strip():
        return None
    wanted = {"project": asked["project_id"], "key": asked["key"], "environment": environment.strip().lower()}
    return _answer(node, request, _BY_KEY, wanted)


def _has_body(request: HttpRequest) -> bool:
    return request.META.get("CONTENT_LENGTH", "") not in ("", "0")


def _answer(node: SecretNode, request: HttpRequest, which: LiteralString, asked: Mapping[str, Any]) -> HttpResponse | None:
    token, part = plain_bearer(request), node.hot_part
    if not token or part is None:
        return None
    moment = now()
    try:
        caller = node.hot_caller(token, request, moment, SECRETS_READ)
        found = _found(part, which, asked, caller, request) if caller else None
        if found is None or caller is None:
            return None
        secret, value, longest, more = found
        fresh, pending = node.hot_standing(more, longest, moment)
    except MazeVaultError:
        return None
    except DatabaseError as error:
        if _is_refused_at_once(error):
            return None
        raise
    if value.sealed is None or value.version is None or value.retired_at is not None or not _may_read(caller, secret):
        return None
    text = values.open_bytes(secret, value.version, value.sealed)
    if part.columns:
        secrets.tell_read(secret, None, caller.actor, client_address(request))
    return rendered(selectors.secret_row(secret, fresh, pending, text), secret.version)


def _is_refused_at_once(error: DatabaseError) -> bool:
    """Whether a living database refused the statement, which the whole way tells in its own words. Where there is none, or where
    it was waited for in vain, nobody waits a second time."""
    state = getattr(error.__cause__, "sqlstate", None) or ""
    return bool(state) and not state.startswith(AWAY) and state not in GIVEN_UP


def rendered(row: Mapping[str, Any], version: int) -> HttpResponse:
    """The bytes the framework would answer with."""
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":")).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return HttpResponse(text.encode(), content_type="application/json", headers={"ETag": f'"{version}"'})


def plain_bearer(request: HttpRequest) -> str:
    """The token of a call that asks for nothing but JSON with a bearer token; empty for any other."""
    said = request.META
    scheme, _, token = str(said.get("HTTP_AUTHORIZATION", "")).partition(" ")
    is_plain = said.get("HTTP_ACCEPT", "*/*") in ("*/*", "application/json")
    return token.strip() if is_plain and scheme.lower() == "bearer" and len(token) < LONGEST_HEADER - len("bearer ") else ""


def _found(
    part: HotPart, which: LiteralString, asked: Mapping[str, Any], caller: Principal, request: HttpRequest
) -> tuple[Found, FoundValue, int | None, tuple[Any, ...]] | None:
    """The one secret that is asked for. A node that has no more to say than what stands there has audited the read then."""
    text = _FOUND + part.columns + _FROM + part.sources + which + ALLOWED
    sought = {**asked, **places_of(caller, SECRETS_READ)}
    if not part.columns:
        text = "WITH found AS (" + text + ")" + _AUDITED
        sought |= {"actor": caller.actor[:64], "address": client_address(request)[:64]}
    rows = fetch(text, sought)
    return _read(rows[0]) if len(rows) == 1 else None


def places_of(caller: Principal, permission: str) -> dict[str, Any]:
    """Where the caller has this permission, as parameters of a statement with `ALLOWED`."""
    scopes = caller.scopes_of(permission)
    return {
        "everywhere": EVERYWHERE in scopes,
        "places": json.dumps([{"o": one.organization, "p": one.project, "e": one.environment} for one in scopes]),
    }


def _read(row: tuple[Any, ...]) -> tuple[Found, FoundValue, int | None, tuple[Any, ...]]:
    organization, storage, longest, slug, scope, version, sealed, retired_at, *more = row[15:]
    (identifier, project, environment, key, kind, description, tags, metadata, ttl_hours, rotation, status, number, created_by,
     created_at, updated_at) = row[:15]  # fmt: skip
    secret = Found(
        identifier, project, environment, key, kind, description, plain(tags), plain(metadata), ttl_hours, plain(rotation),
        status, number, created_by, created_at, updated_at, FoundProject(organization, storage), FoundEnvironment(slug, scope),
    )  # fmt: skip
    return secret, FoundValue(version, bytes(sealed) if sealed is not None else None, retired_at), longest, tuple(more)


def _may_read(caller: Principal, secret: Found) -> bool:
    place = Scope(str(secret.project.organization_id), str(secret.project_id), secret.environment.slug.lower())
    return caller.may(SECRETS_READ, place)
