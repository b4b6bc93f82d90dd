"""Whether a version that is said to rest in a vault can be read there: the one look that the Primary and gateways share."""

from __future__ import annotations

from dataclasses import dataclass, field

from integrations.azure.errors import AccessDenied, AzureTrouble, ObjectDisabled, ObjectMissing, TokenTrouble
from integrations.azure.keyvault import SecretStore
from protocol.storage import Sight


@dataclass(frozen=True)
class Seen:
    """What one look found; `value` of what was read, `detail` of what was not."""

    sight: Sight
    value: str = field(default="", repr=False)
    detail: str = ""


def look_at(vault: SecretStore, name: str, version: str) -> Seen:
    """Read one version. Raises `AzureTrouble` when the vault let nobody look: that says nothing about the version."""
    try:
        return Seen(Sight.READ, vault.get(name, version).value)
    except ObjectDisabled as disabled:
        return Seen(Sight.UNREADABLE, detail=disabled.cause)
    except ObjectMissing:
        pass
    if vault.deleted_one(name) is not None:
        return Seen(
            Sight.UNREADABLE, detail=f"somebody deleted {name!r} in the vault; recover it there, or delete the secret here"
        )
    return Seen(Sight.GONE, detail=f"the vault has no version {version!r} of {name!r}")


def closed(trouble: AzureTrouble) -> bool:
    """Whether the vault lets this identity look at nothing, so that it need not be asked for the next name."""
    return isinstance(trouble, AccessDenied | TokenTrouble) and not isinstance(trouble, ObjectDisabled)
