"""Where the vault and the layers below it keep sealed values (`common.sealing.SealedColumn`)."""

from __future__ import annotations

from accounts.models import IdentityProvider
from common.sealing import Place, SealedColumn
from vault import authorities, claims, values
from vault.models import CertificateAuthority, KeptValue, SecretVersion


def _version(row: SecretVersion) -> Place:
    return values.place(row.secret, row.version)


def _digest(row: SecretVersion, plaintext: bytes) -> dict[str, object]:
    return {"value_digest": values.digest_of(row.secret, plaintext.decode())}


def _kept(row: KeptValue) -> Place:
    return _version(row.version)


def _kept_digest(row: KeptValue, plaintext: bytes) -> dict[str, object]:
    return _digest(row.version, plaintext)


def _authority(row: CertificateAuthority) -> Place:
    return authorities.seal_scope(row.scope), authorities.TABLE, str(row.id), 1


def _provider(row: IdentityProvider) -> Place:
    return "platform", "accounts_identityprovider", str(row.id), row.secrets_version


COLUMNS = (
    SealedColumn("vault.VaultClaim", "sealed_marks", claims.place_of),
    SealedColumn("vault.SecretVersion", "sealed_value", _version, related=("secret__environment",), keyed=_digest),
    SealedColumn(
        "vault.KeptValue",
        "sealed_value",
        _kept,
        related=("version__secret__environment",),
        keyed=_kept_digest,
    ),
    SealedColumn("vault.CertificateAuthority", "sealed_key", _authority),
    SealedColumn("accounts.IdentityProvider", "sealed_secrets", _provider),
)
