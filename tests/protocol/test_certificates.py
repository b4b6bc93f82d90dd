"""Certificate requests and chains at the door of the protocol.

Proven here: from a request only the public key is taken, and only after size, form, key, proof of possession and wishes were
looked at; each refusal has its named reason and nothing else is ever raised (I12, I20, reliability §2 row 14). A chain is
believed for one root, one purpose and one moment.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import assume, given
from hypothesis import strategies as st

from protocol.certificates import (
    LARGEST_CSR,
    ChainBroken,
    CsrRefusal,
    CsrRefused,
    build_csr,
    inspect_csr,
    new_tls_key,
    pin_of,
    spki_fingerprint,
    verify_chain,
    x5t_s256,
)

KEY = new_tls_key()
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
A_CA = x509.BasicConstraints(ca=True, path_length=None)
CLIENT = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
SERVER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
BOTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def request(*extensions: x509.ExtensionType, key: Any = KEY) -> str:
    """A request signed by its own key, with these wishes in it."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(name("gw"))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM).decode()


def usage(**wishes: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**{one: wishes.get(one, False) for one in names})


def pem(der: bytes) -> str:
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{base64.encodebytes(der).decode()}-----END CERTIFICATE REQUEST-----\n"


def der(text: str) -> bytes:
    return base64.b64decode("".join(text.strip().splitlines()[1:-1]))


def with_a_flipped_signature() -> str:
    raw = bytearray(der(request()))
    raw[-1] ^= 1
    return pem(bytes(raw))


def of_a_key_that_did_not_sign() -> str:
    """KEY's public half in a request that another key signed."""
    other = new_tls_key()
    points = [key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) for key in (other, KEY)]
    return pem(der(request(key=other)).replace(*points))


def refusal_of(text: str) -> CsrRefusal:
    with pytest.raises(CsrRefused) as caught:
        inspect_csr(text)
    assert str(caught.value), "a refusal has a sentence"
    return caught.value.reason


A_REQUEST = der(request())


