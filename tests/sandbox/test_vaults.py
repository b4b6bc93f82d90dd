"""Key Vault at the sandbox, with the unmodified clients for secrets, certificates and keys."""

from __future__ import annotations

import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.keyvault.certificates import CertificateClient, CertificatePolicy
from azure.keyvault.keys import KeyClient
from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm
from azure.keyvault.secrets import SecretClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

from sandbox.azure.server import Sandbox, running
from tests.fakes.browser import trusting
from tests.sandbox.conftest import Token, vault_url

pytestmark = pytest.mark.usefixtures("local_names")
Client = Callable[..., Any]
Identities = Callable[[str], Token]
PEM_POLICY = CertificatePolicy(content_type="application/x-pem-file")
NPR, PRO, GATEWAY = "kv-mazevault-npr", "kv-mazevault-pro", "kv-mazevault-gw-npr"


@pytest.fixture
def client(sandbox: Sandbox) -> Client:
    """An SDK client of some class for a vault; the challenge's resource is checked as in Azure."""

    def make(credential: Token, vault: str = NPR, kind: Any = SecretClient, **more: Any) -> Any:
        settings = {"connection_verify": str(sandbox.ca_file), "retry_total": 0, **more}
        return kind(vault_url(sandbox, vault), credential, **settings)

    return make


@pytest.fixture
def secrets(client: Client, as_identity: Identities) -> SecretClient:
    return client(as_identity("npr"))


def inner_code(caught: pytest.ExceptionInfo[HttpResponseError]) -> tuple[Any, ...]:
    error = caught.value.error
    return caught.value.status_code, error.code, error.innererror["code"] if error.innererror else ""


def test_a_secret_has_versions_attributes_and_tags(secrets: SecretClient) -> None:
    first = secrets.set_secret("db-password", "one", tags={"epoch": "1"}, content_type="text/plain")
    second = secrets.set_secret("db-password", "two", enabled=True, expires_on=datetime(2030, 1, 1, tzinfo=UTC))
    assert (secrets.get_secret("db-password").value, secrets.get_secret("db-password", first.properties.version).value) == (
        "two",
        "one",
    )
    assert second.properties.expires_on == datetime(2030, 1, 1, tzinfo=UTC) and second.properties.recoverable_days == 90
    versions = {one.version: one.tags for one in secrets.list_properties_of_secret_versions("db-password")}
    assert versions == {first.properties.version: {"epoch": "1"}, second.properties.version: None}
    changed = secrets.update_secret_properties("db-password", tags={"owner": "rule"}, content_type="x")
    assert (changed.tags, changed.content_type, changed.version) == ({"owner": "rule"}, "x", second.properties.version)


def test_names_ignore_case_and_keep_the_first_spelling(secrets: SecretClient) -> None:
    secrets.set_secret("Db-Password", "one")
    secrets.set_secret("DB-PASSWORD", "two")
    assert [one.name for one in secrets.list_properties_of_secrets()] == ["Db-Password"]
    assert secrets.get_secret("db-password").value == "two"


def test_lists_come_in_pages_of_25_without_values(sandbox: Sandbox, secrets: SecretClient, control: httpx.Client) -> None:
    for number in range(60):
        secrets.set_secret(f"s-{number:02}", "value")
    before = len(sandbox.world.seen)
    assert [one.name for one in secrets.list_properties_of_secrets()] == [f"s-{number:02}" for number in range(60)]
    assert len(list(sandbox.world.seen)[before:]) == 3
    assert len(list(secrets.list_properties_of_secrets(max_page_size=7))) == 60
    with pytest.raises(HttpResponseError, match="maxresults"):
        list(secrets.list_properties_of_secrets(max_page_size=26))


