"""The gateway's state file: who it is, its keys and its certificates. A restart reads it and needs no token (DESIGN §6).

Private keys rest encrypted under a password derived from the master key; the file and its folder are readable by the owner
only and are replaced in one step.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.files import write_private
from protocol.certificates import new_tls_key
from protocol.trust import pins_of

FORMAT = 1


class StateFileBroken(Exception):
    """The state file cannot be used; the sentence says what to do."""


@dataclass(frozen=True)
class Keys:
    """Four keys, one use each (reliability §6): TLS client, TLS server, signing, recipient."""

    client: EllipticCurvePrivateKey = field(repr=False)
    server: EllipticCurvePrivateKey = field(repr=False)
    signing: Ed25519PrivateKey = field(repr=False)
    encryption: X25519PrivateKey = field(repr=False)

    @staticmethod
    def generate() -> Keys:
        return Keys(new_tls_key(), new_tls_key(), Ed25519PrivateKey.generate(), X25519PrivateKey.generate())


@dataclass(frozen=True)
class Identity:
    """Everything a registered gateway knows about itself, and the roots it trusts.

    `pin` is the one its token brought. `root` holds all roots (PEM) of the set the Primary named last, and `roots_revision` which
    set that was; a file of an earlier version has the one root and no revision.
    """

    gateway_id: str
    name: str
    environment: str
    role: str
    generation: uuid.UUID
    token_id: str
    urls: tuple[str, ...]
    pin: str
    root: str
    certificate: str
    chain: str
    server_certificate: str
    keys: Keys = field(repr=False)
    roots_revision: int = 0

    @property
    def pins(self) -> tuple[str, ...]:
        return pins_of(self.root) or (self.pin,)


def load(path: Path, master_key: bytes, *former: bytes) -> Identity | None:
    """The stored identity, or None when the gateway never registered. Raises `StateFileBroken` for a damaged file.

    A file that opens with a former master key only is written anew under the current one.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    for key in former:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            found = _parse(text, key)
            store(path, found, master_key)
            return found
    try:
        return _parse(text, master_key)
    except (ValueError, KeyError, TypeError) as error:
        raise StateFileBroken(
            f"the state file {path} cannot be read with this MAZEVAULT_MASTER_KEY ({type(error).__name__}); restore the file "
            "and its key together, or remove it and set GATEWAY_BOOTSTRAP_TOKEN to a new token"
        ) from error


def store(path: Path, identity: Identity, master_key: bytes) -> None:
    """Write the state file in one step, readable by its owner only."""
    shown = asdict(replace(identity, keys=None))  # type: ignore[arg-type]
    shown["generation"] = str(identity.generation)
    shown["urls"] = list(identity.urls)
    shown["format"] = FORMAT
    shown["keys"] = {name: _seal_key(getattr(identity.keys, name), master_key) for name in Keys.__dataclass_fields__}
    write_private(path, json.dumps(shown, indent=1))


def tls_files(path: Path, identity: Identity, master_key: bytes) -> tuple[Path, Path]:
    """Certificate-and-key files for the TLS library: (client, server). The keys inside are encrypted; see `key_password`."""
    client, server = path.with_suffix(".client.pem"), path.with_suffix(".server.pem")
    sealed_client, sealed_server = _seal_key(identity.keys.client, master_key), _seal_key(identity.keys.server, master_key)
    write_private(client, identity.certificate + identity.chain + sealed_client)
    write_private(server, identity.server_certificate + identity.chain + sealed_server)
    return client, server


def key_password(master_key: bytes) -> bytes:
    """The password of the key files, derived from the master key (RFC 5869)."""
    derive = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"mazevault gateway state file v1")
    return derive.derive(master_key).hex().encode()


def _parse(text: str, master_key: bytes) -> Identity:
    stored = json.loads(text)
    keys = {name: _open_key(pem, master_key) for name, pem in stored.pop("keys").items()}
    stored.pop("format")
    stored["generation"] = uuid.UUID(stored["generation"])
    stored["urls"] = tuple(stored["urls"])
    return Identity(**stored, keys=Keys(**keys))


def _seal_key(key, master_key: bytes) -> str:  # type: ignore[no-untyped-def]
    pem: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(key_password(master_key)),
    )
    return pem.decode()


def _open_key(pem: str, master_key: bytes):  # type: ignore[no-untyped-def]
    return serialization.load_pem_private_key(pem.encode(), key_password(master_key))
