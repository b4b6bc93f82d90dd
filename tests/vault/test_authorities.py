"""Certificate authorities: what they sign is a function of our facts, the profile and the public key, and of nothing else.

Proven here with the X.509 verifier of `cryptography` as the judge: chains lead to our root, one environment's intermediate is
nothing to another's leaf (I13), each certificate has exactly the cells of its profile (I12, signer table of reliability §3), and
the private halves are not in the database in the clear (I16).
"""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from django.db import connection

from common.clock import now
from protocol.certificates import new_tls_key, pin_of, spki_fingerprint
from vault import authorities, profiles, succession
from vault.authorities import IssuedCertificate, IssuingRefused, RootKeyAbsent, issue
from vault.encryption import SealBroken, open_sealed
from vault.generations import Standing
from vault.models import CertificateAuthority
from vault.profiles import San, SignerProfile

pytestmark = pytest.mark.usefixtures("primary")
NAME = "6f1f0f8e-6c1b-4a53-9a55-0d8f5f3f6a01"
GATEWAY_URI = San.uri(f"mzv://mazevault/NPR/gateway/{NAME}")
HOST, ADDRESS = San.dns("gw-npr-primary.example"), San.ip("192.0.2.7")
KEYS: dict[str, Any] = {
    "P-256": new_tls_key(), "P-384": ec.generate_private_key(ec.SECP384R1()), "P-521": ec.generate_private_key(ec.SECP521R1()),
    "RSA-2048": rsa.generate_private_key(65537, 2048), "RSA-3072": rsa.generate_private_key(65537, 3072),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}  # fmt: skip
USUAL: dict[str, tuple[str, tuple[San, ...]]] = {
    "platform-server": ("P-256", (HOST, ADDRESS)),
    "primary-channel": ("Ed25519", ()),
    "gateway-client": ("P-256", (GATEWAY_URI,)),
    "gateway-server": ("P-384", (HOST, ADDRESS)),
    "agent-client": ("P-256", (San.uri(f"mzv://mazevault/NPR/project/{NAME}/agent/{NAME}"),)),
    "tls-leaf": ("RSA-3072", (HOST,)),
}
EVERY_PROFILE = pytest.mark.parametrize("profile", profiles.PROFILES.values(), ids=profiles.PROFILES)


def issued(profile: SignerProfile, scope: str = "NPR", at: datetime | None = None, **other: Any) -> IssuedCertificate:
    """A certificate as this profile is usually asked for, with some of the wish changed."""
    key, sans = USUAL[profile.name]
    wish = {"common_name": NAME, "sans": sans, "public_key": KEYS[key].public_key(), "now": at or now()}
    return issue(profile, scope, **{**wish, **other})


