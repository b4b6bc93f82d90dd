"""Envelope encryption at rest: master key, key of the scope, fresh data key for every value (DESIGN §10).

AES-256-GCM throughout. The additional data names table, row, scope and version, so a value moved to another place does not open.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import LiteralString

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings
from django.db import connection, transaction

from common.locks import shared_transaction_lock, transaction_lock
from common.sealing import SealBroken as SealBroken
from common.statements import fetch
from vault.models import KeyEncryptionKey

FORMAT = b"\x01"
NONCE, KEY, TAG = 12, 32, 16
WRAPPED = NONCE + KEY + TAG
KEY_SECONDS, MOST_KEYS = 30.0, 256
"""How long, and how many, unwrapped keys of scopes are kept in memory: a key that was destroyed opens nothing after that time."""
_CURRENT: LiteralString = "SELECT id FROM vault_keyencryptionkey WHERE scope = %(scope)s AND retired_at IS NULL"


class MasterKeyMismatch(Exception):
    """The database was sealed under another master key."""


@dataclass(frozen=True)
class Sealing:
    """Seals any number of values of one scope in one transaction, with the lock and the key asked for once (`begin`)."""

    scope: str
    key_id: uuid.UUID
    wrapping_key: bytes = field(repr=False)

    @staticmethod
    def begin(scope: str) -> Sealing:
        """Raises `RuntimeError` outside of a transaction. Until it ends no key of this scope can be retired, so a value under
        a retired key is never stored late; what it seals is stored in this transaction, and in none after it."""
        if not connection.in_atomic_block:
            raise RuntimeError("a value is sealed in the transaction that stores it")
        shared_transaction_lock(lock_of(scope))
        return Sealing(scope, *_current_key(scope))

    def seal(self, table: str, row: str, version: int, plaintext: bytes) -> bytes:
        """Seal for exactly this place. The result names the key it needs: format, key id, wrapped data key, ciphertext."""
        place = _place(self.scope, table, row, version)
        data_key = AESGCM.generate_key(256)
        wrapped = _encrypt(self.wrapping_key, data_key, b"data-key|" + place)
        return FORMAT + self.key_id.bytes + wrapped + _encrypt(data_key, plaintext, place)

    def digest(self, plaintext: bytes) -> str:
        """As `keyed_digest`."""
        return _digest(self.wrapping_key, plaintext)


def seal(scope: str, table: str, row: str, version: int, plaintext: bytes) -> bytes:
    """Seal one value for exactly this place, in the transaction that stores it."""
    return Sealing.begin(scope).seal(table, row, version, plaintext)


def open_sealed(scope: str, table: str, row: str, version: int, sealed: bytes) -> bytes:
    """Open a value of exactly this place. Raises `SealBroken` for any other, and `MasterKeyMismatch` for another master key."""
    head = 1 + 16
    if len(sealed) < head + WRAPPED + NONCE + TAG or sealed[:1] != FORMAT:
        raise SealBroken("the sealed value is damaged")
    place = _place(scope, table, row, version)
    wrapping_key = _key_by_id(scope, uuid.UUID(bytes=sealed[1:head]), master_keys())
    try:
        data_key = _decrypt(wrapping_key, sealed[head : head + WRAPPED], b"data-key|" + place)
        return _decrypt(data_key, sealed[head + WRAPPED :], place)
    except InvalidTag:
        raise SealBroken(f"the sealed value does not belong to {table}, row {row}, version {version} of {scope}") from None


def sealed_size(length: int) -> int:
    """How many bytes a sealed value of so many bytes has."""
    return len(FORMAT) + 16 + WRAPPED + NONCE + length + TAG


def key_named_by(sealed: bytes) -> uuid.UUID:
    """The id of the key a sealed value needs."""
    return uuid.UUID(bytes=sealed[1 : 1 + 16])


def keyed_digest(scope: str, plaintext: bytes) -> str:
    """HMAC-SHA256 (hex) under the current key of the scope: equal values are equal, and nobody without the key can try values."""
    return _digest(_current_key(scope)[1], plaintext)


def forget_keys() -> None:
    """Drop unwrapped keys from memory (tests, rotation)."""
    _known_keys.forget()


def create_key(scope: str) -> KeyEncryptionKey:
    """A fresh current key of the scope, wrapped by the current master key."""
    identifier = uuid.uuid4()
    wrapped = wrap(scope, identifier, AESGCM.generate_key(256))
    return KeyEncryptionKey.objects.create(
        id=identifier, scope=scope, wrapped=wrapped, master_key_id=master_key_id(settings.MAZEVAULT.master_key)
    )


def wrap(scope: str, identifier: uuid.UUID, key: bytes) -> bytes:
    """A scope's key under the current master key."""
    return _encrypt(settings.MAZEVAULT.master_key, key, _key_place(scope, identifier))