def test_a_deleted_name_is_taken_until_it_is_recovered_or_purged(secrets: SecretClient) -> None:
    secrets.set_secret("gone", "one")
    deleted = secrets.begin_delete_secret("gone").result()
    assert deleted.scheduled_purge_date - deleted.deleted_date == timedelta(days=90)
    with pytest.raises(ResourceExistsError) as caught:
        secrets.set_secret("gone", "two")
    assert inner_code(caught) == (409, "Conflict", "ObjectIsDeletedButRecoverable")
    with pytest.raises(ResourceNotFoundError):
        secrets.get_secret("gone")
    assert [one.name for one in secrets.list_deleted_secrets()] == ["gone"]
    secrets.begin_recover_deleted_secret("gone").wait()
    assert secrets.get_secret("gone").value == "one"
    secrets.begin_delete_secret("gone").wait()
    secrets.purge_deleted_secret("gone")
    assert list(secrets.list_deleted_secrets()) == []
    secrets.set_secret("gone", "three")
    assert len(list(secrets.list_properties_of_secret_versions("gone"))) == 1


def test_deleting_and_recovering_take_their_time_as_in_azure(secrets: SecretClient, control: httpx.Client) -> None:
    secrets.set_secret("gone", "one")
    control.post("/faults", json={"vault_settle_seconds": 3})
    for begin, code, look in (
        (secrets.begin_delete_secret, "ObjectIsBeingDeleted", secrets.get_deleted_secret),
        (secrets.begin_recover_deleted_secret, "ObjectIsBeingRecovered", secrets.get_secret),
    ):
        poller = begin("gone", _polling_interval=0.1)
        with pytest.raises(ResourceExistsError) as caught:
            secrets.set_secret("gone", "two")
        assert inner_code(caught) == (409, "Conflict", code)
        assert list(secrets.list_properties_of_secrets()) == list(secrets.list_deleted_secrets()) == []
        with pytest.raises(ResourceNotFoundError):
            look("gone")
        poller.wait()
        assert look("gone").name == "gone"


def test_the_production_vault_is_protected_from_purge(client: Client, as_identity: Identities) -> None:
    production = client(as_identity("pro"), PRO)
    production.set_secret("kept", "x")
    assert production.begin_delete_secret("kept").result().properties.recovery_level == "Recoverable"
    with pytest.raises(HttpResponseError, match="purge protection"):
        production.purge_deleted_secret("kept")


@pytest.mark.parametrize(("name", "value", "tags"), [
    ("under_score", "x", {}), ("a" * 128, "x", {}), ("big", "x" * 25_601, {}),
    ("many", "x", {f"t{number}": "x" for number in range(16)}), ("long", "x", {"t": "x" * 257}),
])  # fmt: skip
def test_what_key_vault_does_not_take_is_a_bad_parameter(
    secrets: SecretClient, name: str, value: str, tags: dict[str, str]
) -> None:
    with pytest.raises(HttpResponseError) as caught:
        secrets.set_secret(name, value, tags=tags)
    assert (caught.value.status_code, caught.value.error.code) == (400, "BadParameter")
    assert list(secrets.list_properties_of_secrets()) == []


def test_a_disabled_secret_shows_itself_but_not_its_value(secrets: SecretClient) -> None:
    secrets.set_secret("off", "x", enabled=False)
    with pytest.raises(HttpResponseError) as caught:
        secrets.get_secret("off")
    assert inner_code(caught) == (403, "Forbidden", "SecretDisabled")
    assert [one.enabled for one in secrets.list_properties_of_secrets()] == [False]


def test_each_identity_has_its_own_environment_and_no_other(client: Client, as_identity: Identities) -> None:
    for code, own, other in (("npr", NPR, PRO), ("pro", PRO, NPR)):
        client(as_identity(code), own).set_secret("mine", "x")
        for attempt in (
            lambda there: there.get_secret("mine"),
            lambda there: list(there.list_properties_of_secrets()),
            lambda there: there.set_secret("mine", "stolen"),
            lambda there: there.begin_delete_secret("mine"),
        ):
            with pytest.raises(HttpResponseError) as caught:
                attempt(client(as_identity(code), other))
            assert inner_code(caught) == (403, "Forbidden", "ForbiddenByRbac")
            assert (
                "Action: 'Microsoft.KeyVault/vaults/secrets/" in caught.value.message
                and f"Vault: {other};" in caught.value.message
            )


CAN = {  # list, get, set in the vaults of NPR and PRO
    "ada.admin": (True, True, True, True, True, True),
    "paul.project": (True, True, False, False, False, False),
    "olga.overage": (True, True, False, True, False, False),
    "stella.stranger": (False, False, False, False, False, False),
}