class TestRequests:
    @pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()], ids=["P-256", "P-384"])
    def test_a_proven_key_on_an_allowed_curve_is_taken(self, curve: ec.EllipticCurve) -> None:
        key = ec.generate_private_key(curve)
        facts = inspect_csr(build_csr(key, "gw-npr-primary"))
        assert facts.public_key == key.public_key()
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert facts.spki_sha256 == hashlib.sha256(spki).hexdigest()
        assert (facts.requested_subject, facts.ignored_extensions) == ("CN=gw-npr-primary", ())

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (pem(b"\x30" + b"a" * 48_000), CsrRefusal.TOO_LARGE),
            (request(x509.SubjectAlternativeName([x509.DNSName(f"{n:060}.example") for n in range(800)])), CsrRefusal.TOO_LARGE),
            (request(key=rsa.generate_private_key(65537, 1024)), CsrRefusal.WEAK_OR_FOREIGN_KEY),
            (request(key=rsa.generate_private_key(65537, 2048)), CsrRefusal.WEAK_OR_FOREIGN_KEY),
            (request(key=ec.generate_private_key(ec.SECP224R1())), CsrRefusal.WEAK_OR_FOREIGN_KEY),
            (request(key=ec.generate_private_key(ec.SECP256K1())), CsrRefusal.WEAK_OR_FOREIGN_KEY),
            (request(key=ec.generate_private_key(ec.BrainpoolP256R1())), CsrRefusal.WEAK_OR_FOREIGN_KEY),
            (request(key=ec.generate_private_key(ec.SECP521R1())), CsrRefusal.WEAK_OR_FOREIGN_KEY),
            (request(key=ed25519.Ed25519PrivateKey.generate()), CsrRefusal.WEAK_OR_FOREIGN_KEY),
            (request(A_CA), CsrRefusal.ASKS_FOR_CA),
            (request(usage(digital_signature=True, key_cert_sign=True)), CsrRefusal.ASKS_FOR_CA),
            (request(usage(crl_sign=True)), CsrRefusal.ASKS_FOR_CA),
            (with_a_flipped_signature(), CsrRefusal.BAD_SIGNATURE),
            (of_a_key_that_did_not_sign(), CsrRefusal.BAD_SIGNATURE),
            ("", CsrRefusal.NOT_A_REQUEST),
            ("gw-npr-primary", CsrRefusal.NOT_A_REQUEST),
            (request() + request(), CsrRefusal.NOT_A_REQUEST),
            ("# my key\n" + request(), CsrRefusal.NOT_A_REQUEST),
            (request().replace("CERTIFICATE REQUEST", "CERTIFICATE"), CsrRefusal.NOT_A_REQUEST),
            (request()[:-60] + "-----END CERTIFICATE REQUEST-----", CsrRefusal.NOT_A_REQUEST),
            (pem(der(request())[:-20]), CsrRefusal.NOT_A_REQUEST),
            (pem(b""), CsrRefusal.NOT_A_REQUEST),
            ("\ud800" + request(), CsrRefusal.NOT_A_REQUEST),
        ],
        ids=["64 KiB of nothing", "64 KiB that parse", "RSA-1024", "RSA-2048", "P-224", "secp256k1", "brainpool", "P-521",
             "Ed25519", "CA:TRUE", "keyCertSign", "cRLSign", "flipped signature", "another's key", "empty", "words", "two",
             "text before", "a certificate", "cut base64", "cut DER", "no DER", "lone surrogate"],
    )  # fmt: skip
    def test_what_must_not_be_signed_is_refused_with_its_reason(self, text: str, reason: CsrRefusal) -> None:
        assert refusal_of(text) is reason

    def test_the_limit_is_eight_kibibytes(self) -> None:
        text = request()
        padding = "\n" * (LARGEST_CSR - len(text))
        assert LARGEST_CSR == 8192
        assert inspect_csr(text + padding).public_key == KEY.public_key()
        assert refusal_of(text + padding + "\n") is CsrRefusal.TOO_LARGE

    def test_harmless_wishes_are_named_for_the_audit_and_change_nothing(self) -> None:
        asked = inspect_csr(request(x509.SubjectAlternativeName([x509.DNSName("admin.example")]), SERVER,
                                    x509.BasicConstraints(ca=False, path_length=None)))  # fmt: skip
        assert asked.ignored_extensions == ("subjectAltName", "extendedKeyUsage", "basicConstraints")
        assert asked.spki_sha256 == inspect_csr(request()).spki_sha256

    def test_a_long_subject_is_shown_cut(self) -> None:
        builder = x509.CertificateSigningRequestBuilder().subject_name(
            x509.Name([x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "u" * 60) for _ in range(9)])
        )
        text = builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
        assert len(inspect_csr(text).requested_subject) == 200

    @given(flips=st.lists(st.tuples(st.integers(0, len(A_REQUEST) - 1), st.integers(1, 255)), min_size=1, max_size=4))
    def test_no_damaged_request_is_accepted_for_this_key_and_none_crashes(self, flips: list[tuple[int, int]]) -> None:
        raw = bytearray(A_REQUEST)
        for position, mask in flips:
            raw[position] ^= mask
        assume(bytes(raw) != A_REQUEST)
        with pytest.raises(CsrRefused):
            inspect_csr(pem(bytes(raw)))

    @given(st.text(max_size=300))
    def test_any_text_is_refused_and_none_crashes(self, text: str) -> None:
        assert refusal_of(text) is CsrRefusal.NOT_A_REQUEST

    @pytest.mark.parametrize(("wanted", "written"), [("x" * 100, "x" * 64), ("", "gateway")])
    def test_our_own_requests_always_have_a_readable_name(self, wanted: str, written: str) -> None:
        assert inspect_csr(build_csr(KEY, wanted)).requested_subject == f"CN={written}"


@dataclass
class Chain:
    """Root, intermediate and leaf, each with one thing that can be made wrong."""

    root_key: Any = field(default_factory=new_tls_key)
    middle_key: Any = field(default_factory=new_tls_key)
    leaf_usage: x509.ExtendedKeyUsage | None = CLIENT
    middle_extensions: tuple[x509.ExtensionType, ...] = (A_CA, usage(key_cert_sign=True, crl_sign=True))
    middle_name: str = "middle"
    leaf_signer: Any = None
    life: dict[str, tuple[float, float]] = field(default_factory=dict)

    def make(self, subject: str, issuer: str, key: Any, signer: Any, *extensions: x509.ExtensionType) -> str:
        before, after = self.life.get(subject, (30, 30))
        builder = (
            x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer)).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=before)).not_valid_after(NOW + timedelta(days=after))
        )  # fmt: skip
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    @property
    def root(self) -> str:
        return self.make("root", "root", self.root_key, self.root_key, A_CA, usage(key_cert_sign=True))

    @property
    def middle(self) -> str:
        return self.make(self.middle_name, "root", self.middle_key, self.root_key, *self.middle_extensions)

    @property
    def leaf(self) -> str:
        extensions = [self.leaf_usage] if self.leaf_usage else []
        return self.make("leaf", "middle", KEY, self.leaf_signer or self.middle_key, *extensions)

    def verify(self, at: datetime = NOW, purpose: Any = "client") -> None:
        verify_chain(self.leaf, self.middle, self.root, at, purpose)


