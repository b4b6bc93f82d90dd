"""Keys of a vault: made there, and used to wrap and unwrap other keys. The private part never leaves."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from sandbox.azure import vault_objects
from sandbox.azure.vault_api import (
    Call,
    VaultRefusal,
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

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
SIZES = (2048, 3072, 4096)
CURVES: dict[str, type[ec.EllipticCurve]] = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}
RSA_OPERATIONS = ("encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey")
PADDINGS = {"RSA-OAEP": hashes.SHA1, "RSA-OAEP-256": hashes.SHA256}


def create(world: World, request: Request) -> Answer:
    with world.lock:
        call = admitted(world, request, "keys/create/action")
        name, body = request.parts["name"], call.body()
        refuse_taken_name(call, "keys", name)
        item = call.vault.item("keys", name) or Item("keys", name)
        version = new_version(call, body, key_data(_made(body), body.get("key_ops")))
        write(call, "create", "keys", item.name, version)
        return written(call, bundle(call, item, version))


def get(world: World, request: Request) -> Answer:
    with world.lock:
        call = admitted(world, request, "keys/read")
        return json_answer(bundle(call, *found_version(call, "keys")))


def wrap(world: World, request: Request) -> Answer:
    """Encrypt a key with this one."""
    item, version, call, key, scheme, value = _operation(world, request, "keys/wrap/action", "wrapKey")
    try:
        result = key.public_key().encrypt(value, scheme)
    except ValueError as error:
        raise bad_parameter("Property value has an invalid value: it does not fit into this key.") from error
    return _result(call, item, version, result)


def unwrap(world: World, request: Request) -> Answer:
    item, version, call, key, scheme, value = _operation(world, request, "keys/unwrap/action", "unwrapKey")
    try:
        result = key.decrypt(value, scheme)
    except ValueError as error:
        raise bad_parameter("The parameter is incorrect.") from error
    return _result(call, item, version, result)


def key_data(key: PrivateKey, operations: list[str] | None = None) -> dict[str, Any]:
    """What a version keeps of a key."""
    kind = "RSA" if isinstance(key, rsa.RSAPrivateKey) else "EC"
    text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {"kty": kind, "ops": operations or list(RSA_OPERATIONS if kind == "RSA" else ("sign", "verify")), "pem": text.decode()}


def bundle(call: Call, item: Item, version: Version) -> dict[str, Any]:
    shown = {"key": {"kid": _kid(call, item, version), "key_ops": list(version.data["ops"]), **_public(version)},
             "attributes": attributes_of(call, version)}  # fmt: skip
    optional = {"tags": dict(version.tags), "managed": version.managed}
    return shown | {name: value for name, value in optional.items() if value}


ROUTES = (
    *vault_objects.routes("keys", vault_objects.Actions(
        read="keys/read", update="keys/update/action", delete="keys/delete",
        recover="keys/recover/action", purge="keys/purge/action"), bundle),
    Route("POST", "/keys/{name}/create", create),
    Route("GET", "/keys/{name}", get),
    Route("GET", "/keys/{name}/{version}", get),
    Route("POST", "/keys/{name}/{version}/wrapkey", wrap),
    Route("POST", "/keys/{name}/{version}/unwrapkey", unwrap),
    Route("POST", "/keys/{name}/wrapkey", wrap),
    Route("POST", "/keys/{name}/unwrapkey", unwrap),
)  # fmt: skip


def _made(body: dict[str, Any]) -> PrivateKey:
    kind = str(body.get("kty", ""))
    if kind in ("RSA", "RSA-HSM"):
        size = body.get("key_size") or 2048
        if size not in SIZES:
            raise bad_parameter("Property key_size has an invalid value.")
        return rsa.generate_private_key(public_exponent=65537, key_size=size)
    if kind in ("EC", "EC-HSM"):
        curve = CURVES.get(body.get("crv") or "P-256")
        if curve is None:
            raise bad_parameter("Property crv has an invalid value.")
        return ec.generate_private_key(curve())
    raise bad_parameter("Property kty has an invalid value.")


def _operation(
    world: World, request: Request, action: str, operation: str
) -> tuple[Item, Version, Call, rsa.RSAPrivateKey, padding.OAEP, bytes]:
    with world.lock:
        call = admitted(world, request, action)
        item, version = found_version(call, "keys")
    if not version.enabled:
        raise VaultRefusal(403, "Forbidden", f"Operation {operation} is not allowed on a disabled key.", "KeyDisabled")
    key = serialization.load_pem_private_key(version.data["pem"].encode(), None)
    if operation not in version.data["ops"] or not isinstance(key, rsa.RSAPrivateKey):
        raise VaultRefusal(403, "Forbidden", f"Operation {operation} is not permitted on this key.", "KeyOperationForbidden")
    body = call.body()
    algorithm = PADDINGS.get(str(body.get("alg")))
    if algorithm is None:
        raise bad_parameter("Property alg has an invalid value.")
    return item, version, call, key, padding.OAEP(padding.MGF1(algorithm()), algorithm(), None), _decoded(body.get("value"))


def _result(call: Call, item: Item, version: Version, value: bytes) -> Answer:
    return json_answer({"kid": _kid(call, item, version), "value": _encoded(value)})


def _public(version: Version) -> dict[str, str]:
    key = serialization.load_pem_private_key(version.data["pem"].encode(), None)
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        return {"kty": "RSA", "n": _encoded(_bytes(numbers.n)), "e": _encoded(_bytes(numbers.e))}
    assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101 - no other kind is ever stored
    point, size = key.public_key().public_numbers(), (key.curve.key_size + 7) // 8
    curve = next(name for name, its in CURVES.items() if its.name == key.curve.name)
    return {"kty": "EC", "crv": curve, "x": _encoded(point.x.to_bytes(size, "big")), "y": _encoded(point.y.to_bytes(size, "big"))}


def _kid(call: Call, item: Item, version: Version) -> str:
    return f"{call.base}/keys/{item.name}/{version.id}"


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(text: Any) -> bytes:
    try:
        return base64.urlsafe_b64decode(str(text) + "=" * (-len(str(text)) % 4))
    except (binascii.Error, ValueError) as error:
        raise bad_parameter("Property value has an invalid value: it must be base64url.") from error
