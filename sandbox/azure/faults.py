"""What the sandbox can be told to do wrong. Each field is one fault; the defaults are a healthy Azure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sandbox.azure.tokens import ID_TOKEN_CHANGES

LONGEST_DELAY = 60.0
ACTIONS = ("getSecret", "setSecret", "readMetadata", "update", "delete", "recover", "purge")
"""What is done to secrets, by the last words of the data actions that allow it."""
WAYS = (
    "network", "rbac", "access_policy", "obo", "governance", "protected", "throttled", "unavailable", "busy", "lost", "unheard",
    "agreed",
)  # fmt: skip
"""Ways an action fails: who refuses it (`sandbox.azure.vault_refusals`); `lost`: done, and the answer does not arrive;
`unheard`: not done, and no answer comes either; `agreed`: answered as done, and not begun yet."""


class FaultMistake(ValueError):
    """A fault that does not exist, or a value it cannot have. The sentence begins with its name."""


@dataclass(frozen=True)
class Faults:
    """`consent_missing` names resources by URI, or `*`. `throttled` and `unavailable` count the requests still to be refused.

    `secret_days_left` is what Graph says of the application's secret.

    Those that begin with `vault_` hit Key Vault only: `vault_forbidden` (roles not in effect), `vault_closed` (no public access)
    and `vault_firewalled` (address not allowed) name vaults; `vault_replies_lost` counts writes that are done but not answered;
    `vault_settle_seconds` is how long a deletion or recovery takes to finish. `vault_demands_obo`, `vault_demands_expiry` and
    `vault_demands_content_type` name vaults (the last two by Azure Policy). `vault_fails` says what becomes of an action until it
    is changed: an object of actions (`ACTIONS`) to one of `WAYS`. With `retry_after_as_date` a throttled caller is told a date.
    """

    consent_missing: tuple[str, ...] = ()
    throttled: int = 0
    unavailable: int = 0
    retry_after_seconds: int = 1
    slow_seconds: float = 0.0
    clock_offset_seconds: float = 0.0
    secret_expired: bool = False
    secret_days_left: float = 180.0
    emit_as_roles: bool = False
    group_overage: bool = False
    groups_claim_missing: bool = False
    assignment_required: bool = False
    id_token_changes: Mapping[str, Any] = field(default_factory=dict)
    vault_throttled: int = 0
    vault_unavailable: int = 0
    vault_replies_lost: int = 0
    vault_slow_seconds: float = 0.0
    vault_settle_seconds: float = 0.0
    vault_forbidden: tuple[str, ...] = ()
    vault_closed: tuple[str, ...] = ()
    vault_firewalled: tuple[str, ...] = ()
    vault_demands_obo: tuple[str, ...] = ()
    vault_demands_expiry: tuple[str, ...] = ()
    vault_demands_content_type: tuple[str, ...] = ()
    vault_fails: Mapping[str, str] = field(default_factory=dict)
    retry_after_as_date: bool = False

    def lacks_consent(self, resource: str) -> bool:
        return "*" in self.consent_missing or resource in self.consent_missing

    def changed(self, wishes: Mapping[str, Any]) -> Faults:
        """These faults with some changed. Raises `FaultMistake`."""
        known = {item.name: getattr(self, item.name) for item in fields(self)}
        unknown = [name for name in wishes if name not in known]
        if unknown:
            raise FaultMistake(f"{unknown[0]}: there is no such fault; there are {', '.join(known)}")
        return replace(self, **{name: _value(name, known[name], value) for name, value in wishes.items()})

    def as_json(self) -> dict[str, Any]:
        shown = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in shown.items()}


def _value(name: str, present: Any, value: Any) -> Any:
    if isinstance(present, tuple):
        return _names(name, value)
    if name == "id_token_changes":
        return _changes(value)
    if name == "vault_fails":
        return _ways(value)
    if isinstance(present, bool):
        if not isinstance(value, bool):
            raise FaultMistake(f"{name}: must be true or false")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float if isinstance(present, float) else int):
        raise FaultMistake(f"{name}: must be a number")
    if name != "clock_offset_seconds" and value < 0:
        raise FaultMistake(f"{name}: must not be negative")
    if name.endswith(("slow_seconds", "settle_seconds")) and value > LONGEST_DELAY:
        raise FaultMistake(f"{name}: must be at most {LONGEST_DELAY:.0f}")
    return float(value) if isinstance(present, float) else value


def _names(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, bool) and name == "consent_missing":
        return ("*",) if value else ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        wanted = "true, false or a list of resource URIs" if name == "consent_missing" else "a list of names of vaults"
        raise FaultMistake(f"{name}: must be {wanted}")
    return tuple(value)


def _changes(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or set(value) - set(ID_TOKEN_CHANGES):
        raise FaultMistake(f"id_token_changes: must be an object with any of {', '.join(ID_TOKEN_CHANGES)}")
    return value


def _ways(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict) or set(value) - set(ACTIONS) or set(value.values()) - set(WAYS):
        raise FaultMistake(f"vault_fails: must be an object of {', '.join(ACTIONS)} to one of {', '.join(WAYS)}")
    return value
