"""The sealed envelope: nobody but the recipient reads it, nobody but the sender made it, and it fits one place only.

Proven here: the frozen wire format of `mzv-e2ee/2` (vectors made once, opened for ever, and re-opened by the bare library after
the written rules), that no bit of a message and no field of its header can be changed, and that each wrong place is refused
with its named reason. I13 (environments stay apart), I20 (every doubt denies), reliability §2 rows 13 and §6.
"""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from protocol.envelope import (
    MAX_WIRE_BYTES,
    SUITE,
    VERSION,
    WINDOW_SECONDS,
    EnvelopeRefusal,
    EnvelopeRefused,
    Expectation,
    Header,
    Parcel,
    RecipientKey,
    answer_header,
    check_binding,
    decode_encryption_key,
    decode_signing_key,
    encode_public_key,
    key_id,
    open_parcel,
    open_recipients,
    parse,
    request_hash,
    seal,
    sign_recipients,
    thumbprint_of_fingerprint,
    verify,
)

VECTORS = Path(__file__).parent / "vectors"


def vector(name: str) -> dict[str, Any]:
    return dict(json.loads((VECTORS / f"{name}.json").read_text()))


REQUEST, ANSWER, RECIPIENTS = vector("request"), vector("answer"), vector("recipients")
REQUEST_WIRE = bytes.fromhex(REQUEST["wire"])
GATEWAY_SIGNS = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(REQUEST["signer_private_key"]))
PRIMARY_SIGNS = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(ANSWER["signer_private_key"]))
PRIMARY_READS = X25519PrivateKey.from_private_bytes(bytes.fromhex(REQUEST["recipient_private_key"]))
GATEWAY_READS = X25519PrivateKey.from_private_bytes(bytes.fromhex(ANSWER["recipient_private_key"]))
STRANGER_SIGNS, STRANGER_READS = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
HEADER = msgspec.convert(REQUEST["header"], Header)


def opened(wire: bytes, signer: Ed25519PrivateKey = GATEWAY_SIGNS, reader: X25519PrivateKey = PRIMARY_READS) -> bytes:
    """What a receiver does with a message, but for the binding."""
    parcel = parse(wire)
    verify(parcel, signer.public_key())
    return open_parcel(parcel, reader)


def refusal_of(call: Any, *arguments: Any) -> EnvelopeRefusal:
    with pytest.raises(EnvelopeRefused) as caught:
        call(*arguments)
    return caught.value.reason


def expectation_of(header: Header, **other: Any) -> Expectation:
    """What the rightful receiver of this header expects, with some of it changed."""
    known = {
        "direction": header.direction, "sender": header.sender, "certificate": header.certificate,
        "recipient": header.recipient, "environment": header.environment, "generation": header.generation,
        "instance": header.instance,
        "method": header.method, "path": header.path, "request_hash": header.request_hash, "now": header.issued_at,
    }  # fmt: skip
    return Expectation(**{**known, **other})


def text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def raw(encoded: str) -> bytes:
    return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))


def wire_of(**parts: Any) -> bytes:
    """The request of the vector with parts of its outer object replaced."""
    return json.dumps({**json.loads(REQUEST_WIRE), **parts}, separators=(",", ":")).encode()


