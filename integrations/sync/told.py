"""The engine's words as messages between Primary and gateway, and back. Pure."""

from __future__ import annotations

from integrations.sync.facts import Remembered
from integrations.sync.plan import Action
from integrations.sync.words import ActionKind, Reason
from protocol.sync import SyncAction, SyncItem


def action_of(told: SyncAction) -> Action:
    """Raises `ValueError` for a kind or a reason that there is not."""
    return Action(ActionKind(told.kind), Reason(told.reason), told.key, told.name, told.digest, told.our_version,
                  told.their_version, told.our_deleted, told.their_deleted, told.to_version)  # fmt: skip


def told_action(action: Action) -> SyncAction:
    return SyncAction(action.kind.value, action.reason.value, action.key, action.name, action.digest, action.our_version,
                      action.their_version, action.our_deleted, action.their_deleted, action.to_version)  # fmt: skip


def remembered_of(told: SyncItem) -> Remembered:
    return Remembered(told.key, told.name, told.digest, told.our_version, told.their_version, told.stamp)


def told_item(item: Remembered) -> SyncItem:
    return SyncItem(item.key, item.name, item.digest, item.our_version, item.their_version, item.stamp)