@pytest.mark.parametrize("user", CAN)
def test_users_may_do_what_their_roles_and_their_groups_roles_say(
    client: Client, as_identity: Identities, as_user: Identities, user: str
) -> None:
    for code, vault in (("npr", NPR), ("pro", PRO)):
        client(as_identity(code), vault).set_secret("known", "x")
    credential = as_user(user)
    found = []
    for vault in (NPR, PRO):
        there = client(credential, vault)
        for attempt in (
            lambda c: list(c.list_properties_of_secrets()),
            lambda c: c.get_secret("known"),
            lambda c: c.set_secret("n", "x"),
        ):
            try:
                attempt(there)
                found.append(True)
            except HttpResponseError as error:
                assert error.error.innererror["code"] == "ForbiddenByRbac"
                found.append(False)
    assert tuple(found) == CAN[user]


def test_a_role_given_or_taken_counts_at_once(client: Client, as_user: Identities, control: httpx.Client) -> None:
    mine = client(as_user("stella.stranger"))
    wish = {"principal": "stella.stranger@bank.example", "role": "Key Vault Secrets Officer", "vault": NPR}
    given = control.post("/role-assignments", json=wish)
    assert given.status_code == 201 and mine.set_secret("mine", "x").value == "x"
    assert control.request("DELETE", f"/role-assignments/{given.json()['name']}", json={}).status_code == 204
    with pytest.raises(HttpResponseError, match="not authorized"):
        mine.get_secret("mine")
    for field in ("principal", "role", "vault"):
        answer = control.post("/role-assignments", json={**wish, field: "nothing"})
        assert answer.status_code == 404 and answer.json()["error"]["message"].startswith(field)
    assert control.request("DELETE", "/role-assignments/nothing", json={}).status_code == 404


def test_the_network_is_checked_before_the_role(client: Client, as_identity: Identities, control: httpx.Client) -> None:
    for fault, code in (("vault_closed", "ForbiddenByConnection"), ("vault_firewalled", "ForbiddenByFirewall"),
                        ("vault_forbidden", "ForbiddenByRbac")):  # fmt: skip
        control.post("/faults", json={fault: [NPR]})
        with pytest.raises(HttpResponseError) as caught:
            client(as_identity("npr")).get_secret("x")
        assert inner_code(caught) == (403, "Forbidden", code)
        with pytest.raises(ResourceNotFoundError):
            client(as_identity("pro"), PRO).get_secret("x")
        control.post("/faults", json={fault: []})
    assert control.post("/faults", json={"vault_closed": True}).status_code == 400


def test_throttling_says_when_to_come_back_and_the_sdk_obeys(
    client: Client, as_identity: Identities, control: httpx.Client
) -> None:
    credential = as_identity("npr")
    client(credential).set_secret("x", "y")
    control.post("/faults", json={"vault_throttled": 1, "retry_after_seconds": 3})
    with pytest.raises(HttpResponseError) as caught:
        client(credential).get_secret("x")
    assert (caught.value.status_code, caught.value.response.headers["Retry-After"]) == (429, "3")
    control.post("/faults", json={"vault_throttled": 1, "vault_unavailable": 0, "retry_after_seconds": 0})
    assert client(credential, retry_total=2).get_secret("x").value == "y"
    control.post("/faults", json={"vault_unavailable": 1})
    with pytest.raises(HttpResponseError, match="unavailable"):
        client(credential).get_secret("x")


def test_slow_answers_run_into_the_clients_deadline(client: Client, as_identity: Identities, control: httpx.Client) -> None:
    control.post("/faults", json={"vault_slow_seconds": 1.5})
    with pytest.raises((ServiceResponseError, ServiceRequestError)):
        client(as_identity("npr")).get_secret("x", read_timeout=0.3)


def test_a_lost_reply_leaves_the_write_done(sandbox: Sandbox, secrets: SecretClient, control: httpx.Client) -> None:
    secrets.set_secret("warm", "up")
    control.post("/faults", json={"vault_replies_lost": 1})
    with pytest.raises((ServiceResponseError, ServiceRequestError)):
        secrets.set_secret("lost", "x")
    assert secrets.get_secret("lost").value == "x"
    assert len([one for one in sandbox.world.vaults.journal if one.name == "lost"]) == 1