class TestFrozenVectors:
    @pytest.mark.parametrize(
        ("frozen", "signer", "reader"),
        [(REQUEST, GATEWAY_SIGNS, PRIMARY_READS), (ANSWER, PRIMARY_SIGNS, GATEWAY_READS)],
        ids=["request", "answer"],
    )
    def test_a_message_sealed_when_the_format_was_made_still_opens(
        self, frozen: dict[str, Any], signer: Ed25519PrivateKey, reader: X25519PrivateKey
    ) -> None:
        wire = bytes.fromhex(frozen["wire"])
        assert opened(wire, signer, reader) == bytes.fromhex(frozen["payload"])
        assert msgspec.to_builtins(parse(wire).header) == frozen["header"]

    @pytest.mark.parametrize("frozen", [REQUEST, ANSWER], ids=["request", "answer"])
    def test_the_bare_library_opens_it_by_the_written_rules(self, frozen: dict[str, Any]) -> None:
        """HPKE with info = SHA-256(header bytes); Ed25519 over context, SHA-256(header) and SHA-256(ciphertext)."""
        outer = {name: raw(value) for name, value in json.loads(bytes.fromhex(frozen["wire"])).items()}
        digest = hashlib.sha256(outer["header"]).digest()
        signer = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(frozen["signer_private_key"])).public_key()
        reader = X25519PrivateKey.from_private_bytes(bytes.fromhex(frozen["recipient_private_key"]))
        signer.verify(outer["signature"], b"mazevault envelope v1\0" + digest + hashlib.sha256(outer["ciphertext"]).digest())
        suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
        assert suite.decrypt(outer["ciphertext"], reader, info=digest) == bytes.fromhex(frozen["payload"])

    def test_the_answer_repeats_the_hash_of_the_very_request(self) -> None:
        assert parse(bytes.fromhex(ANSWER["wire"])).header.request_hash == text(hashlib.sha256(REQUEST_WIRE).digest())

    def test_names_of_keys_have_not_changed(self) -> None:
        digest = hashlib.sha256(PRIMARY_READS.public_key().public_bytes_raw()).digest()
        assert key_id(PRIMARY_READS.public_key()) == REQUEST["header"]["recipient"] == text(digest[:16])

    def test_a_list_of_recipient_keys_signed_long_ago_is_still_believed(self) -> None:
        keys = open_recipients(RECIPIENTS["text"], PRIMARY_SIGNS.public_key(), datetime(2026, 11, 25, tzinfo=UTC))
        assert [msgspec.to_builtins(key) for key in keys] == RECIPIENTS["keys"]


