"""Certificates of a vault. As in Azure, one that is imported also appears as a managed key and a managed secret of its name."""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12

from sandbox.azure import vault_keys, vault_objects
from sandbox.azure.vault_api import (
    Call,
    admitted,
    attributes_of,
    bad_parameter,
    found_version,
    new_version,
    refuse_taken_name,
    write,
    written,
)
from sandbox.azure.vaults import Item, Version
from sandbox.azure.web import Answer, Request, Route, json_answer
from sandbox.azure.world import World

PEM, PKCS12 = "application/x-pem-file", "application/x-pkcs12"
Pair = tuple[x509.Certificate, vault_keys.PrivateKey]


def import_one(world: World, request: Request) -> Answer:
    """A certificate with its private key: a PFX, or PEM if the policy says so, in base64; PEM may also stand there as it is."""
    with world.lock:
        call = admitted(world, request, "certificates/import/action")
        name, body = request.parts["name"], call.body()
        for kind in ("certificates", "secrets", "keys"):
            refuse_taken_name(call, kind, name)
        kind = _content_type(body)
        text = _text(str(body.get("value", "")), kind)
        certificate, key = _pair(text, str(body.get("pwd") or ""), kind)
        item = call.vault.item("certificates", name) or Item("certificates", name)
        version = new_version(call, _with_dates(body, certificate), _data(certificate, key, kind))
        _record(call, item, version, text, key, kind)
        return written(call, _bundle(call, item, version))


def get(world: World, request: Request) -> Answer:
    with world.lock:
        call = admitted(world, request, "certificates/read")
        return json_answer(_bundle(call, *found_version(call, "certificates")))


def policy(world: World, request: Request) -> Answer:
    with world.lock:
        call = admitted(world, request, "certificates/read")
        item, version = found_version(call, "certificates")
        return json_answer(_policy(call, item, version))


def _bundle(call: Call, item: Item, version: Version) -> dict[str, Any]:
    shown = {
        "id": f"{call.base}/certificates/{item.name}/{version.id}",
        "kid": f"{call.base}/keys/{item.name}/{version.id}",
        "sid": f"{call.base}/secrets/{item.name}/{version.id}",
        "x5t": version.data["x5t"],
        "cer": version.data["cer"],
        "attributes": attributes_of(call, version),
        "policy": _policy(call, item, version),
    }
    return {**shown, "tags": dict(version.tags)} if version.tags else shown


ROUTES = (
    *vault_objects.routes("certificates", vault_objects.Actions(
        read="certificates/read", update="certificates/update/action", delete="certificates/delete",
        recover="certificates/recover/action", purge="certificates/purge/action"), _bundle),
    Route("POST", "/certificates/{name}/import", import_one),
    Route("GET", "/certificates/{name}/policy", policy),
    Route("GET", "/certificates/{name}", get),
    Route("GET", "/certificates/{name}/{version}", get),
)  # fmt: skip


def _record(call: Call, item: Item, version: Version, text: str, key: vault_keys.PrivateKey, kind: str) -> None:
    """The certificate, its key and its secret, all with the same version id."""
    write(call, "import", "certificates", item.name, version)
    managed = replace(version, nbf=None, exp=None, managed=True)
    write(call, "import", "keys", item.name, replace(managed, data=vault_keys.key_data(key)))
    write(call, "import", "secrets", item.name, replace(managed, content_type=kind, data={"value": text}))


def _policy(call: Call, item: Item, version: Version) -> dict[str, Any]:
    return {
        "id": f"{call.base}/certificates/{item.name}/policy",
        "key_props": {"exportable": True, "kty": version.data["kty"], "key_size": version.data["size"], "reuse_key": False},
        "secret_props": {"contentType": version.data["kind"]},
        "x509_props": {"subject": version.data["subject"], "validity_months": 12},
        "issuer": {"name": "Unknown"},
        "attributes": {"enabled": True, "created": version.created, "updated": version.updated},
    }


def _content_type(body: dict[str, Any]) -> str:
    wanted = ((body.get("policy") or {}).get("secret_props") or {}).get("contentType")
    return str(wanted or (PEM if "-----BEGIN" in str(body.get("value", "")) else PKCS12))


def _text(value: str, kind: str) -> str:
    """What the secret of the same name will hold: the PEM itself, or the PFX in base64."""
    if kind != PEM or value.startswith("-----BEGIN"):
        return value
    try:
        return base64.b64decode(value, validate=True).decode()
    except ValueError as error:
        raise bad_parameter("The specified PEM X.509 certificate content is in an unexpected format.") from error


def _pair(text: str, password: str, kind: str) -> Pair:
    certificate, key = _from_pem(text) if kind == PEM else _from_pfx(text, password)
    if certificate is None or not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise bad_parameter("The specified content has no certificate with an RSA or EC private key.")
    if key.public_key() != certificate.public_key():
        raise bad_parameter("The private key does not belong to the certificate.")
    return certificate, key


def _from_pem(text: str) -> tuple[x509.Certificate | None, object]:
    try:
        return x509.load_pem_x509_certificate(text.encode()), serialization.load_pem_private_key(text.encode(), None)
    except (ValueError, TypeError) as error:
        raise bad_parameter("The specified PEM X.509 certificate content is in an unexpected format.") from error


def _from_pfx(text: str, password: str) -> tuple[x509.Certificate | None, object]:
    try:
        key, certificate, _ = pkcs12.load_key_and_certificates(base64.b64decode(text, validate=True), password.encode() or None)
    except (binascii.Error, ValueError) as error:
        raise bad_parameter("The specified PKCS#12 certificate content cannot be read or its password is wrong.") from error
    return certificate, key


def _data(certificate: x509.Certificate, key: vault_keys.PrivateKey, kind: str) -> dict[str, Any]:
    thumbprint = base64.urlsafe_b64encode(certificate.fingerprint(hashes.SHA1())).decode().rstrip("=")  # noqa: S303 - x5t is SHA-1
    der = certificate.public_bytes(serialization.Encoding.DER)
    return {
        "cer": base64.b64encode(der).decode(),
        "x5t": thumbprint,
        "kind": kind,
        "size": key.key_size,
        "kty": "RSA" if isinstance(key, rsa.RSAPrivateKey) else "EC",
        "subject": certificate.subject.rfc4514_string(),
    }


def _with_dates(body: dict[str, Any], certificate: x509.Certificate) -> dict[str, Any]:
    """The attributes of a certificate say when it is valid, whatever the caller thinks."""
    dates = {"nbf": int(certificate.not_valid_before_utc.timestamp()), "exp": int(certificate.not_valid_after_utc.timestamp())}
    return {**body, "attributes": {**(body.get("attributes") or {}), **dates}}