def test_the_challenge_names_tenant_and_resource_and_tokens_are_checked(
    sandbox: Sandbox, application: Callable[..., Any], control: httpx.Client
) -> None:
    url = f"{vault_url(sandbox, NPR)}/secrets?api-version=7.6"
    with httpx.Client(verify=trusting(sandbox.ca_file)) as plain:
        empty = plain.get(url)
        assert empty.status_code == 401 and "AKV10000" in empty.text
        tenant = sandbox.world.directory.tenant_id
        wanted = f'Bearer authorization="{sandbox.base_url}/{tenant}", resource="https://{sandbox.world.vault_domain}"'
        assert empty.headers["WWW-Authenticate"] == wanted

        def answer(scope: str, tail: str = "") -> httpx.Response:
            token = application().acquire_token_for_client([f"{scope}/.default"])["access_token"]
            return plain.get(url, headers={"Authorization": f"Bearer {token}{tail}"})

        assert answer("https://graph.microsoft.com").status_code == 401
        assert answer("https://vault.azure.net").status_code == answer(f"https://{sandbox.world.vault_domain}").status_code == 403
        assert answer("https://vault.azure.net", "AAAA").status_code == 401
        old = application().acquire_token_for_client(["https://vault.azure.net/.default"])["access_token"]
        control.post("/faults", json={"clock_offset_seconds": 3601})
        assert plain.get(url, headers={"Authorization": f"Bearer {old}"}).status_code == 401
        assert plain.get(f"{vault_url(sandbox, 'kv-nobody')}/secrets?api-version=7.6").status_code == 404


def test_a_vaults_address_serves_nothing_but_the_vault(sandbox: Sandbox) -> None:
    with httpx.Client(verify=trusting(sandbox.ca_file)) as plain:
        for path in ("/_control/faults", "/v1.0/me", "/metadata/identity/oauth2/token"):
            assert plain.get(vault_url(sandbox, NPR) + path).status_code == 404
        assert plain.get(f"{sandbox.base_url}/secrets").status_code == 404


def test_the_log_of_writes_says_who_wrote_what_and_no_value(
    client: Client, as_identity: Identities, as_user: Identities, control: httpx.Client
) -> None:
    client(as_identity("npr")).set_secret("a", "value-1", tags={"epoch": "7"})
    client(as_user("ada.admin"), PRO).set_secret("b", "value-2")
    with pytest.raises(HttpResponseError):
        client(as_user("paul.project")).set_secret("c", "value-3")
    client(as_identity("npr")).begin_delete_secret("a").wait()
    answer = control.get("/vault-writes")
    rows = answer.json()["value"]
    assert [(one["sequence"], one["vault"], one["action"], one["name"], one["caller_name"], one["tags"]) for one in rows] == [
        (1, NPR, "set", "a", "mi-mazevault-npr", {"epoch": "7"}),
        (2, PRO, "set", "b", "ada.admin@bank.example", {}),
        (3, NPR, "delete", "a", "mi-mazevault-npr", {"epoch": "7"}),
    ]
    assert "value-" not in answer.text and all(one["at"] and one["version"] and one["caller"] for one in rows)
    assert [one["sequence"] for one in control.get("/vault-writes?after=2").json()["value"]] == [3]
    assert control.get("/vault-writes?after=x").status_code == 400
    assert {one["name"] for one in control.get("/vaults").json()["value"]} >= {NPR, PRO, GATEWAY}