def read(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def judge(at: datetime | None = None) -> PolicyBuilder:
    """The library's own path validation, trusting our root only."""
    return PolicyBuilder().store(Store([read(authorities.root_certificate())])).time(at or now())


def is_client(certificate: IssuedCertificate, scope: str, at: datetime | None = None) -> None:
    judge(at).build_client_verifier().verify(read(certificate.pem), [read(authorities.chain(scope))])


def test_the_usual_wishes_cover_every_profile() -> None:
    assert set(USUAL) == set(profiles.PROFILES)


class TestChains:
    @pytest.mark.parametrize("scope", ["NPR", "PRO"])
    def test_a_gateway_s_client_certificate_leads_to_our_root(self, scope: str) -> None:
        is_client(issued(profiles.GATEWAY_CLIENT, scope), scope)

    @pytest.mark.parametrize("profile", [profiles.PLATFORM_SERVER, profiles.GATEWAY_SERVER], ids=lambda one: one.name)
    @pytest.mark.parametrize(
        "subject", [x509.DNSName(HOST.value), x509.IPAddress(ipaddress.ip_address(ADDRESS.value))], ids=["name", "address"]
    )
    def test_a_server_certificate_leads_to_our_root_for_its_name(self, profile: SignerProfile, subject: Any) -> None:
        leaf = read(issued(profile).pem)
        chain = judge().build_server_verifier(subject).verify(leaf, [read(authorities.chain("NPR"))])
        assert chain[-1] == read(authorities.root_certificate())

    @pytest.mark.parametrize(("signer", "shown"), [("NPR", "PRO"), ("PRO", "NPR"), ("NPR", "platform")])
    def test_a_leaf_of_one_environment_is_nothing_under_another_s_intermediate(self, signer: str, shown: str) -> None:
        """I13."""
        with pytest.raises(VerificationError):
            is_client(issued(profiles.GATEWAY_CLIENT, signer), shown)

    @pytest.mark.parametrize(("signer", "believed"), [("NPR", True), ("PRO", False)])
    def test_that_is_for_the_signature_and_not_only_for_the_name(self, signer: str, believed: bool) -> None:
        """PRO's key puts NPR's name on a leaf; shown with NPR's real intermediate it is still nothing."""
        row, npr = CertificateAuthority.objects.get(scope=signer), read(authorities.chain("NPR"))
        private = open_sealed(signer, authorities.TABLE, str(row.id), 1, bytes(row.sealed_key or b""))
        leaf = forged(npr.subject, load_der_private_key(private, None), npr)
        verifier = judge().build_client_verifier()
        if believed:
            assert verifier.verify(leaf, [npr]).chain[0] == leaf
            return
        with pytest.raises(VerificationError):
            verifier.verify(leaf, [npr])

    def test_a_client_certificate_is_no_server_certificate_and_the_other_way_round(self) -> None:
        server = judge().build_server_verifier(x509.DNSName(HOST.value))
        with pytest.raises(VerificationError):
            server.verify(read(issued(profiles.GATEWAY_CLIENT).pem), [read(authorities.chain("NPR"))])
        with pytest.raises(VerificationError):
            is_client(issued(profiles.GATEWAY_SERVER), "NPR")

    def test_a_leaf_cannot_issue_for_another(self) -> None:
        holder = read(issued(profiles.GATEWAY_CLIENT).pem)
        leaf = forged(holder.subject, KEYS["P-256"], holder)
        with pytest.raises(VerificationError):
            judge().build_client_verifier().verify(leaf, [holder, read(authorities.chain("NPR"))])

    @pytest.mark.parametrize("scope", ["platform", "NPR", "PRO"])
    def test_an_intermediate_may_sign_leaves_but_no_authority(self, scope: str) -> None:
        middle, root = read(authorities.chain(scope)), read(authorities.root_certificate())
        middle.verify_directly_issued_by(root)
        assert constraints_of(middle) == (True, 0)
        assert constraints_of(root) == (True, 1)

    def test_every_scope_has_its_own_key_and_name(self) -> None:
        all_of_them = [read(row.certificate) for row in CertificateAuthority.objects.all()]
        assert len(all_of_them) == 4
        assert len({spki_fingerprint(one.public_key()) for one in all_of_them}) == 4
        assert len({one.subject.rfc4514_string() for one in all_of_them}) == 4

    def test_the_pin_names_the_root(self) -> None:
        assert authorities.pin() == pin_of(read(authorities.root_certificate()).public_bytes(Encoding.DER))

    def test_setting_up_again_changes_nothing(self) -> None:
        before = list(CertificateAuthority.objects.order_by("scope").values_list("scope", "certificate"))
        succession.ensure_authorities(["NPR", "PRO"])
        assert list(CertificateAuthority.objects.order_by("scope").values_list("scope", "certificate")) == before

    def test_a_new_environment_gets_its_intermediate_beside_the_old_ones(self) -> None:
        root = authorities.root_certificate()
        succession.ensure_authorities(["NPR", "PRO", "TST"])
        assert authorities.root_certificate() == root
        is_client(issued(profiles.GATEWAY_CLIENT, "TST"), "TST")


class TestCellsOfTheProfiles:
    """One test for each column of the signer table, on every row of it."""

    @EVERY_PROFILE
    def test_the_key_is_the_one_that_was_shown(self, profile: SignerProfile) -> None:
        key = KEYS[USUAL[profile.name][0]].public_key()
        certificate = issued(profile)
        assert read(certificate.pem).public_key() == key
        assert certificate.spki == spki_fingerprint(key)

    @EVERY_PROFILE
    def test_the_subject_is_one_common_name(self, profile: SignerProfile) -> None:
        assert read(issued(profile).pem).subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])

    @EVERY_PROFILE
    def test_the_alternative_names_are_exactly_those_of_our_row(self, profile: SignerProfile) -> None:
        found = extensions_of(issued(profile)).get(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
        assert list(found.value if found else []) == [san.general_name() for san in USUAL[profile.name][1]]

    @EVERY_PROFILE
    def test_it_is_no_authority_and_says_so_critically(self, profile: SignerProfile) -> None:
        extension = extensions_of(issued(profile))[ExtensionOID.BASIC_CONSTRAINTS]
        assert (extension.value.ca, extension.value.path_length, extension.critical) == (False, None, True)

    @EVERY_PROFILE
    def test_the_key_signs_and_does_nothing_else(self, profile: SignerProfile) -> None:
        extension = extensions_of(issued(profile))[ExtensionOID.KEY_USAGE]
        names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
                 "key_cert_sign", "crl_sign")  # fmt: skip
        assert extension.critical
        assert [name for name in names if getattr(extension.value, name)] == ["digital_signature"]

    @EVERY_PROFILE
    def test_the_extended_usages_are_exactly_those_of_the_profile(self, profile: SignerProfile) -> None:
        wanted = {
            "platform-server": [ExtendedKeyUsageOID.SERVER_AUTH], "primary-channel": [],
            "gateway-client": [ExtendedKeyUsageOID.CLIENT_AUTH], "gateway-server": [ExtendedKeyUsageOID.SERVER_AUTH],
            "agent-client": [ExtendedKeyUsageOID.CLIENT_AUTH], "tls-leaf": [ExtendedKeyUsageOID.SERVER_AUTH],
        }  # fmt: skip
        found = extensions_of(issued(profile)).get(ExtensionOID.EXTENDED_KEY_USAGE)
        assert list(found.value if found else []) == wanted[profile.name]

    @EVERY_PROFILE
    def test_no_other_extension_is_in_it(self, profile: SignerProfile) -> None:
        always = {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.SUBJECT_KEY_IDENTIFIER,
                  ExtensionOID.AUTHORITY_KEY_IDENTIFIER}  # fmt: skip
        maybe = {ExtensionOID.EXTENDED_KEY_USAGE, ExtensionOID.SUBJECT_ALTERNATIVE_NAME}
        assert always <= set(extensions_of(issued(profile))) <= always | maybe

    @EVERY_PROFILE
    def test_it_names_its_issuer_s_key(self, profile: SignerProfile) -> None:
        issuer = read(authorities.chain("NPR")).extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        found = extensions_of(issued(profile))[ExtensionOID.AUTHORITY_KEY_IDENTIFIER].value
        assert found.key_identifier == issuer.digest

    @pytest.mark.parametrize(
        ("profile", "days"),
        [(profiles.PLATFORM_SERVER, 90), (profiles.PRIMARY_CHANNEL, 365), (profiles.GATEWAY_CLIENT, 90),
         (profiles.GATEWAY_SERVER, 90), (profiles.AGENT_CLIENT, 30), (profiles.TLS_LEAF, 398)],
        ids=lambda value: value.name if isinstance(value, SignerProfile) else None,
    )  # fmt: skip
    def test_it_lives_as_long_as_the_profile_says_from_five_minutes_ago(self, profile: SignerProfile, days: int) -> None:
        moment = (now() + timedelta(days=2)).replace(microsecond=0)
        certificate = issued(profile, at=moment)
        assert certificate.not_before == moment - timedelta(minutes=5)
        assert certificate.not_after == moment + timedelta(days=days)

    def test_it_never_outlives_its_issuer(self) -> None:
        end = read(authorities.chain("NPR")).not_valid_after_utc
        certificate = issued(profiles.GATEWAY_CLIENT, at=end - timedelta(days=1))
        assert certificate.not_after == end
        is_client(certificate, "NPR", at=end - timedelta(hours=1))

    def test_it_never_begins_before_its_issuer(self) -> None:
        begin = read(authorities.chain("NPR")).not_valid_before_utc
        assert issued(profiles.GATEWAY_CLIENT, at=begin + timedelta(minutes=1)).not_before == begin

    def test_serial_numbers_are_long_and_never_come_twice(self) -> None:
        serials = {issued(profiles.GATEWAY_CLIENT).serial for _ in range(20)}
        assert len(serials) == 20
        assert all(120 <= int(serial, 16).bit_length() <= 127 and len(serial) == 32 for serial in serials)

    def test_the_same_facts_give_the_same_certificate_but_for_serial_and_signature(self) -> None:
        """I12."""
        moment = now().replace(microsecond=0)
        one, two = (read(issued(profiles.GATEWAY_CLIENT, at=moment).pem) for _ in range(2))
        fields = ("subject", "issuer", "not_valid_before_utc", "not_valid_after_utc")
        assert [getattr(one, name) for name in fields] == [getattr(two, name) for name in fields]
        assert list(one.extensions) == list(two.extensions)
        assert one.serial_number != two.serial_number

    def test_what_is_told_about_a_certificate_is_what_is_in_it(self) -> None:
        told = issued(profiles.GATEWAY_CLIENT)
        found = read(told.pem)
        assert (int(told.serial, 16), told.der) == (found.serial_number, found.public_bytes(Encoding.DER))
        assert told.fingerprint == found.fingerprint(hashes.SHA256()).hex()
        assert (told.not_before, told.not_after) == (found.not_valid_before_utc, found.not_valid_after_utc)


