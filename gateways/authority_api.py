"""Authorities for people: which generations there are, how long they live, what a person must do. Views render only."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.roles import GATEWAY_READ
from common.api import Operation, rfc3339
from common.clock import now
from common.described import described
from gateways import authority_report


class AuthorityRow(serializers.Serializer):
    authority = serializers.CharField(help_text="root, platform, channel, or a gateway environment")
    generation = serializers.IntegerField()
    standing = serializers.ChoiceField(choices=["next", "current", "retired"])
    key = serializers.CharField(help_text="subject key identifier in hex; of the channel, the id of its signing key")
    announced_at = serializers.DateTimeField()
    not_after = serializers.DateTimeField(help_text="when it ends, or when the trust in it ends if that is before")
    days_left = serializers.FloatField()
    signs_from = serializers.DateTimeField(allow_null=True, help_text="of a next generation: when it takes over")
    followed_from = serializers.DateTimeField(allow_null=True, help_text="of the one that signs: when its successor is announced")
    key_is_here = serializers.BooleanField(help_text="false for a root whose key was removed")
    warning = serializers.CharField(help_text="what a person must do; empty when nothing")


class Authorities(Operation):
    """Every generation that is trusted now, of each authority and of the channel's signing key. Keys are not shown."""

    permissions = {"GET": GATEWAY_READ}

    @described(operation_id="listAuthorities", responses=AuthorityRow(many=True))
    def get(self, request: Request) -> Response:
        return Response([shown(row) for row in authority_report.overview(now())])


def shown(row: authority_report.Row) -> dict[str, object]:
    """A generation as JSON; times are RFC 3339."""
    return {name: rfc3339(value) if isinstance(value, datetime) else value for name, value in asdict(row).items()}