class TestTampering:
    def test_no_single_bit_of_a_message_can_be_flipped(self) -> None:
        """All of them, not a sample."""
        for position in range(len(REQUEST_WIRE) * 8):
            flipped = bytearray(REQUEST_WIRE)
            flipped[position // 8] ^= 1 << position % 8
            reason = refusal_of(opened, bytes(flipped))
            assert reason in {EnvelopeRefusal.MALFORMED, EnvelopeRefusal.UNKNOWN_SUITE, EnvelopeRefusal.BAD_SIGNATURE}, position

    @given(payload=st.binary(max_size=300), data=st.data())
    def test_no_single_bit_of_any_payload_s_ciphertext_or_signature_can_be_flipped(self, payload: bytes, data: Any) -> None:
        parcel = parse(seal(HEADER, payload, PRIMARY_READS.public_key(), GATEWAY_SIGNS))
        name = data.draw(st.sampled_from(["ciphertext", "signature", "header_bytes"]))
        part = bytearray(getattr(parcel, name))
        position = data.draw(st.integers(0, len(part) * 8 - 1))
        part[position // 8] ^= 1 << position % 8
        changed = Parcel(**{**vars(parcel), name: bytes(part)})
        assert refusal_of(verify, changed, GATEWAY_SIGNS.public_key()) is EnvelopeRefusal.BAD_SIGNATURE

    @given(length=st.integers(0, len(REQUEST_WIRE) - 1))
    @example(length=0)
    @example(length=len(REQUEST_WIRE) - 1)
    def test_a_message_cut_off_anywhere_is_malformed(self, length: int) -> None:
        assert refusal_of(parse, REQUEST_WIRE[:length]) is EnvelopeRefusal.MALFORMED

    OTHER_VALUES = {
        "direction": "down", "sender": "6f1f0f8e-6c1b-4a53-9a55-0d8f5f3f6aff", "certificate": "b3RoZXI", "recipient": "b3RoZXI",
        "environment": "PRO", "epoch": 8, "generation": "00000000-0000-4000-8000-000000000000",
        "instance": "00000000-0000-4000-8000-000000000000",
        "message_id": "c0a80101-0000-4000-8000-0000000000ff", "sequence": 42, "method": "PUT",
        "path": "/api/v1/gateways/channel/heartbeat", "request_hash": "b3RoZXI", "issued_at": 1795600002,
    }  # fmt: skip

    def test_the_table_of_changes_covers_every_field(self) -> None:
        assert set(self.OTHER_VALUES) | {"suite", "version"} == set(Header.__struct_fields__)

    @pytest.mark.parametrize(("field", "value"), OTHER_VALUES.items(), ids=OTHER_VALUES)
    def test_a_changed_header_field_breaks_the_signature(self, field: str, value: Any) -> None:
        other = msgspec.json.encode(structs.replace(HEADER, **{field: value}))
        assert refusal_of(opened, wire_of(header=text(other))) is EnvelopeRefusal.BAD_SIGNATURE

    @pytest.mark.parametrize(("field", "value"), OTHER_VALUES.items(), ids=OTHER_VALUES)
    def test_a_changed_header_field_does_not_open_even_when_its_sender_signs_it_anew(self, field: str, value: Any) -> None:
        """The header is bound into the encryption too: nobody can put their name on a ciphertext made by another."""
        stolen = parse(REQUEST_WIRE)
        other = msgspec.json.encode(structs.replace(HEADER, **{field: value}))
        signed = b"mazevault envelope v1\0" + hashlib.sha256(other).digest() + hashlib.sha256(stolen.ciphertext).digest()
        wire = wire_of(header=text(other), signature=text(GATEWAY_SIGNS.sign(signed)))
        assert refusal_of(opened, wire) is EnvelopeRefusal.NOT_DECRYPTED

    @pytest.mark.parametrize(("field", "value"), [("suite", "X448/none"), ("suite", ""), ("version", "mzv-e2ee/0")])
    def test_another_suite_or_version_is_named_as_unknown(self, field: str, value: str) -> None:
        other = msgspec.json.encode(structs.replace(HEADER, **{field: value}))
        assert refusal_of(parse, wire_of(header=text(other))) is EnvelopeRefusal.UNKNOWN_SUITE

    def test_a_header_that_says_the_same_in_other_bytes_is_refused(self) -> None:
        spaced = json.dumps(msgspec.to_builtins(HEADER)).encode()
        assert msgspec.json.decode(spaced, type=Header) == HEADER
        assert refusal_of(opened, wire_of(header=text(spaced))) is EnvelopeRefusal.BAD_SIGNATURE


class TestParsing:
    @pytest.mark.parametrize(
        "wire",
        [
            b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000,
            wire_of(extra="x"),
            wire_of(signature=None),
            wire_of(signature=7),
            wire_of(ciphertext=json.loads(REQUEST_WIRE)["ciphertext"] + "="),
            wire_of(ciphertext="+/+/"),
            wire_of(ciphertext="AB"),  # the two last bits of B say nothing: a second text for one value
            wire_of(ciphertext="é"),
            wire_of(header=text(b"{}")),
            wire_of(header=text(msgspec.json.encode({**REQUEST["header"], "more": 1}))),
            wire_of(header=text(msgspec.json.encode({**REQUEST["header"], "epoch": "7"}))),
            wire_of(header=text(msgspec.json.encode({**REQUEST["header"], "epoch": True}))),
            wire_of(header=text(msgspec.json.encode({**REQUEST["header"], "epoch": -1}))),
            wire_of(header=text(msgspec.json.encode({**REQUEST["header"], "sequence": 2**62 + 1}))),
            wire_of(header=text(msgspec.json.encode({**REQUEST["header"], "message_id": "1"}))),
            wire_of(header=text(msgspec.json.encode({**REQUEST["header"], "path": "/" * 201}))),
            b" " * (MAX_WIRE_BYTES + 1) + REQUEST_WIRE,
        ],
        ids=["empty", "no fields", "list", "null", "no text", "deep", "extra part", "null part", "number part", "padding",
             "other alphabet", "second spelling", "not ascii", "empty header", "extra field", "text for number",
             "true for number", "negative", "too great", "no uuid", "too long", "too large"],
    )  # fmt: skip
    def test_anything_but_the_one_form_is_malformed(self, wire: bytes) -> None:
        assert refusal_of(parse, wire) is EnvelopeRefusal.MALFORMED

    @given(st.binary(max_size=400))
    def test_arbitrary_bytes_are_refused_and_never_crash(self, wire: bytes) -> None:
        assert refusal_of(parse, wire) is EnvelopeRefusal.MALFORMED

    def test_the_largest_message_is_read_and_one_byte_more_is_not(self) -> None:
        padding = b" " * (MAX_WIRE_BYTES - len(REQUEST_WIRE))
        assert parse(padding + REQUEST_WIRE).header == HEADER
        assert refusal_of(parse, padding + b" " + REQUEST_WIRE) is EnvelopeRefusal.MALFORMED

    def test_every_refusal_says_the_same_to_the_other_side(self) -> None:
        assert {str(EnvelopeRefused(reason)) for reason in EnvelopeRefusal} == {"the sealed message was not accepted"}


class TestSealing:
    @given(st.binary(max_size=2000))
    @example(b"")
    def test_the_recipient_reads_exactly_what_was_sealed(self, payload: bytes) -> None:
        assert opened(seal(HEADER, payload, PRIMARY_READS.public_key(), GATEWAY_SIGNS)) == payload

    def test_the_same_message_sealed_twice_shares_no_ciphertext(self) -> None:
        one, two = (parse(seal(HEADER, b"same", PRIMARY_READS.public_key(), GATEWAY_SIGNS)) for _ in range(2))
        assert one.header_bytes == two.header_bytes
        assert one.ciphertext != two.ciphertext

    def test_the_payload_is_not_on_the_wire(self) -> None:
        wire = seal(HEADER, b"a-canary-of-nineteen", PRIMARY_READS.public_key(), GATEWAY_SIGNS)
        assert not any(b"canary" in part for part in (wire, *(raw(value) for value in json.loads(wire).values())))

    def test_another_s_signature_is_refused(self) -> None:
        wire = seal(HEADER, b"x", PRIMARY_READS.public_key(), STRANGER_SIGNS)
        assert refusal_of(opened, wire) is EnvelopeRefusal.BAD_SIGNATURE

    def test_another_s_key_does_not_open_it(self) -> None:
        assert refusal_of(open_parcel, parse(REQUEST_WIRE), STRANGER_READS) is EnvelopeRefusal.NOT_DECRYPTED

    @pytest.mark.parametrize("ciphertext", [b"", b"short", b"\0" * 48])
    def test_a_signed_ciphertext_that_is_none_is_refused(self, ciphertext: bytes) -> None:
        parcel = Parcel(HEADER, msgspec.json.encode(HEADER), ciphertext, b"")
        assert refusal_of(open_parcel, parcel, PRIMARY_READS) is EnvelopeRefusal.NOT_DECRYPTED


class TestBinding:
    def test_the_rightful_receiver_accepts(self) -> None:
        check_binding(HEADER, expectation_of(HEADER, min_epoch=HEADER.epoch))

    @pytest.mark.parametrize(
        ("other", "reason"),
        [
            ({"direction": "down"}, EnvelopeRefusal.WRONG_DIRECTION),
            ({"sender": "6f1f0f8e-6c1b-4a53-9a55-0d8f5f3f6aff"}, EnvelopeRefusal.WRONG_SENDER),
            ({"certificate": "b3RoZXI"}, EnvelopeRefusal.WRONG_CERTIFICATE),
            ({"recipient": "b3RoZXI"}, EnvelopeRefusal.WRONG_RECIPIENT),
            ({"environment": "PRO"}, EnvelopeRefusal.WRONG_ENVIRONMENT),
            ({"environment": "npr"}, EnvelopeRefusal.WRONG_ENVIRONMENT),
            ({"generation": "00000000-0000-4000-8000-000000000000"}, EnvelopeRefusal.WRONG_GENERATION),
            ({"instance": "00000000-0000-4000-8000-000000000000"}, EnvelopeRefusal.WRONG_INSTANCE),
            ({"method": "PUT"}, EnvelopeRefusal.WRONG_REQUEST),
            ({"path": "/api/v1/gateways/channel/heartbeat"}, EnvelopeRefusal.WRONG_REQUEST),
            ({"request_hash": "b3RoZXI"}, EnvelopeRefusal.WRONG_REQUEST),
            ({"min_epoch": HEADER.epoch + 1}, EnvelopeRefusal.STALE_EPOCH),
        ],
        ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
    )
    def test_a_message_made_for_another_place_is_refused_with_its_reason(
        self, other: dict[str, Any], reason: EnvelopeRefusal
    ) -> None:
        assert refusal_of(check_binding, HEADER, expectation_of(HEADER, **other)) is reason

    def test_nobody_is_nobody_even_when_nobody_is_expected(self) -> None:
        nameless = structs.replace(HEADER, sender="")
        assert refusal_of(check_binding, nameless, expectation_of(nameless)) is EnvelopeRefusal.WRONG_SENDER

    @pytest.mark.parametrize("offset", [-WINDOW_SECONDS, -1, 0, 1, WINDOW_SECONDS])
    def test_inside_the_window_the_clock_does_not_matter(self, offset: int) -> None:
        check_binding(HEADER, expectation_of(HEADER, now=HEADER.issued_at + offset))

    @pytest.mark.parametrize("offset", [-WINDOW_SECONDS - 1, WINDOW_SECONDS + 1, 2 * 86400, -2 * 86400])
    def test_a_stale_or_a_future_message_is_refused(self, offset: int) -> None:
        expected = expectation_of(HEADER, now=HEADER.issued_at + offset)
        assert refusal_of(check_binding, HEADER, expected) is EnvelopeRefusal.OUTSIDE_WINDOW

    def test_the_window_is_five_minutes(self) -> None:
        assert expectation_of(HEADER).window == 300

    def test_a_higher_epoch_than_the_least_one_is_accepted(self) -> None:
        check_binding(HEADER, expectation_of(HEADER, min_epoch=HEADER.epoch - 1))


class TestAnswers:
    def answer_to(self, request: Header, wire: bytes) -> Header:
        return answer_header(
            request, recipient_key=encode_public_key(GATEWAY_READS.public_key()), environment="NPR", epoch=7,
            request_hash=request_hash(wire), issued_at=1795600001, message_id="c0a80101-0000-4000-8000-000000000002",
        )  # fmt: skip

    def waiting_for(self, wire: bytes, **other: Any) -> Expectation:
        """What a gateway that sent these bytes expects of the answer."""
        known = {
            "direction": "down", "sender": "primary", "certificate": "", "recipient": key_id(GATEWAY_READS.public_key()),
            "environment": "NPR", "generation": HEADER.generation, "instance": HEADER.instance, "method": HEADER.method,
            "path": HEADER.path,
            "request_hash": request_hash(wire), "now": 1795600001,
        }  # fmt: skip
        return Expectation(**{**known, **other})

    def test_the_header_of_the_frozen_answer_is_what_the_primary_builds_today(self) -> None:
        assert msgspec.to_builtins(self.answer_to(HEADER, REQUEST_WIRE)) == ANSWER["header"]

    def test_the_answer_to_this_request_is_accepted(self) -> None:
        check_binding(self.answer_to(HEADER, REQUEST_WIRE), self.waiting_for(REQUEST_WIRE))

    def test_the_answer_to_another_request_is_refused_even_when_that_request_said_the_same(self) -> None:
        other = seal(HEADER, bytes.fromhex(REQUEST["payload"]), PRIMARY_READS.public_key(), GATEWAY_SIGNS)
        answer = self.answer_to(HEADER, REQUEST_WIRE)
        assert refusal_of(check_binding, answer, self.waiting_for(other)) is EnvelopeRefusal.WRONG_REQUEST

    def test_a_request_played_back_is_no_answer(self) -> None:
        assert refusal_of(check_binding, HEADER, self.waiting_for(REQUEST_WIRE)) is EnvelopeRefusal.WRONG_DIRECTION

    def test_an_answer_played_to_the_primary_is_no_request(self) -> None:
        answer = self.answer_to(HEADER, REQUEST_WIRE)
        assert refusal_of(check_binding, answer, expectation_of(HEADER)) is EnvelopeRefusal.WRONG_DIRECTION

    def test_an_answer_for_the_life_before_a_restore_is_refused(self) -> None:
        answer = self.answer_to(HEADER, REQUEST_WIRE)
        expected = self.waiting_for(REQUEST_WIRE, generation="00000000-0000-4000-8000-000000000000")
        assert refusal_of(check_binding, answer, expected) is EnvelopeRefusal.WRONG_GENERATION

    def test_the_answer_to_another_instance_is_refused(self) -> None:
        answer = self.answer_to(HEADER, REQUEST_WIRE)
        expected = self.waiting_for(REQUEST_WIRE, instance="00000000-0000-4000-8000-000000000000")
        assert refusal_of(check_binding, answer, expected) is EnvelopeRefusal.WRONG_INSTANCE

    def test_a_message_that_names_no_instance_is_refused(self) -> None:
        nameless = {name: value for name, value in REQUEST["header"].items() if name != "instance"}
        assert refusal_of(parse, wire_of(header=text(msgspec.json.encode(nameless)))) is EnvelopeRefusal.MALFORMED


class TestRecipientKeys:
    NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)

    def key(self, hours: float, name: str = "k", suite: str = SUITE) -> RecipientKey:
        return RecipientKey(name, encode_public_key(PRIMARY_READS.public_key()), self.NOW + timedelta(hours=hours), suite)

    def open(self, *keys: RecipientKey) -> tuple[RecipientKey, ...]:
        return open_recipients(sign_recipients(list(keys), PRIMARY_SIGNS), PRIMARY_SIGNS.public_key(), self.NOW)

    def test_good_keys_come_in_their_order(self) -> None:
        assert [key.kid for key in self.open(self.key(40, "new"), self.key(16, "old"))] == ["new", "old"]

    def test_ended_keys_and_unknown_suites_are_left_out(self) -> None:
        keys = self.open(self.key(-1, "ended"), self.key(0, "ends now"), self.key(9, "future", "MLKEM768"), self.key(1, "good"))
        assert [key.kid for key in keys] == ["good"]

    def test_the_end_is_a_moment_whatever_its_zone(self) -> None:
        moment = (self.NOW + timedelta(minutes=1)).astimezone(timezone(timedelta(hours=-11)))
        assert self.open(structs.replace(self.key(0), not_after=moment))

    def test_a_list_without_a_good_key_is_refused(self) -> None:
        assert refusal_of(self.open, self.key(-1)) is EnvelopeRefusal.WRONG_RECIPIENT

    def test_another_s_list_is_refused(self) -> None:
        foreign = sign_recipients([self.key(40)], STRANGER_SIGNS)
        assert refusal_of(open_recipients, foreign, PRIMARY_SIGNS.public_key(), self.NOW) is EnvelopeRefusal.BAD_SIGNATURE

    def test_no_single_bit_of_the_list_can_be_flipped(self) -> None:
        whole = RECIPIENTS["text"].encode()
        for position in range(len(whole) * 8):
            flipped = bytearray(whole)
            flipped[position // 8] ^= 1 << position % 8
            reason = refusal_of(open_recipients, bytes(flipped), PRIMARY_SIGNS.public_key(), self.NOW)
            assert reason in {EnvelopeRefusal.MALFORMED, EnvelopeRefusal.BAD_SIGNATURE}, position

    @pytest.mark.parametrize(
        "document", ["", "{}", "null", '{"body":"!","signature":""}', '{"body":"","signature":"","more":""}']
    )
    def test_anything_else_is_malformed(self, document: str) -> None:
        assert refusal_of(open_recipients, document, PRIMARY_SIGNS.public_key(), self.NOW) is EnvelopeRefusal.MALFORMED

    def test_a_signature_over_the_list_is_none_over_a_message(self) -> None:
        """Two contexts: what the Primary signed as a list of keys can never be shown as a message of its."""
        signed = json.loads(RECIPIENTS["text"])
        parcel = Parcel(HEADER, raw(signed["body"]), b"", raw(signed["signature"]))
        assert refusal_of(verify, parcel, PRIMARY_SIGNS.public_key()) is EnvelopeRefusal.BAD_SIGNATURE


class TestRawKeys:
    def test_both_kinds_survive_the_trip(self) -> None:
        assert decode_encryption_key(encode_public_key(GATEWAY_READS.public_key())) == GATEWAY_READS.public_key()
        assert decode_signing_key(encode_public_key(GATEWAY_SIGNS.public_key())) == GATEWAY_SIGNS.public_key()

    @pytest.mark.parametrize("decode", [decode_encryption_key, decode_signing_key])
    @pytest.mark.parametrize("length", [0, 31, 33, 64])
    def test_a_key_of_another_length_is_refused(self, decode: Any, length: int) -> None:
        with pytest.raises(ValueError, match="32 bytes"):
            decode(text(b"\x09" * length))

    @pytest.mark.parametrize("point", [b"\0" * 32, b"\x01" + b"\0" * 31], ids=["zero", "one"])
    def test_a_point_of_small_order_is_no_encryption_key(self, point: bytes) -> None:
        """With such a key everybody would know the shared secret."""
        with pytest.raises(ValueError, match="no usable X25519 key"):
            decode_encryption_key(text(point))

    def test_a_fingerprint_becomes_the_thumbprint_of_rfc_8705(self) -> None:
        assert thumbprint_of_fingerprint(hashlib.sha256(b"der").hexdigest()) == text(hashlib.sha256(b"der").digest())


def test_the_format_is_still_version_two() -> None:
    """Whoever changes it adds a suite or a version beside these, and vectors for it."""
    assert (VERSION, SUITE) == ("mzv-e2ee/2", "X25519/HKDF-SHA256/AES-256-GCM")