class TestRefusals:
    @pytest.mark.parametrize(
        ("profile", "wish", "rule"),
        [
            (profiles.GATEWAY_CLIENT, {"sans": ()}, "1 to 1 alternative names"),
            (profiles.GATEWAY_CLIENT, {"sans": (GATEWAY_URI, GATEWAY_URI)}, "1 to 1 alternative names"),
            (profiles.GATEWAY_CLIENT, {"sans": (HOST,)}, "kind dns is not allowed"),
            (profiles.GATEWAY_CLIENT, {"sans": (ADDRESS,)}, "kind ip is not allowed"),
            (profiles.GATEWAY_CLIENT, {"sans": (San.uri("spiffe://x/NPR/gateway"),)}, "must start with mzv://"),
            (profiles.GATEWAY_SERVER, {"sans": (GATEWAY_URI,)}, "kind uri is not allowed"),
            (profiles.GATEWAY_SERVER, {"sans": ()}, "1 to 20 alternative names"),
            (profiles.GATEWAY_SERVER, {"sans": tuple(San.dns(f"h{n}.example") for n in range(21))}, "1 to 20"),
            (profiles.GATEWAY_SERVER, {"sans": (HOST, San.dns("*.example"))}, "wildcard"),
            (profiles.TLS_LEAF, {"sans": (San.dns("*.example"),)}, "wildcard"),
            (profiles.PRIMARY_CHANNEL, {"sans": (HOST,)}, "0 to 0 alternative names"),
            (profiles.GATEWAY_CLIENT, {"public_key": KEYS["RSA-3072"].public_key()}, "RSA-3072 is not allowed"),
            (profiles.GATEWAY_CLIENT, {"public_key": KEYS["P-521"].public_key()}, "secp521r1 is not allowed"),
            (profiles.GATEWAY_CLIENT, {"public_key": KEYS["Ed25519"].public_key()}, "Ed25519 is not allowed"),
            (profiles.TLS_LEAF, {"public_key": KEYS["RSA-2048"].public_key()}, "RSA-2048 is not allowed"),
            (profiles.PRIMARY_CHANNEL, {"public_key": KEYS["P-256"].public_key()}, "P-256 is not allowed"),
        ],
        ids=lambda value: value.name if isinstance(value, SignerProfile) else value if isinstance(value, str) else "",
    )
    def test_what_does_not_fit_the_profile_is_not_signed(self, profile: SignerProfile, wish: dict[str, Any], rule: str) -> None:
        with pytest.raises(IssuingRefused, match=rule) as caught:
            issued(profile, **wish)
        assert str(caught.value).startswith(f"{profile.name}: ")

    def test_a_scope_without_an_authority_signs_nothing(self) -> None:
        with pytest.raises(IssuingRefused, match="no certificate authority for TST"):
            issued(profiles.GATEWAY_CLIENT, "TST")

    def test_a_retired_authority_signs_nothing(self) -> None:
        CertificateAuthority.objects.filter(scope="NPR").update(standing="retired")
        with pytest.raises(IssuingRefused):
            issued(profiles.GATEWAY_CLIENT, "NPR")

    def test_an_authority_s_key_moved_to_another_environment_s_row_does_not_sign(self) -> None:
        """I13: a writer of the database gives PRO's intermediate NPR's key."""
        npr = CertificateAuthority.objects.get(scope="NPR")
        CertificateAuthority.objects.filter(scope="PRO").update(sealed_key=npr.sealed_key)
        with pytest.raises(SealBroken):
            issued(profiles.GATEWAY_CLIENT, "PRO")


