"""The furthest mark the Primary gave, kept over restarts and new lives, and shown with what this gateway says (I4)."""

from __future__ import annotations

from django.db.models import Q

from gateway_runtime import state
from gateway_runtime.models import NodeState
from protocol.marks import packed, read_mark, unpacked
from protocol.messages import SignedMark


def keep(given: SignedMark | None) -> None:
    """Keep a mark that says more than the one before, in the caller's transaction if there is one. It came in a sealed answer."""
    told = read_mark(given) if given else None
    if given is None or told is None:
        return
    further = Q(mark_epoch__lt=told.epoch) | Q(mark_epoch=told.epoch, mark_position__lt=told.position)
    NodeState.objects.filter(further, id=1).update(mark=packed(given), mark_epoch=told.epoch, mark_position=told.position)


def kept() -> SignedMark | None:
    return unpacked(state.this_life().mark)