class TestChains:
    @pytest.mark.parametrize(("usages", "purpose"), [(CLIENT, "client"), (SERVER, "server"), (None, "channel")],
                             ids=["client", "server", "channel"])  # fmt: skip
    def test_a_chain_made_for_this_purpose_is_believed(self, usages: x509.ExtendedKeyUsage | None, purpose: str) -> None:
        Chain(leaf_usage=usages).verify(purpose=purpose)

    @pytest.mark.parametrize(
        ("usages", "purpose"),
        [(CLIENT, "server"), (CLIENT, "channel"), (SERVER, "client"), (SERVER, "channel"), (None, "client"), (None, "server"),
         (BOTH, "client"), (BOTH, "server")],
        ids=lambda value: value if isinstance(value, str) else None,
    )  # fmt: skip
    def test_exactly_the_usages_of_the_purpose_are_wanted(self, usages: x509.ExtendedKeyUsage | None, purpose: str) -> None:
        with pytest.raises(ChainBroken, match=f"not made for the purpose {purpose}"):
            Chain(leaf_usage=usages).verify(purpose=purpose)

    @pytest.mark.parametrize("who", ["leaf", "middle", "root"])
    @pytest.mark.parametrize(
        ("days", "good"), [(-2, False), (0, True), (-1 / 86400, False), (10, False), (10 - 1 / 86400, True), (12, False)],
        ids=["two-day-old clock", "first second", "a second early", "the end", "last second", "two days late"],
    )  # fmt: skip
    def test_every_certificate_must_be_valid_at_the_moment(self, who: str, days: float, good: bool) -> None:
        """Valid from now for ten days, looked at by clocks that are wrong."""
        chain = Chain(life={who: (0, 10)})
        moment = NOW + timedelta(days=days)
        if good:
            chain.verify(moment)
            return
        with pytest.raises(ChainBroken, match="check the clocks"):
            chain.verify(moment)

    def test_another_root_with_the_same_name_is_not_ours(self) -> None:
        mine, theirs = Chain(), Chain()
        with pytest.raises(ChainBroken, match="not issued by the one above"):
            verify_chain(mine.leaf, mine.middle, theirs.root, NOW, "client")

    def test_another_intermediate_with_the_same_name_did_not_issue_it(self) -> None:
        """I13: what one environment's authority signed is nothing under another's."""
        mine = Chain()
        theirs = Chain(root_key=mine.root_key)
        with pytest.raises(ChainBroken, match="not issued by the one above"):
            verify_chain(mine.leaf, theirs.middle, mine.root, NOW, "client")

    def test_a_leaf_signed_by_anybody_else_is_refused(self) -> None:
        with pytest.raises(ChainBroken, match="not issued by the one above"):
            Chain(leaf_signer=new_tls_key()).verify()

    def test_an_issuer_that_was_not_sent_along_is_missing(self) -> None:
        with pytest.raises(ChainBroken, match="not in the chain"):
            Chain(middle_name="somebody").verify()

    @pytest.mark.parametrize(
        "extensions",
        [(), (A_CA,), (usage(key_cert_sign=True),), (A_CA, usage(digital_signature=True, crl_sign=True)),
         (x509.BasicConstraints(ca=False, path_length=None), usage(key_cert_sign=True))],
        ids=["plain", "no usage", "no constraints", "may not sign certificates", "CA:FALSE"],
    )  # fmt: skip
    def test_an_end_entity_issues_nothing(self, extensions: tuple[x509.ExtensionType, ...]) -> None:
        with pytest.raises(ChainBroken, match="no certificate authority"):
            Chain(middle_extensions=extensions).verify()


class TestNames:
    """What we call keys and certificates in rows and tokens."""

    DER = der(Chain().root)

    def test_the_pin_is_the_sha_256_of_the_root(self) -> None:
        assert pin_of(self.DER) == "sha256:" + hashlib.sha256(self.DER).hexdigest()

    def test_the_thumbprint_is_that_of_rfc_8705(self) -> None:
        assert base64.urlsafe_b64decode(x5t_s256(self.DER) + "=") == hashlib.sha256(self.DER).digest()

    def test_two_keys_have_two_fingerprints_and_one_key_has_one(self) -> None:
        key = new_tls_key().public_key()
        assert spki_fingerprint(key) == spki_fingerprint(key) != spki_fingerprint(KEY.public_key())

    def test_a_fresh_tls_key_is_on_p_256(self) -> None:
        assert new_tls_key().curve.name == "secp256r1"
