"""The words of a plan: what is done, and why something is done, left alone or refused. They serve code, log and metric label."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class ActionKind(StrEnum):
    """In the order in which a run does them: what adds comes first, what deletes comes last."""

    CLAIM_THERE = "claim_there"
    CREATE_THERE = "create_there"
    RECOVER_THERE = "recover_there"
    UPDATE_THERE = "update_there"
    CREATE_HERE = "create_here"
    RESTORE_HERE = "restore_here"
    UPDATE_HERE = "update_here"
    ROLLBACK_THERE = "rollback_there"
    ROLLBACK_HERE = "rollback_here"
    RELEASE_THERE = "release_there"
    DELETE_THERE = "delete_there"
    DELETE_HERE = "delete_here"


A = ActionKind
DELETES = frozenset({A.DELETE_THERE, A.DELETE_HERE})
WRITES_HERE = frozenset({A.CREATE_HERE, A.RESTORE_HERE, A.UPDATE_HERE, A.ROLLBACK_HERE, A.DELETE_HERE})
WRITES_THERE = frozenset(ActionKind) - WRITES_HERE
OVERWRITES = frozenset({A.RECOVER_THERE, A.UPDATE_THERE, A.RESTORE_HERE, A.UPDATE_HERE})

MEANING: Mapping[ActionKind, str] = {
    A.CLAIM_THERE: "put the rule's ownership tag on it; the value stays",
    A.CREATE_THERE: "set it in the vault, where its name is free",
    A.RECOVER_THERE: "recover the soft-deleted name in the vault, then set the value if it differs",
    A.UPDATE_THERE: "set a new version in the vault; the earlier ones stay",
    A.CREATE_HERE: "create it in the project",
    A.RESTORE_HERE: "restore the deleted secret of the project with the vault's value as a new version",
    A.UPDATE_HERE: "add the vault's value as a new version in the project; the earlier ones stay",
    A.ROLLBACK_THERE: "set the value of an earlier version in the vault again",
    A.ROLLBACK_HERE: "make an earlier version the value in the project again",
    A.RELEASE_THERE: "take the rule's ownership tag off; the value stays",
    A.DELETE_THERE: "soft-delete it in the vault, where it can be recovered",
    A.DELETE_HERE: "delete it in the project, where it can be restored",
}


class Reason(StrEnum):
    """Why something is done, or why it is left alone."""

    NEW_HERE = "new_here"
    NEW_THERE = "new_there"
    CHANGED_HERE = "changed_here"
    CHANGED_THERE = "changed_there"
    DELETED_HERE = "deleted_here"
    DELETED_THERE = "deleted_there"
    MISSING_HERE = "missing_here"
    MISSING_THERE = "missing_there"
    OURS_WON = "ours_won"
    THEIRS_WON = "theirs_won"
    OVERTAKEN = "overtaken"
    ADOPTED = "adopted"
    UNDONE = "undone"
    CONFLICT = "conflict"
    SAME_MOMENT = "same_moment"
    KEPT_HERE = "kept_here"
    KEPT_THERE = "kept_there"
    DRIFTED_HERE = "drifted_here"
    DRIFTED_THERE = "drifted_there"
    ABSENT_HERE = "absent_here"
    ABSENT_THERE = "absent_there"
    NOT_ADOPTED = "not_adopted"
    NOT_OWNED = "not_owned"
    NOT_KNOWN = "not_known"
    OWNED_BY_OTHER = "owned_by_other"
    KEY_OWNED_BY_OTHER = "key_owned_by_other"
    DISABLED_THERE = "disabled_there"
    EXPIRED_THERE = "expired_there"
    CERTIFICATE_BACKED = "certificate_backed"
    INACTIVE_HERE = "inactive_here"
    NOT_READ = "not_read"
    NAME_INVALID = "name_invalid"
    LEFT_BEHIND = "left_behind"
    CHANGED_SINCE = "changed_since"
    GONE_FOR_GOOD = "gone_for_good"


R = Reason
SENTENCES: Mapping[Reason, str] = {
    R.NEW_HERE: "the project has it and the vault does not",
    R.NEW_THERE: "the vault has it and the project does not",
    R.CHANGED_HERE: "it changed in the project since the last run",
    R.CHANGED_THERE: "it changed in the vault since the last run",
    R.DELETED_HERE: "it was deleted in the project, and the rule made or adopted it in the vault",
    R.DELETED_THERE: "it was deleted in the vault: the rule knew it and the vault lists it as soft-deleted",
    R.MISSING_HERE: "the project lost it without a tombstone; a full sync brings it back",
    R.MISSING_THERE: "the vault lost it without a trace; a full sync brings it back",
    R.OURS_WON: "both sides differ and the rule's strategy decides for the project",
    R.THEIRS_WON: "both sides differ and the rule's strategy decides for the vault",
    R.OVERTAKEN: "the vault has an earlier write of this rule whose end nobody saw; the project's value is the newer one",
    R.ADOPTED: "a person put this name under the rule",
    R.UNDONE: "a person takes back what an earlier run did",
    R.CONFLICT: "both sides differ; a person must decide which one stays",
    R.SAME_MOMENT: "both sides differ and neither is known to be the newer one; a person must decide",
    R.KEPT_HERE: "the strategy decides for the project and the rule does not write to the vault",
    R.KEPT_THERE: "the strategy decides for the vault and the rule does not write to the project",
    R.DRIFTED_HERE: "it was changed in the project, which only follows; a full sync applies the strategy",
    R.DRIFTED_THERE: "it was changed in the vault, which only follows; a full sync applies the strategy",
    R.ABSENT_HERE: "the project has no trace of it; absence deletes nothing",
    R.ABSENT_THERE: "the vault has no trace of it; absence deletes nothing",
    R.NOT_ADOPTED: "it exists and the rule never saw it; adopt the name to let the rule write it",
    R.NOT_OWNED: "the vault's version was not made by this rule; adopt the name to let the rule delete it",
    R.NOT_KNOWN: "the rule does not remember it, so it does not delete it",
    R.OWNED_BY_OTHER: "another rule owns this name; let that rule give it up, or choose another name by the template",
    R.KEY_OWNED_BY_OTHER: "another rule wrote this secret of the project; end that rule, or choose another key",
    R.DISABLED_THERE: "it is disabled in the vault; enable it there to include it",
    R.EXPIRED_THERE: "it has expired in the vault; set a new expiry there to include it",
    R.CERTIFICATE_BACKED: "it belongs to a certificate of the vault, which the vault renews itself",
    R.INACTIVE_HERE: "it is archived in the project; restore it to include it",
    R.NOT_READ: "its value could not be read, so nothing is known about it; allow the gateway's identity to read it",
    R.NAME_INVALID: "its key makes no name of 1 to 127 letters, digits and hyphens; rename it or change the template",
    R.LEFT_BEHIND: "the rule made it under an earlier template; delete it by hand when nothing uses it",
    R.CHANGED_SINCE: "it changed since that run; what is there now stays",
    R.GONE_FOR_GOOD: "it was purged from the vault since that run and cannot be recovered",
}


class Verdict(StrEnum):
    """What may be done with a plan. Only a ready one has actions."""

    READY = "ready"
    NEEDS_CONFIRMATION = "needs_confirmation"
    CONFIRMATION_STALE = "confirmation_stale"
    PAUSED = "paused"
    REFUSED = "refused"


class Refusal(StrEnum):
    """Why a whole run is refused before anything is done."""

    LISTING_INCOMPLETE = "listing_incomplete"
    TEMPLATE_INVALID = "template_invalid"
    NAME_COLLISION = "name_collision"
    DELETION_BUDGET = "deletion_budget"