def test_vaults_survive_a_restart_and_a_line_cut_off_by_a_kill(tmp_path: Path, as_identity: Identities) -> None:
    def there(sandbox: Sandbox) -> SecretClient:
        url = f"{sandbox.plain_url}/hosts/npr/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net"
        credential = Token(lambda _: httpx.get(url, headers={"Metadata": "true"}).json())
        return SecretClient(vault_url(sandbox, NPR), credential, connection_verify=str(sandbox.ca_file))

    with running(tmp_path) as first:
        there(first).set_secret("kept", "one")
        there(first).set_secret("kept", "two")
        there(first).set_secret("gone", "x")
        there(first).begin_delete_secret("gone").wait()
    journal = tmp_path / "vault-journal.jsonl"
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    with journal.open("a") as stream:
        stream.write('{"sequence": 5, "at"')
    with running(tmp_path) as second:
        secrets = there(second)
        assert secrets.get_secret("kept").value == "two"
        assert len(list(secrets.list_properties_of_secret_versions("kept"))) == 2
        assert [one.name for one in secrets.list_deleted_secrets()] == ["gone"]
        secrets.set_secret("new", "x")
        assert [one.sequence for one in second.world.vaults.journal] == [1, 2, 3, 4, 5]
    with running(tmp_path) as third:
        assert there(third).get_secret("new").value == "x"
        third.world.reset()
        assert third.world.vaults.journal == [] and not journal.exists()


def certificate(common_name: str = "app.bank.example") -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    start = datetime.now(UTC).replace(microsecond=0)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = (
        builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(start + timedelta(days=30))
    )
    return builder.sign(key, hashes.SHA256()), key


def pem_of(pair: tuple[x509.Certificate, rsa.RSAPrivateKey]) -> bytes:
    pem = serialization.Encoding.PEM
    private = pair[1].private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pair[0].public_bytes(pem) + private


def test_an_imported_certificate_is_also_a_managed_key_and_secret(client: Client, as_identity: Identities) -> None:
    certificates = client(as_identity("npr"), kind=CertificateClient)
    pair = certificate()
    made = certificates.import_certificate("tls", pem_of(pair), policy=PEM_POLICY,
                                           tags={"owner": "mazevault"})  # fmt: skip
    assert made.cer == pair[0].public_bytes(serialization.Encoding.DER)
    assert made.properties.expires_on == pair[0].not_valid_after_utc and made.properties.tags == {"owner": "mazevault"}
    assert certificates.get_certificate("tls").policy.subject == "CN=app.bank.example"
    second = certificate()
    pfx = pkcs12.serialize_key_and_certificates(b"tls", second[1], second[0], None, serialization.BestAvailableEncryption(b"pw"))
    certificates.import_certificate("tls", pfx, password="pw")
    assert len(list(certificates.list_properties_of_certificate_versions("tls"))) == 2
    old = certificates.get_certificate_version("tls", made.properties.version)
    assert old.properties.x509_thumbprint == pair[0].fingerprint(hashes.SHA1())  # noqa: S303 - Azure's thumbprint is SHA-1
    secrets = client(as_identity("npr"))
    row = next(iter(secrets.list_properties_of_secrets()))
    assert (row.name, row.content_type, row.key_id is None) == ("tls", "application/x-pkcs12", True)
    assert secrets.get_secret("tls", made.properties.version).value.encode() == pem_of(pair)
    for attempt in (lambda: secrets.set_secret("tls", "x"), lambda: secrets.begin_delete_secret("tls")):
        with pytest.raises(HttpResponseError):
            attempt()


def test_a_deleted_certificate_takes_its_secret_along_and_brings_it_back(client: Client, as_identity: Identities) -> None:
    certificates, secrets = client(as_identity("npr"), kind=CertificateClient), client(as_identity("npr"))
    certificates.import_certificate("tls", pem_of(certificate()), policy=PEM_POLICY)
    certificates.begin_delete_certificate("tls").wait()
    assert [one.name for one in certificates.list_deleted_certificates()] == ["tls"]
    assert list(certificates.list_properties_of_certificates()) == list(secrets.list_properties_of_secrets()) == []
    with pytest.raises(ResourceExistsError):
        certificates.import_certificate("tls", pem_of(certificate()), policy=PEM_POLICY)
    certificates.begin_recover_deleted_certificate("tls").wait()
    assert secrets.get_secret("tls").properties.content_type == "application/x-pem-file"
    certificates.begin_delete_certificate("tls").wait()
    certificates.purge_deleted_certificate("tls")
    secrets.set_secret("tls", "free again")


