"""People's API of where values rest: moving those of a project, and the rotations of a secret."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import Storage
from accounts.operations import Signed
from accounts.roles import PROJECTS_WRITE, SECRETS_READ
from common.api import Text, checked, rfc3339
from common.described import described
from gateways import rotations, storage_kept, storage_moves
from integrations.models import Rotation, RotationState, RunState, StorageMove


class StorageWish(serializers.Serializer):
    to = serializers.ChoiceField(Storage.choices)
    confirm = Text(required=False, allow_blank=True, max_length=64, help_text="digest of the preview that was looked at")


class StorageShareRow(serializers.Serializer):
    environment = serializers.CharField()
    gateway_environment = serializers.CharField()
    target = serializers.CharField(help_text="the vault")
    secrets = serializers.IntegerField()
    versions = serializers.IntegerField()
    deleted = serializers.IntegerField(help_text="of the secrets; their names are left soft-deleted")
    older_versions_that_stay = serializers.IntegerField()


class StoragePreview(serializers.Serializer):
    to = serializers.CharField()
    shares = StorageShareRow(many=True)
    problems = serializers.ListField(child=serializers.CharField())
    digest = serializers.CharField(help_text="to confirm it by")


class StayedRow(serializers.Serializer):
    key = serializers.CharField()
    code = serializers.CharField()
    error = serializers.CharField()


class StorageMoveRow(serializers.Serializer):
    id = serializers.UUIDField()
    gateway_environment = serializers.CharField()
    to = serializers.CharField()
    state = serializers.ChoiceField(RunState.choices)
    moved = serializers.IntegerField()
    failed = StayedRow(many=True)
    kept = serializers.IntegerField(help_text="values that rest here too until they were seen in the vault")
    kept_detail = serializers.CharField(help_text="why the last look for one of them saw nothing; empty when nothing is amiss")
    code = serializers.CharField()
    detail = serializers.CharField()
    asked_by = serializers.CharField()
    task = serializers.UUIDField(allow_null=True)
    created_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)


class ProjectStorage(Signed):
    """Move a project's values into its vault or out of it: first a preview (200), then with its digest (202)."""

    permissions = {"GET": PROJECTS_WRITE, "POST": PROJECTS_WRITE}

    @described(operation_id="moveStorage", request=StorageWish, responses={200: StoragePreview, 202: StorageMoveRow(many=True)})
    def post(self, request: Request, identifier: uuid.UUID) -> Response:
        wish = checked(StorageWish, request.data)
        if not wish.get("confirm"):
            return Response(asdict(storage_moves.preview(identifier, wish["to"], self.by)))
        moves = storage_moves.start(identifier, wish["to"], wish["confirm"], self.by)
        return Response(move_rows(moves), status=202)

    @described(operation_id="listStorageMoves", responses=StorageMoveRow(many=True))
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        return Response(move_rows(storage_moves.moves_of(identifier, self.by)))


class RotationTarget(serializers.Serializer):
    integration = serializers.UUIDField()
    name = serializers.CharField()
    expected = serializers.CharField(help_text="the vault's version that has the rotated value")
    task = serializers.CharField()


class RotationRow(serializers.Serializer):
    version = serializers.IntegerField()
    state = serializers.ChoiceField(RotationState.choices)
    grace_until = serializers.DateTimeField()
    targets = RotationTarget(many=True)
    detail = serializers.CharField()
    created_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)


class SecretRotations(Signed):
    """The rotations of a secret, newest first: whether the new value has arrived and the ones before it are retired."""

    permissions = {"GET": SECRETS_READ}

    @described(operation_id="listRotations", responses=RotationRow(many=True))
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        return Response([rotation_row(rotation) for rotation in rotations.rotations_of(identifier, self.by)])


def rotation_row(rotation: Rotation) -> dict[str, Any]:
    shown = ("integration", "name", "expected", "task")
    return {
        "version": rotation.version.version,
        "state": rotation.state,
        "grace_until": rfc3339(rotation.grace_until),
        "targets": [{name: target[name] for name in shown} for target in rotation.targets],
        "detail": rotation.detail,
        "created_at": rfc3339(rotation.created_at),
        "ended_at": rfc3339(rotation.ended_at),
    }


def move_rows(moves: list[StorageMove]) -> list[dict[str, Any]]:
    kept = storage_kept.kept_of(moves)
    return [move_row(move, kept.get(move.id, storage_kept.Kept())) for move in moves]


def move_row(move: StorageMove, kept: storage_kept.Kept) -> dict[str, Any]:
    return {
        "id": str(move.id),
        "gateway_environment": move.gateway_environment,
        "to": move.to,
        "state": move.state,
        "moved": move.moved,
        "failed": list(move.failed.values()),
        "kept": kept.count,
        "kept_detail": kept.detail,
        "code": move.code,
        "detail": move.detail,
        "asked_by": move.asked_by,
        "task": str(move.task) if move.task else None,
        "created_at": rfc3339(move.created_at),
        "ended_at": rfc3339(move.ended_at),
    }