class TestKeysAtRest:
    @pytest.mark.parametrize(("scope", "sealed_under"), [("root", "platform"), ("platform", "platform"), ("NPR", "NPR"),
                                                         ("PRO", "PRO")])  # fmt: skip
    def test_no_form_of_a_private_key_is_in_its_row(self, scope: str, sealed_under: str) -> None:
        row = CertificateAuthority.objects.get(scope=scope)
        der = open_sealed(sealed_under, authorities.TABLE, str(row.id), 1, bytes(row.sealed_key or b""))
        key = load_der_private_key(der, None)
        assert key.public_key() == read(row.certificate).public_key()
        number = key.private_numbers().private_value
        with connection.cursor() as cursor:
            cursor.execute("SELECT row_to_json(a)::text, sealed_key FROM vault_certificateauthority a WHERE id = %s", [row.id])
            text, sealed = cursor.fetchone()
        raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
        assert raw not in bytes(sealed) and der not in bytes(sealed)
        assert raw.hex() not in text and "PRIVATE KEY" not in text

    def test_the_keys_of_an_environment_do_not_open_under_another_s(self) -> None:
        row = CertificateAuthority.objects.get(scope="NPR")
        with pytest.raises(SealBroken):
            open_sealed("PRO", authorities.TABLE, str(row.id), 1, bytes(row.sealed_key or b""))


