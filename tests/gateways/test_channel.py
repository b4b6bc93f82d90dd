"""Every payload is sealed and signed; what was moved, changed, repeated or redirected is refused (DESIGN §6, I13, I14)."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec import structs

from gateways import channel_keys
from gateways.models import GatewayStatus, MessageReceipt, PrimaryKeyPair
from protocol import messages, paths
from tests.fakes.gateway import FakeGateway

Pair = tuple[FakeGateway, FakeGateway]


def refusal(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


@dataclass
class Spoof:
    field: str
    value: Any
    case: str = ""

    @property
    def name(self) -> str:
        return f"{self.field} {self.case}".strip()


WRONG_HEADERS = [
    Spoof("sender", str(uuid.uuid4())), Spoof("environment", "PRO"), Spoof("generation", str(uuid.uuid4())),
    Spoof("method", "PUT"), Spoof("path", paths.LEASE_RENEW), Spoof("direction", "down"), Spoof("certificate", "A" * 43),
    Spoof("issued_at", -3600, "old"), Spoof("issued_at", 3600, "future"),
    Spoof("version", "mzv-e2ee/9"), Spoof("message_id", f"{uuid.UUID(int=7)}\n", "with a newline"),
]  # fmt: skip


@pytest.mark.parametrize("spoof", WRONG_HEADERS, ids=lambda spoof: spoof.name)
def test_a_header_that_is_not_what_the_server_sees_is_refused(npr: Pair, spoof: Spoof) -> None:
    gateway, _ = npr
    before = GatewayStatus.objects.get(gateway_id=gateway.id).heartbeat_at
    value = int(time.time()) + spoof.value if spoof.field == "issued_at" else spoof.value
    header = structs.replace(gateway.header(paths.HEARTBEAT), **{spoof.field: value})
    answer = gateway.send(paths.HEARTBEAT, gateway.report(), header=header)
    assert answer.status_code in (400, 403), answer.content
    assert answer.json()["code"] == "ENVELOPE_REFUSED"
    assert GatewayStatus.objects.get(gateway_id=gateway.id).heartbeat_at == before


def test_the_same_bytes_twice_are_refused_the_second_time(npr: Pair) -> None:
    gateway, _ = npr
    wire = gateway.wire(gateway.report(), gateway.header(paths.HEARTBEAT))
    assert gateway.post(paths.HEARTBEAT, wire).status_code == 200
    assert refusal(gateway.post(paths.HEARTBEAT, wire)) == (409, "REPLAYED")


def test_a_used_sequence_number_in_a_fresh_message_is_refused(npr: Pair) -> None:
    gateway, _ = npr
    header = gateway.header(paths.HEARTBEAT)
    assert gateway.send(paths.HEARTBEAT, gateway.report(), header=header).status_code == 200
    again = structs.replace(header, message_id=str(uuid.uuid4()))
    assert refusal(gateway.send(paths.HEARTBEAT, gateway.report(), header=again)) == (409, "NUMBER_USED")


def test_any_changed_byte_is_refused(npr: Pair) -> None:
    gateway, _ = npr
    wire = gateway.wire(gateway.report(), gateway.header(paths.HEARTBEAT))
    taken = MessageReceipt.objects.count()
    for position in range(0, len(wire), max(1, len(wire) // 40)):
        changed = wire[:position] + bytes([wire[position] ^ 1]) + wire[position + 1 :]
        answer = gateway.post(paths.HEARTBEAT, changed)
        assert answer.status_code in (400, 403), (position, answer.content)
    assert MessageReceipt.objects.count() == taken
    assert gateway.post(paths.HEARTBEAT, wire).status_code == 200


def test_a_message_under_somebody_elses_certificate_is_refused(npr: Pair) -> None:
    first, second = npr
    wire = first.wire(first.report(), first.header(paths.HEARTBEAT))
    assert refusal(first.post(paths.HEARTBEAT, wire, peer=second.der())) == (403, "ENVELOPE_REFUSED")


def test_without_a_client_certificate_nothing_is_read(npr: Pair) -> None:
    gateway, _ = npr
    wire = gateway.wire(gateway.report(), gateway.header(paths.HEARTBEAT))
    assert refusal(gateway.post(paths.HEARTBEAT, wire, peer=None)) == (401, "CERTIFICATE_REQUIRED")


@pytest.mark.parametrize("name", ["X-SSL-Client-Cert", "X-Client-Cert", "X-Forwarded-Client-Cert", "X-ARR-ClientCert",
                                  "SSL-Client-Cert", "X-Forwarded-Tls-Client-Cert"])  # fmt: skip
def test_no_header_stands_in_for_the_certificate(npr: Pair, name: str) -> None:
    gateway, _ = npr
    wire = gateway.wire(gateway.report(), gateway.header(paths.HEARTBEAT))
    pem = gateway.certificate.replace("\n", "%0A")
    answer = gateway.post(paths.HEARTBEAT, wire, peer=None, headers={name: pem})
    assert refusal(answer) == (401, "CERTIFICATE_REQUIRED")


@pytest.mark.parametrize("body", [b"", b"hello", b"{}", b"[]", b"\0" * 100, b'{"header":1}', b"\xff" * 4096])
def test_bytes_that_are_no_envelope_get_the_error_shape(npr: Pair, body: bytes) -> None:
    answer = npr[0].post(paths.HEARTBEAT, body)
    assert answer.status_code in (400, 403)
    assert {"error", "code"} <= answer.json().keys()


def test_a_body_of_another_kind_is_400(npr: Pair) -> None:
    gateway, _ = npr
    answer = gateway.send(paths.HEARTBEAT, messages.AskDirective(), header=gateway.header(paths.HEARTBEAT))
    assert answer.status_code == 400 and "Heartbeat" in answer.json()["error"]


def test_a_destroyed_recipient_key_is_said_so_that_the_gateway_fetches_the_new_one(npr: Pair) -> None:
    gateway, _ = npr
    wire = gateway.wire(gateway.report(), gateway.header(paths.HEARTBEAT))
    PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.RECIPIENT).delete()
    channel_keys.forget()  # as every process does by itself within seconds
    assert refusal(gateway.post(paths.HEARTBEAT, wire)) == (409, "RECIPIENT_UNKNOWN")


def test_a_key_is_looked_up_again_after_some_seconds(npr: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway, _ = npr
    gateway.heartbeat()
    wire = gateway.wire(gateway.report(), gateway.header(paths.HEARTBEAT))
    PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.RECIPIENT).delete()
    later = time.monotonic() + channel_keys.KEY_SECONDS
    monkeypatch.setattr("gateways.channel_keys.time.monotonic", lambda: later)
    assert refusal(gateway.post(paths.HEARTBEAT, wire)) == (409, "RECIPIENT_UNKNOWN")


def test_an_answer_is_sealed_for_the_gateway_that_asked_and_bound_to_its_request(npr: Pair) -> None:
    from protocol.envelope import EnvelopeRefused, open_parcel, parse, request_hash

    first, second = npr
    wire = first.wire(first.report(), first.header(paths.HEARTBEAT))
    answer = first.post(paths.HEARTBEAT, wire)
    parcel = parse(answer.content)
    assert parcel.header.request_hash == request_hash(wire)
    assert b"assigned_role" not in answer.content
    with pytest.raises(EnvelopeRefused):
        open_parcel(parcel, second.keys.encryption)


def test_machine_paths_take_post_only(npr: Pair) -> None:
    answer = npr[0].client.get(paths.HEARTBEAT)
    assert refusal(answer) == (405, "METHOD_NOT_ALLOWED")