def unwrap(row: KeyEncryptionKey) -> bytes:
    """A scope's key, under whichever master key this process knows. Raises `MasterKeyMismatch` or `SealBroken`."""
    master = {master_key_id(key): key for key in master_keys()}.get(row.master_key_id)
    if master is None:
        raise MasterKeyMismatch(
            "this database was sealed under another master key; set MAZEVAULT_MASTER_KEY (or MAZEVAULT_MASTER_KEY_FILE) "
            "to the one it was created with"
        )
    try:
        return _decrypt(master, bytes(row.wrapped), _key_place(row.scope, row.id))
    except InvalidTag:
        raise SealBroken(f"the key of {row.scope} was changed in the database") from None


def master_keys() -> tuple[bytes, ...]:
    """The current master key and, while it is being changed, the one before."""
    node = settings.MAZEVAULT
    return (node.master_key, *node.former_master_keys)


def master_key_id(key: bytes) -> str:
    """How rows name the master key that wraps them; tells nothing of the key."""
    return hashlib.sha256(b"mazevault master key id|" + key).hexdigest()[:32]


def lock_of(scope: str) -> str:
    """Shared by all who seal in a scope, taken alone to change its current key."""
    return f"sealing:{scope}"


def _current_key(scope: str) -> tuple[uuid.UUID, bytes]:
    found = fetch(_CURRENT, {"scope": scope})
    identifier = found[0][0] if found else _first_key(scope).id
    return identifier, _key_by_id(scope, identifier, master_keys())


def _first_key(scope: str) -> KeyEncryptionKey:
    with transaction.atomic():
        transaction_lock(f"key-of-scope:{scope}")
        return KeyEncryptionKey.objects.filter(scope=scope, retired_at__isnull=True).first() or create_key(scope)


def _key_by_id(scope: str, identifier: uuid.UUID, masters: tuple[bytes, ...]) -> bytes:
    """The masters are part of the question: another master key must not be answered from memory."""
    return _known_keys.of((scope, identifier, masters), lambda: _unwrapped(scope, identifier))


def _unwrapped(scope: str, identifier: uuid.UUID) -> bytes:
    row = KeyEncryptionKey.objects.filter(id=identifier, scope=scope).first()
    if row is None:
        raise SealBroken(f"the sealed value names a key that does not belong to {scope}")
    return unwrap(row)


class _KnownKeys:
    """Unwrapped keys of this process, each for `KEY_SECONDS`: one that was destroyed is gone from memory soon after.

    Only ever replaced as a whole, so that it needs no lock, which could not be taken under those of rows (ADR 33).
    """

    def __init__(self) -> None:
        self._known: Mapping[tuple[str, uuid.UUID, tuple[bytes, ...]], tuple[float, bytes]] = {}

    def of(self, name: tuple[str, uuid.UUID, tuple[bytes, ...]], look_up: Callable[[], bytes]) -> bytes:
        moment = time.monotonic()
        found = self._known.get(name)
        if found is not None and moment < found[0]:
            return found[1]
        living = {other: one for other, one in self._known.items() if moment < one[0]}
        self._known = living  # before the look-up, which may find that the key is gone
        key = look_up()
        newest = dict(list(living.items())[-MOST_KEYS + 1 :])
        self._known = {**newest, name: (moment + KEY_SECONDS, key)}
        return key

    def forget(self) -> None:
        self._known = {}


_known_keys = _KnownKeys()


def _digest(wrapping_key: bytes, plaintext: bytes) -> str:
    return hmac.digest(hmac.digest(wrapping_key, b"value digest", "sha256"), plaintext, "sha256").hex()


def _place(scope: str, table: str, row: str, version: int) -> bytes:
    parts = [part.encode() for part in (scope, table, row, str(version))]
    return b"|".join([len(part).to_bytes(4, "big") + part for part in parts])


def _key_place(scope: str, identifier: uuid.UUID) -> bytes:
    return _place(scope, "vault_keyencryptionkey", str(identifier), 1)


def _encrypt(key: bytes, plaintext: bytes, place: bytes) -> bytes:
    nonce = os.urandom(NONCE)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, place)


def _decrypt(key: bytes, sealed: bytes, place: bytes) -> bytes:
    return AESGCM(key).decrypt(sealed[:NONCE], sealed[NONCE:], place)
