"""Secrets through the adapter: verbs, marks, deadlines, and every refusal as one of our errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from urllib3.connection import HTTPSConnection

from common import outside
from common.clock import boottime
from common.errors import ValidationFailed
from integrations.azure import egress, keyvault
from integrations.azure.credentials import Credential, Credentials
from integrations.azure.errors import (
    AzureTrouble,
    NameTaken,
    NetworkClosed,
    ObjectBusy,
    ObjectDisabled,
    ObjectMissing,
    OnBehalfOfDemanded,
    OutcomeUnknown,
    Owner,
    PermissionMissing,
    PolicyDenied,
    PurgeProtected,
    RoleMissing,
    ServiceTrouble,
    Throttled,
    TokenTrouble,
    Unreachable,
    ValueRefused,
)
from integrations.azure.keyvault import KeyVault, Marks, marks_of
from sandbox.azure.faults import ACTIONS
from sandbox.azure.server import Sandbox
from tests.integrations.azure.conftest import MARKS, NPR, PRO

Open = Callable[..., KeyVault]


def writes(sandbox: Sandbox) -> list[tuple[str, str, str, str]]:
    return [(one.caller_name, one.vault, one.action, one.name) for one in sandbox.world.vaults.journal]


def test_a_written_secret_carries_epoch_operation_and_owner(sandbox: Sandbox, open_vault: Open) -> None:
    vault = open_vault()
    entry = vault.set("db", "hush", MARKS, tags={"team": "payments", "mazevault-epoch": "999"}, content_type="text/plain",
                      expires_at=datetime(2030, 1, 1, tzinfo=UTC))  # fmt: skip
    assert entry.marks == MARKS and entry.tags["team"] == "payments" and entry.version
    held = vault.get("db")
    assert (held.value, held.entry.version, held.entry.content_type) == ("hush", entry.version, "text/plain")
    assert held.entry.expires_at == datetime(2030, 1, 1, tzinfo=UTC) and "hush" not in repr(held)
    assert sandbox.world.vaults.journal[0].tags["mazevault-epoch"] == "7"


def tagged(epoch: str) -> dict[str, str]:
    return {"mazevault-epoch": epoch, "mazevault-operation": "a", "mazevault-owner": "b"}


@pytest.mark.parametrize("tags", [{}, {"mazevault-epoch": "7"}, tagged("x"), tagged("-1"), tagged("٣"), tagged("1" * 19)])
def test_what_is_not_wholly_marked_is_not_ours(tags: dict[str, str]) -> None:
    assert marks_of(tags) is None
    assert marks_of(MARKS.tags()) == MARKS


def test_marks_too_long_for_a_tag_are_refused_before_anything_is_sent() -> None:
    for wish in ({"operation": ""}, {"owner": "x" * 257}):
        with pytest.raises(ValidationFailed, match=next(iter(wish))):
            Marks(**{"epoch": 1, "operation": "a", "owner": "b", **wish})


def test_lists_go_over_pages_and_know_certificates_from_secrets(open_vault: Open) -> None:
    vault = open_vault()
    for number in range(27):
        vault.set(f"s-{number:02}", "x", MARKS, enabled=number != 3)
    entries = list(vault.entries())
    assert [one.name for one in entries] == [f"s-{number:02}" for number in range(27)]
    assert [one.name for one in entries if not one.enabled] == ["s-03"]
    assert not any(one.of_certificate or one.version for one in entries)
    second = vault.set("s-00", "y", MARKS)
    found = {one.version: one for one in vault.versions("s-00")}
    assert len(found) == 2 and found[second.version].marks == MARKS
    assert vault.get("s-00", next(version for version in found if version != second.version)).value == "x"
    assert list(vault.versions("nothing")) == []


def test_a_deleted_secret_is_recovered_and_purged(open_vault: Open) -> None:
    vault = open_vault()
    vault.set("gone", "x", MARKS)
    gone = vault.delete("gone")
    assert gone.entry.name == "gone" and gone.purged_at > gone.deleted_at
    assert [one.entry.name for one in vault.deleted()] == ["gone"]
    with pytest.raises(NameTaken, match="recovered or purged"):
        vault.set("gone", "y", MARKS)
    vault.recover("gone")
    assert vault.get("gone").value == "x"
    vault.delete("gone")
    vault.purge("gone")
    assert list(vault.deleted()) == []
    with pytest.raises(ObjectMissing):
        vault.recover("gone")


def test_delete_and_recover_return_when_azure_has_finished(
    open_vault: Open, control: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyvault, "SETTLE_SECONDS", 0.1)
    vault = open_vault()
    vault.set("gone", "x", MARKS)
    control.post("/faults", json={"vault_settle_seconds": 3})
    vault.delete("gone")
    assert [one.entry.name for one in vault.deleted()] == ["gone"]
    vault.recover("gone")
    assert vault.get("gone").value == "x"
    short = open_vault(seconds=1.5)
    short.delete("gone")
    with pytest.raises(NameTaken) as caught:
        vault.set("gone", "y", MARKS)
    assert caught.value.retrying_helps and caught.value.retry_after


def test_the_npr_identity_is_refused_by_the_pro_vault(sandbox: Sandbox, open_vault: Open) -> None:
    vault = open_vault(PRO, machine="npr")
    for attempt in (
        lambda: vault.get("x"),
        lambda: list(vault.entries()),
        lambda: list(vault.deleted()),
        lambda: list(vault.versions("x")),
        lambda: vault.set("x", "y", MARKS),
        lambda: vault.delete("x"),
        lambda: vault.recover("x"),
        lambda: vault.purge("x"),
    ):
        with pytest.raises(RoleMissing, match="secrets/"):
            attempt()
    assert writes(sandbox) == []
    open_vault(PRO, machine="pro").set("x", "y", MARKS)
    assert writes(sandbox) == [("mi-mazevault-pro", PRO, "set", "x")]


def test_a_users_refusal_is_final_and_no_other_identity_is_asked(
    sandbox: Sandbox, open_vault: Open, of_user: Callable[..., Credential]
) -> None:
    open_vault().set("known", "x", MARKS)
    vault = open_vault(credential=of_user("stella.stranger"))
    sandbox.world.seen.clear()
    stella = sandbox.world.directory.users["stella.stranger@bank.example"].oid
    for attempt in (lambda: vault.get("known"), lambda: list(vault.entries()), lambda: vault.set("known", "y", MARKS)):
        with pytest.raises(RoleMissing):
            attempt()
    seen = list(sandbox.world.seen)
    at_the_vault = [one for one in seen if one.host.startswith(NPR) and one.caller]
    assert [one.status for one in at_the_vault] == [403, 403, 403], "each refusal came once"
    assert {one.caller for one in at_the_vault} == {stella}
    assert not [one for one in seen if "/metadata/" in one.path], "the managed identity was not asked for"
    assert {one.grant for one in seen if one.grant} == {"urn:ietf:params:oauth:grant-type:jwt-bearer"}
    assert writes(sandbox) == [("mi-mazevault-npr", NPR, "set", "known")]


def test_a_reader_reads_and_a_refusal_names_action_role_and_principal(
    sandbox: Sandbox, open_vault: Open, of_user: Callable[..., Credential]
) -> None:
    open_vault().set("known", "x", MARKS)
    vault = open_vault(credential=of_user("paul.project"))
    assert vault.get("known").value == "x"
    with pytest.raises(RoleMissing) as caught:
        vault.set("known", "y", MARKS)
    paul = sandbox.world.directory.users["paul.project@bank.example"].oid
    assert caught.value.action == "secrets/setSecret/action"
    assert 'assign "Key Vault Secrets Officer"' in caught.value.fix and paul in caught.value.fix
    assert (caught.value.status, caught.value.retrying_helps) == (403, False)


FAULTS: tuple[tuple[dict[str, Any], type[AzureTrouble], bool], ...] = (
    ({"vault_closed": [NPR]}, NetworkClosed, False),
    ({"vault_firewalled": [NPR]}, NetworkClosed, False),
    ({"vault_forbidden": [NPR]}, RoleMissing, False),
    ({"vault_demands_obo": [NPR]}, OnBehalfOfDemanded, False),
    ({"vault_fails": dict.fromkeys(ACTIONS, "access_policy")}, PermissionMissing, False),
    ({"vault_throttled": 5, "retry_after_seconds": 17}, Throttled, True),
    ({"vault_throttled": 5, "retry_after_seconds": 17, "retry_after_as_date": True}, Throttled, True),
    ({"vault_fails": dict.fromkeys(ACTIONS, "busy")}, ObjectBusy, True),
    ({"vault_unavailable": 5}, ServiceTrouble, True),
)


@pytest.mark.parametrize(("fault", "kind", "again"), FAULTS, ids=lambda value: str(value)[:40])
def test_each_fault_is_one_error_after_one_attempt(
    sandbox: Sandbox, open_vault: Open, control: httpx.Client, fault: dict[str, Any], kind: type[AzureTrouble], again: bool
) -> None:
    vault = open_vault()
    vault.set("warm", "up", MARKS)
    control.post("/faults", json=fault)
    sandbox.world.seen.clear()
    for attempt in (lambda: vault.get("warm"), lambda: vault.set("warm", "y", MARKS), lambda: list(vault.entries())):
        with pytest.raises(AzureTrouble) as caught:
            attempt()
        assert type(caught.value) is kind and caught.value.retrying_helps is again
        assert caught.value.cause and caught.value.fix and caught.value.owner and caught.value.__cause__ is None
    assert len(sandbox.world.seen) == 3, "one request for each call"
    if kind is Throttled:
        assert caught.value.retry_after == pytest.approx(17, abs=1)


def test_a_denial_of_azure_policy_names_what_it_demands_and_ends_with_it(open_vault: Open, control: httpx.Client) -> None:
    vault, later = open_vault(), datetime.now(UTC) + timedelta(days=30)
    for fault, demanded, given in (
        ("vault_demands_expiry", "an expiry date", {"expires_at": later}),
        ("vault_demands_content_type", "a content type", {"content_type": "text/plain"}),
    ):
        control.post("/faults", json={fault: [NPR]})
        with pytest.raises(PolicyDenied, match=demanded) as caught:
            vault.set("governed", "x", MARKS)
        assert "config" in caught.value.fix and caught.value.owner is Owner.VAULT
        vault.set("governed", "x", MARKS, **given)
        control.post("/faults", json={fault: []})


def test_disabled_protected_and_malformed_have_their_own_errors(open_vault: Open) -> None:
    vault = open_vault()
    vault.set("off", "x", MARKS, enabled=False)
    with pytest.raises(ObjectDisabled):
        vault.get("off")
    with pytest.raises(ValueRefused, match="under_score"):
        vault.set("under_score", "x", MARKS)
    with pytest.raises(ValueRefused):
        vault.set("big", "x" * 30_000, MARKS)
    production = open_vault(PRO, machine="pro")
    production.set("kept", "x", MARKS)
    production.delete("kept")
    with pytest.raises(PurgeProtected):
        production.purge("kept")


def test_an_effect_without_an_answer_is_unknown_and_was_sent_once(
    sandbox: Sandbox, open_vault: Open, control: httpx.Client
) -> None:
    vault = open_vault()
    vault.set("warm", "up", MARKS)
    control.post("/faults", json={"vault_replies_lost": 1})
    with pytest.raises(OutcomeUnknown) as caught:
        vault.set("lost", "x", MARKS)
    assert caught.value.retrying_helps is False and "read it" in caught.value.fix
    assert [one for one in writes(sandbox) if one[3] == "lost"] == [("mi-mazevault-npr", NPR, "set", "lost")]
    assert vault.get("lost").entry.marks == MARKS, "the operation's mark tells that it happened"


def test_a_call_ends_at_its_deadline(open_vault: Open, control: httpx.Client) -> None:
    vault = open_vault(seconds=1.5)
    vault.set("warm", "up", MARKS)
    control.post("/faults", json={"vault_slow_seconds": 10})
    for attempt, kind in ((lambda: vault.get("warm"), Unreachable), (lambda: vault.set("warm", "x", MARKS), OutcomeUnknown)):
        begun = time.monotonic()
        with pytest.raises(kind):
            attempt()
        assert time.monotonic() - begun < 6


def test_a_slow_token_leaves_no_time_for_the_effect_and_nothing_is_sent(
    sandbox: Sandbox, open_vault: Open, connection: Callable[..., Any], cloud: Any
) -> None:
    real = Credentials(connection(), cloud).own()

    class Slow:
        def get_token(self, *scopes: str, **more: Any) -> Any:
            time.sleep(0.8)
            return real.get_token(*scopes, **more)

    with pytest.raises(Unreachable, match="no time left"):
        open_vault(credential=Slow(), seconds=0.6).set("late", "x", MARKS)
    assert writes(sandbox) == []
    assert not [one for one in sandbox.world.seen if one.host.startswith(NPR) and one.caller]


def test_a_machine_without_the_identity_gets_a_token_error_that_says_so(
    sandbox: Sandbox, open_vault: Open, connection: Callable[..., Any], cloud: Any, guard: Any, on_machine: Callable[[str], None]
) -> None:
    other = next(one.client_id for one in sandbox.world.directory.identities if one.host == "pro")
    wish = connection(PRO, client_id=other)
    on_machine("npr")
    with KeyVault(wish, Credentials(wish, cloud).own(), guard) as vault, pytest.raises(TokenTrouble, match="no managed identity"):
        vault.get("x")


class Frozen:
    """This process stands still right before one of the pieces of a request leaves, for longer than its right to act lives."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, clock: str, before: int) -> None:
        self.slept = 0.0
        send, now = egress._Connection.request, getattr(outside, clock)
        monkeypatch.setattr(outside, clock, lambda: now() + self.slept)
        write = HTTPSConnection.send

        def request(connection: Any, *args: Any, **more: Any) -> None:
            self.sleep_at(before, 1)
            send(connection, *args, **more)

        def wrote(connection: Any, data: Any) -> None:
            write(connection, data)
            self.sleep_at(before, 2)

        monkeypatch.setattr(egress._Connection, "request", request)
        monkeypatch.setattr(HTTPSConnection, "send", wrote)

    def sleep_at(self, before: int, piece: int) -> None:
        if before == piece:
            self.slept = 60.0


@pytest.mark.parametrize("clock", ["boottime", "process_clock"])
@pytest.mark.parametrize("before", [1, 2], ids=["the head", "the body"])
def test_a_process_that_stood_still_sends_nothing_when_it_wakes_up(
    sandbox: Sandbox, open_vault: Open, monkeypatch: pytest.MonkeyPatch, clock: str, before: int
) -> None:
    """Whoever took over meanwhile wrote already; both clocks count, since a paused machine may have stopped one of them."""
    vault = open_vault()
    vault.set("db", "the first", MARKS)
    with monkeypatch.context() as patch, pytest.raises(AzureTrouble):
        began = boottime(), time.time()
        Frozen(patch, clock, before)
        with outside.acting_for(10.0, since_boot=began[0], since_wall=began[1]):
            vault.set("db", "after a long sleep", MARKS)
    assert vault.get("db").value == "the first"
    with outside.acting_for(10.0, since_boot=boottime(), since_wall=time.time()):
        vault.set("db", "the second", MARKS)
    assert vault.get("db").value == "the second"
