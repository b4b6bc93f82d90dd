"""The forms of the secrets API: what a request may say and what an answer looks like. Limits of the content: `vault.rules`."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from common.api import Text
from vault.generating import LONGEST, SHORTEST


class Whole(serializers.IntegerField):
    """A JSON integer and nothing else: the framework's own field takes texts and fractions too."""

    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            raise serializers.ValidationError("must be a whole number")
        return data


class Words(Text):
    """A text that is taken as it is, blanks and all; how long it may be is said by `vault.rules`."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**{"trim_whitespace": False, "allow_blank": True, **more})


class Fields(serializers.Serializer):
    """What may be changed with or without the value. Limits: `vault.rules`."""

    ttl_hours = Whole(required=False, allow_null=True, help_text="0 for no end")
    metadata = serializers.DictField(child=Words(), required=False, allow_null=True)
    type = Words(required=False, allow_null=True, help_text="password, api_key, certificate, ssh_key or general")
    description = Words(required=False, allow_null=True)
    tags = serializers.ListField(child=Words(), required=False, allow_null=True)
    rotation = serializers.DictField(
        required=False, allow_null=True,
        help_text="enabled, rotation_interval_days, schedule (cron's fields, UTC or after CRON_TZ=Zone), notification_emails",
    )  # fmt: skip
    change_reason = Words(required=False, allow_null=True)
    base_version = Whole(required=False, allow_null=True, help_text="the version this change is made on, like If-Match")


class CreateWish(Fields):
    project_id = Text()
    key = Words(required=False)
    name = Words(required=False, help_text="another word for key")
    value = Words()
    environment = Words(required=False, allow_null=True, help_text="name or slug; the project's default when left out")


class UpdateWish(Fields):
    """A new value. `ttl_hours` and `metadata` are replaced too: left out they become 0 and empty. PATCH keeps them."""

    value = Words()


class BesideWish(Fields):
    """What stands beside the value. A value is named only to be refused with the way that takes one."""

    value = Words(required=False, help_text="never taken here: send it with PUT")


class ChangeWish(serializers.Serializer):
    change_reason = Words(required=False, allow_null=True)
    base_version = Whole(required=False, allow_null=True)


class RotateWish(ChangeWish):
    reason = Words(required=False, allow_null=True, help_text="another word for change_reason")
    force = serializers.BooleanField(
        required=False, allow_null=True, help_text="for existing clients: a rotation that is asked for is always carried out"
    )
    value = Words(required=False, help_text="the new value; generated when left out")
    length = Whole(required=False, help_text=f"characters of a generated value, {SHORTEST} to {LONGEST}")


class RollbackWish(ChangeWish):
    version = Whole()


class SecretRow(serializers.Serializer):
    id = serializers.UUIDField()
    project_id = serializers.UUIDField()
    organization_id = serializers.UUIDField()
    environment = serializers.CharField(help_text="slug")
    key = serializers.CharField()
    type = serializers.CharField()
    description = serializers.CharField()
    tags = serializers.ListField(child=serializers.CharField())
    ttl_hours = serializers.IntegerField()
    metadata = serializers.DictField(child=serializers.CharField())
    rotation = serializers.DictField(allow_null=True)
    rotation_not_in_force = serializers.ListField(
        child=serializers.CharField(), help_text="settings of the rotation without effect, each as `field: not in force: why`"
    )
    storage = serializers.CharField(help_text="where the values of the project rest")
    version = serializers.IntegerField()
    status = serializers.CharField(help_text="active, archived or deleted")
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)
    as_of = serializers.DateTimeField(allow_null=True, help_text="how old a gateway's copy is; null at the Primary")
    stale = serializers.BooleanField()
    pending_write = serializers.UUIDField(allow_null=True, help_text="a write accepted here and not applied yet")


class RotationConfig(serializers.Serializer):
    secret_id = serializers.UUIDField()
    enabled = serializers.BooleanField()
    schedule = serializers.CharField()
    rotation_interval_days = serializers.IntegerField()
    notification_emails = serializers.ListField(child=serializers.CharField(), allow_null=True)
    in_force = serializers.BooleanField(help_text="whether a value will be replaced without anybody asking")
    not_in_force = serializers.ListField(child=serializers.CharField(), help_text="each as `field: not in force: why`")
    next_due_at = serializers.DateTimeField(allow_null=True, help_text="in the past: it is overdue and follows at once")


class FoundInVault(serializers.Serializer):
    """Only where the value came from a vault."""

    vault_version = serializers.CharField(required=False, help_text="the vault's own name of the version")


class SecretWithValue(SecretRow, FoundInVault):
    value = serializers.CharField()
    changed_in_vault = serializers.BooleanField(required=False, help_text="the value was set there past MazeVault")


class VersionRow(serializers.Serializer):
    version = serializers.IntegerField()
    current = serializers.BooleanField()
    operation = serializers.CharField()
    created_by = serializers.CharField()
    origin = serializers.CharField(help_text="primary, or the gateway the change came through")
    change_reason = serializers.CharField()
    created_at = serializers.DateTimeField()
    retired_at = serializers.DateTimeField(allow_null=True, help_text="since when a rotation has taken its place")


class VersionWithValue(VersionRow, FoundInVault):
    id = serializers.UUIDField()
    key = serializers.CharField()
    value = serializers.CharField()


class QueuedRow(serializers.Serializer):
    """Committed at the gateway, not applied yet."""

    durability = serializers.CharField(help_text="gateway")
    id = serializers.UUIDField(help_text="of the write")
    status = serializers.CharField()
    status_url = serializers.CharField()
    secret_id = serializers.UUIDField()
    because = serializers.CharField(allow_null=True, help_text="why it is not applied yet")
    since = serializers.DateTimeField(allow_null=True, help_text="since when that is so")
