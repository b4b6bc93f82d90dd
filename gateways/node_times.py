"""The times of all nodes of a Primary: one must not judge by shorter times of its own what another has given (I1)."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings

from gateways.models import PrimaryNode


def longest_times() -> tuple[timedelta, timedelta]:
    """How long an old lease lives on after a renewal, and what is added to its stored end: the longest of all nodes."""
    timing = settings.MAZEVAULT.timing
    kept = PrimaryNode.objects.filter(id=1).values_list("longest_lease_seconds", "longest_fence_wait_seconds").first()
    lease, wait = kept or (0.0, 0.0)
    return timedelta(seconds=max(lease, timing.lease_ttl + timing.fence_wait)), timedelta(seconds=max(wait, timing.fence_wait))
