"""What a name in a vault is refused with: it is somebody else's, protected, or just being changed there."""

from __future__ import annotations

from common.errors import Conflict
from integrations.azure.errors import ObjectBusy, PurgeProtected
from integrations.azure.keyvault import Deleted


def taken(name: str) -> Conflict:
    return Conflict(
        f"key: the name {name!r} in the vault is used for something else; choose another key, or free the name there",
        code="NAME_TAKEN_IN_VAULT",
    )


def protected(name: str, gone: Deleted) -> PurgeProtected:
    """The ordinary state of a production vault."""
    when = f"on {gone.purged_at:%Y-%m-%d}" if gone.purged_at else "when its retention ends"
    return PurgeProtected(
        f"the vault has purge protection: {name} is deleted and cannot be purged before; it ends by itself {when}",
        "nothing has to be done; its name is free for this key all the same",
    )


def settling(name: str, *, begun: bool = False) -> ObjectBusy:
    """Azure finishes deletions, recoveries and purges some seconds after it has agreed to them. `begun`: it was we who began it,
    so what becomes of it is looked into."""
    busy = ObjectBusy(
        f"{name} is just being deleted, recovered or purged in the vault", "try again in some seconds", retry_after=5
    )
    busy.in_doubt = begun
    return busy
