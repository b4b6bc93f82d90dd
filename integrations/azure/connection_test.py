"""Try a connection stage by stage, and name one cause and one fix where it stops.

The stages that only look come first. Writing is tried with a secret of our own, which is left deleted; sync ignores its owner.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice

from integrations.azure.cloud import Connection
from integrations.azure.credentials import Credential, TokenRefused
from integrations.azure.egress import CALL_SECONDS, CONNECT_SECONDS, Guard, Target
from integrations.azure.errors import (
    AzureTrouble,
    ConsentMissing,
    NameTaken,
    ObjectMissing,
    PermissionMissing,
    PolicyDenied,
    RoleMissing,
    RoleNotInEffect,
    Unreachable,
)
from integrations.azure.keyvault import KeyVault, Marks
from integrations.azure.translation import tls_refused
from protocol.tls_faults import fault_of

PROBE = "mazevault-connection-test"
PROBE_OWNER = "mazevault/connection-test"


class Stage(StrEnum):
    """In the order they are tried."""

    ADDRESS = "address"
    DNS = "dns"
    TCP = "tcp"
    TLS = "tls"
    TOKEN = "token"  # noqa: S105 - the name of a stage
    CONSENT = "consent"
    LIST = "list"
    GET = "get"
    SET = "set"
    RECOVER = "recover"


WRITING = (Stage.SET, Stage.RECOVER)


class Outcome(StrEnum):
    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Result:
    """How one stage ended. `cause` says why it failed or was skipped."""

    stage: Stage
    outcome: Outcome
    milliseconds: int = 0
    cause: str = ""
    fix: str = ""
    owner: str = ""
    code: str = ""
    retrying_helps: bool = False


Gate = Callable[[], AbstractContextManager[object]]
"""Entered around each call that changes the vault; raises when the right to act is gone."""


@dataclass
class _Trial:
    """What the stages learn from each other."""

    connection: Connection
    credential: Credential
    guard: Guard
    marks: Marks
    gate: Gate
    target: Target | None = None
    addresses: Sequence[str] = ()
    results: list[Result] = field(default_factory=list)

    def run(self, stage: Stage, attempt: Callable[[], object]) -> bool:
        """Try one stage and write down how it ended."""
        begun = time.monotonic()
        try:
            attempt()
        except AzureTrouble as trouble:
            stage = Stage.CONSENT if isinstance(trouble, ConsentMissing) else stage
            self._failed(stage, trouble, begun)
            return False
        self.results.append(Result(stage, Outcome.OK, _since(begun)))
        return True

    def _failed(self, stage: Stage, trouble: AzureTrouble, begun: float) -> None:
        if stage is Stage.CONSENT:  # the application was accepted, or Entra would not have looked for its consent
            self.results.append(Result(Stage.TOKEN, Outcome.OK))
        self.results.append(
            Result(stage, Outcome.FAILED, _since(begun), trouble.cause, trouble.fix, trouble.owner.value, trouble.code,
                   trouble.retrying_helps)
        )  # fmt: skip


def test_connection(
    connection: Connection,
    credential: Credential,
    guard: Guard,
    marks: Marks | None = None,
    gate: Gate = nullcontext,
    *,
    seconds: float = CALL_SECONDS,
) -> tuple[Result, ...]:
    """Every stage with its outcome. Without `marks` nothing is written: set and recover are skipped.

    With them, each call that writes is made inside of `gate` and lasts `seconds` at most (DESIGN §7). Raises what
    the gate raises, and nothing else.
    """
    trial = _Trial(connection, credential, guard, marks or Marks(0, "none", PROBE_OWNER), gate)
    if _reached(trial) and _authenticated(trial):
        with KeyVault(connection, credential, guard, seconds=seconds) as vault:
            _try_data(trial, vault, writing=marks is not None)
    return _complete(trial.results, "writing was not asked for" if marks is None else "")


test_connection.__test__ = False  # type: ignore[attr-defined] # pytest collects by name


def _reached(trial: _Trial) -> bool:
    return (
        trial.run(Stage.ADDRESS, lambda: _take_target(trial))
        and trial.run(Stage.DNS, lambda: _take_addresses(trial))
        and trial.run(Stage.TCP, lambda: _connect(trial))
        and trial.run(Stage.TLS, lambda: _handshake(trial))
    )


def _authenticated(trial: _Trial) -> bool:
    if not trial.run(Stage.TOKEN, lambda: _token(trial)):
        return False
    trial.results.append(Result(Stage.CONSENT, Outcome.OK))
    return True


def _try_data(trial: _Trial, vault: KeyVault, *, writing: bool) -> None:
    """Each verb needs a role of its own, so one that is denied does not stop the others; a closed network does."""
    for stage, attempt in (
        (Stage.LIST, lambda: list(islice(vault.entries(), 1))),
        (Stage.GET, lambda: _get(vault)),
        *(((Stage.SET, lambda: _set(vault, trial)), (Stage.RECOVER, lambda: _recover(vault, trial))) if writing else ()),
    ):
        if not trial.run(stage, attempt) and trial.results[-1].code not in _OF_ONE_VERB:
            return


_OF_ONE_VERB = tuple(kind.default_code for kind in (RoleMissing, RoleNotInEffect, PermissionMissing, PolicyDenied))


def _take_target(trial: _Trial) -> None:
    trial.target = trial.guard.vault(trial.connection.vault_url)


def _take_addresses(trial: _Trial) -> None:
    trial.addresses = trial.guard.addresses(_known(trial.target))


def _connect(trial: _Trial) -> None:
    trial.guard.open_socket(_known(trial.target), trial.addresses).close()


def _handshake(trial: _Trial) -> None:
    target = _known(trial.target)
    with closing(trial.guard.open_socket(target, trial.addresses)) as opened:
        opened.settimeout(CONNECT_SECONDS)
        try:
            trial.guard.tls_context().wrap_socket(opened, server_hostname=target.host).close()
        except ssl.SSLError as error:
            raise tls_refused(target.host, fault_of(error)) from None
        except OSError:
            raise Unreachable(f"{target.host} broke the connection off", "check the path to the vault") from None


def _token(trial: _Trial) -> None:
    resource = _known(trial.target).origin.replace(f"{_known(trial.target).host.partition('.')[0]}.", "", 1)
    try:
        trial.credential.get_token(f"{resource}/.default")
    except TokenRefused as refused:
        raise refused.trouble from None


def _get(vault: KeyVault) -> None:
    """A secret that is not there is as good an answer as one that is: the role was checked first."""
    try:
        vault.get(PROBE)
    except ObjectMissing:
        return


def _set(vault: KeyVault, trial: _Trial) -> None:
    """The probe of an earlier trial lies deleted, so it is recovered first."""
    try:
        with trial.gate():
            vault.set(PROBE, "probe", trial.marks)
    except NameTaken:
        with trial.gate():
            vault.recover(PROBE)
        with trial.gate():
            vault.set(PROBE, "probe", trial.marks)


def _recover(vault: KeyVault, trial: _Trial) -> None:
    for change in (vault.delete, vault.recover, vault.delete):
        with trial.gate():
            change(PROBE)


def _complete(results: list[Result], reason: str) -> tuple[Result, ...]:
    """The stages that were not tried, with the reason why."""
    done = {one.stage for one in results}
    failed = next((one for one in results if one.outcome is Outcome.FAILED), None)
    stopped = f"stopped at {failed.stage.value}" if failed else ""
    untried = [stage for stage in Stage if stage not in done]
    skipped = [Result(one, Outcome.SKIPPED, cause=reason if reason and one in WRITING else stopped) for one in untried]
    return tuple(sorted([*results, *skipped], key=lambda one: list(Stage).index(one.stage)))


def _known(target: Target | None) -> Target:
    assert target is not None  # noqa: S101 - the address stage came first
    return target


def _since(begun: float) -> int:
    return round((time.monotonic() - begun) * 1000)