@pytest.mark.parametrize("what", ["no key", "other key", "wrong password", "garbage"])
def test_a_certificate_that_cannot_be_used_is_refused(client: Client, as_identity: Identities, what: str) -> None:
    pair = certificate()
    pfx = pkcs12.serialize_key_and_certificates(b"x", pair[1], pair[0], None, serialization.BestAvailableEncryption(b"pw"))
    content = {
        "no key": pair[0].public_bytes(serialization.Encoding.PEM),
        "other key": pem_of((pair[0], certificate()[1])),
        "wrong password": pfx,
        "garbage": b"garbage",
    }[what]
    policy = PEM_POLICY if content.startswith(b"-----") else None
    with pytest.raises(HttpResponseError) as caught:
        client(as_identity("npr"), kind=CertificateClient).import_certificate("x", content, password="not pw", policy=policy)
    assert caught.value.status_code == 400


def test_a_key_wraps_and_unwraps_and_only_those_who_may(
    sandbox: Sandbox, client: Client, as_identity: Identities, as_user: Identities
) -> None:
    keys = client(as_user("ada.admin"), GATEWAY, KeyClient)
    made = keys.create_rsa_key("master", size=2048)
    first = made.id
    master = b"k" * 32

    def crypto(credential: Token, key: str) -> CryptographyClient:
        return CryptographyClient(key, credential, connection_verify=str(sandbox.ca_file), retry_total=0)

    for algorithm in (KeyWrapAlgorithm.rsa_oaep_256, KeyWrapAlgorithm.rsa_oaep):
        wrapped = crypto(as_identity("npr"), first).wrap_key(algorithm, master)
        assert wrapped.key_id == first and master not in wrapped.encrypted_key
        assert crypto(as_identity("npr"), first).unwrap_key(algorithm, wrapped.encrypted_key).key == master
    newer = keys.create_rsa_key("master").id
    assert newer != first and len(list(keys.list_properties_of_key_versions("master"))) == 2
    assert crypto(as_identity("npr"), first).unwrap_key(KeyWrapAlgorithm.rsa_oaep, wrapped.encrypted_key).key == master
    for credential in (as_identity("pro"), as_user("paul.project")):
        with pytest.raises(HttpResponseError) as caught:
            crypto(credential, first).unwrap_key(KeyWrapAlgorithm.rsa_oaep, wrapped.encrypted_key)
        assert caught.value.status_code == 403
    with pytest.raises(HttpResponseError, match="not authorized"):
        client(as_identity("npr"), GATEWAY, KeyClient).create_rsa_key("own")
    keys.begin_delete_key("master").wait()
    assert [one.name for one in keys.list_deleted_keys()] == ["master"]


def test_a_disabled_key_unwraps_nothing_and_an_ec_key_never_does(sandbox: Sandbox, client: Client, as_user: Identities) -> None:
    credential = as_user("ada.admin")
    keys = client(credential, GATEWAY, KeyClient)
    made = keys.create_rsa_key("master")
    keys.update_key_properties("master", enabled=False)
    url = f"{vault_url(sandbox, GATEWAY)}/keys/master/{made.properties.version}/unwrapkey?api-version=7.6"
    curve = keys.create_ec_key("curve", curve="P-384")
    assert (curve.key.crv, len(curve.key.x)) == ("P-384", 48)
    token = credential.get_token("https://vault.azure.net/.default").token
    with httpx.Client(verify=trusting(sandbox.ca_file), headers={"Authorization": f"Bearer {token}"}) as plain:
        body = {"alg": "RSA-OAEP", "value": "AAAA"}
        assert plain.post(url, json=body).json()["error"]["innererror"]["code"] == "KeyDisabled"
        assert (
            plain.post(
                url.replace("master", "curve").replace(made.properties.version, curve.properties.version), json=body
            ).status_code
            == 403
        )
        keys.update_key_properties("master", enabled=True)
        assert plain.post(url, json=body).status_code == plain.post(url, json={**body, "alg": "A256KW"}).status_code == 400


def test_no_token_at_all_is_an_authentication_error(client: Client) -> None:
    class Nobody:
        def get_token(self, *_: str, **__: Any) -> Any:
            raise ClientAuthenticationError("no")

    with pytest.raises(ClientAuthenticationError):
        client(Nobody()).get_secret("x")
