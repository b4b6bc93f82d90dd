"""The table of providers: what the configuration of an integration must have. One line a provider.

A provider that is not in the table is a stored object only, as existing clients keep them; what looks like a misspelt name of
one that is in it is refused, since it would look like an integration that works.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

from common.errors import ValidationFailed
from integrations.azure.cloud import AuthMethod, Cloud, Connection
from integrations.azure.egress import read_vault_url
from integrations.azure.errors import AddressRefused
from integrations.azure.rbac import VAULT_ID
from protocol.vault_access import LONGEST_EXPIRY_DAYS

AZURE_KEY_VAULT, AZURE_DEVOPS, GENERIC = "azure_key_vault", "azure_devops", "generic"
Check = Callable[[Mapping[str, Any], Cloud], None]

NEAR = 0.85
"""Share of equal letters from which a name counts as a misspelt one."""
LONGEST = {
    "vault_url": 300, "vault_id": 400, "auth_method": 32, "tenant_id": 64, "client_id": 64, "client_secret": 4096,
    "content_type": 255,
}  # fmt: skip
"""Characters of each field of a vault's configuration, which is what fits a message to a gateway (`protocol.vault_access`)."""
EXPIRES_DAYS = "expires_days"
_KEY_VAULT_FIELDS = frozenset({*LONGEST, EXPIRES_DAYS})
_DEVOPS_FIELDS = frozenset({
    "azure_org", "azure_project", "azure_pat", "azure_mode", "azure_variable_group_id", "azure_repo", "azure_branch",
    "azure_file_path",
})  # fmt: skip


def check(provider: str, config: Mapping[str, Any], cloud: Cloud) -> None:
    """Refuse a configuration that could not work, with the field and the fix. `config` includes the secrets kept from before."""
    meant = _meant(provider)
    if meant and meant != provider:
        raise ValidationFailed(f"provider: {provider!r} is not known; the nearest one that is is {meant!r}")
    PROVIDERS.get(provider, _anything)(config, cloud)


def _meant(provider: str) -> str:
    """The provider of the table that a name means, or nearly means; empty for one of the sender's own."""
    if provider in PROVIDERS:
        return provider
    folded = {_folded(name): name for name in (*PROVIDERS, *_ALSO_CALLED)}
    near = difflib.get_close_matches(_folded(provider), folded, n=1, cutoff=NEAR)
    return _ALSO_CALLED.get(folded[near[0]], folded[near[0]]) if near else ""


def _folded(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _anything(config: Mapping[str, Any], cloud: Cloud) -> None:
    """Git of any kind, and what clients store here under names of their own."""


def _key_vault(config: Mapping[str, Any], cloud: Cloud) -> None:
    _refuse_unknown(config, _KEY_VAULT_FIELDS, AZURE_KEY_VAULT)
    _check_days(config.get(EXPIRES_DAYS, 0))
    for name, value in config.items():
        if name == EXPIRES_DAYS:
            continue
        if not isinstance(value, str):
            raise ValidationFailed(f"config.{name}: must be text")
        if len(value) > LONGEST[name]:
            raise ValidationFailed(f"config.{name}: may have at most {LONGEST[name]} characters")
    methods = [method.value for method in AuthMethod]
    method = config.get("auth_method") or AuthMethod.MANAGED_IDENTITY.value
    if method not in methods:
        raise ValidationFailed(f"config.auth_method: must be one of {', '.join(methods)}")
    try:
        read_vault_url(config.get("vault_url", ""), cloud)
    except AddressRefused as refused:
        raise ValidationFailed(f"config.{refused.cause}; {refused.fix}") from None
    _check_vault_id(config)
    if method in (AuthMethod.CLIENT_SECRET, AuthMethod.ON_BEHALF_OF):
        _check_application(config, AuthMethod(method))


def _check_days(days: Any) -> None:
    if not isinstance(days, int) or isinstance(days, bool) or not 0 <= days <= LONGEST_EXPIRY_DAYS:
        raise ValidationFailed(
            f"config.{EXPIRES_DAYS}: must be a number of days from 0 to {LONGEST_EXPIRY_DAYS}; 0 sets no expiry"
        )


def _check_vault_id(config: Mapping[str, Any]) -> None:
    """The resource id is only needed to show who has access; it must be that of the same vault."""
    given = config.get("vault_id")
    if not given:
        return
    name = config["vault_url"].removeprefix("https://").partition(".")[0]
    if not VAULT_ID.fullmatch(given) or given.rsplit("/", 1)[1].lower() != name.lower():
        raise ValidationFailed(f"config.vault_id: must be the resource id of {name}, /subscriptions/…/vaults/{name}")


def _check_application(config: Mapping[str, Any], method: AuthMethod) -> None:
    try:
        tenant_id, client_id, client_secret = (config.get(name) or "" for name in ("tenant_id", "client_id", "client_secret"))
        Connection(config["vault_url"], method, tenant_id, client_id, client_secret)
    except ValidationFailed as wrong:
        raise ValidationFailed(f"config.{wrong}") from None


def _devops(config: Mapping[str, Any], cloud: Cloud) -> None:
    _refuse_unknown({name: "" for name in config if name.startswith("azure_")}, _DEVOPS_FIELDS, AZURE_DEVOPS)


def _refuse_unknown(config: Mapping[str, Any], known: frozenset[str], provider: str) -> None:
    unknown = sorted(set(config) - known)
    if unknown:
        raise ValidationFailed(f"config.{unknown[0]}: is not known for {provider}; known are {', '.join(sorted(known))}")


_ALSO_CALLED = {"key_vault": AZURE_KEY_VAULT, "akv": AZURE_KEY_VAULT, "azure_kv": AZURE_KEY_VAULT}
"""Names other products have for one of ours."""
PROVIDERS: Mapping[str, Check] = {AZURE_KEY_VAULT: _key_vault, AZURE_DEVOPS: _devops, GENERIC: _anything}