class TestRootKey:
    def test_is_exported_for_the_safe_under_a_passphrase(self) -> None:
        exported = authorities.export_root_key(b"correct horse battery")
        key = load_pem_private_key(exported, b"correct horse battery")
        assert key.public_key() == read(authorities.root_certificate()).public_key()
        with pytest.raises(ValueError):
            load_pem_private_key(exported, b"incorrect horse battery")

    @pytest.mark.parametrize("passphrase", [b"", b"elevenchars"])
    def test_is_not_exported_under_a_short_passphrase(self, passphrase: bytes) -> None:
        with pytest.raises(ValueError, match="at least 12"):
            authorities.export_root_key(passphrase)

    def test_once_removed_leaves_intermediates_that_go_on_issuing(self) -> None:
        authorities.remove_root_key()
        is_client(issued(profiles.GATEWAY_CLIENT), "NPR")

    def test_once_removed_makes_no_new_intermediate_and_cannot_be_exported(self, caplog: pytest.LogCaptureFixture) -> None:
        authorities.remove_root_key()
        with caplog.at_level("ERROR"):
            succession.ensure_authorities(["TST"])
        assert authorities.current("TST") is None and "keys rotate --authority TST --root-key FILE" in caplog.text
        with pytest.raises(RootKeyAbsent, match="root authority was removed"):
            succession.create("TST", Standing.CURRENT, now())
        with pytest.raises(RootKeyAbsent):
            authorities.export_root_key(b"correct horse battery")


def extensions_of(certificate: IssuedCertificate) -> dict[x509.ObjectIdentifier, Any]:
    return {extension.oid: extension for extension in read(certificate.pem).extensions}


def constraints_of(certificate: x509.Certificate) -> tuple[bool, int | None]:
    value = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    return value.ca, value.path_length


def forged(issuer: x509.Name, signer: Any, pretended: x509.Certificate) -> x509.Certificate:
    """A client certificate that says it comes from `pretended`, signed by somebody's key."""
    leaf = read(issued(profiles.GATEWAY_CLIENT).pem)
    builder = (
        x509.CertificateBuilder().subject_name(leaf.subject).issuer_name(issuer).public_key(leaf.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(leaf.not_valid_before_utc).not_valid_after(leaf.not_valid_after_utc)
    )  # fmt: skip
    for extension in leaf.extensions:
        value = extension.value
        if isinstance(value, x509.AuthorityKeyIdentifier):
            subject_key = pretended.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            value = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key)
        builder = builder.add_extension(value, extension.critical)
    return builder.sign(signer, hashes.SHA256())
