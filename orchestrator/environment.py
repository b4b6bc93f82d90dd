"""The one file that reads environment variables. Everything else reads `settings.MAZEVAULT`.

Every value is typed and checked at start; a mistake stops the process with a sentence that names the variable and the fix.
A secret may come as `NAME` or as `NAME_FILE` (a path), never as both.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import ParseResult, parse_qs, unquote, urlencode, urlparse

from accounts.entra_settings import CALLBACK_PATH, GRAPH_ENDPOINT, EntraSettings
from common.retained import settings_of
from integrations.azure.cloud import Cloud
from integrations.azure.node_cloud import AzureNode, azure_node, cloud_from
from integrations.azure.node_secrets import completed
from orchestrator.variables import EnvironmentMistake as EnvironmentMistake
from orchestrator.variables import Findings, cleaned, listen_address, log_format, log_level, mode_of, one_of, shown, thread_count
from orchestrator.variables import flag as _flag
from orchestrator.variables import secret as _secret
from orchestrator.variables import whole as _whole
from orchestrator.version import VERSION
from protocol.timing import PROFILES, TimeProfile, TimingError, time_profile
from protocol.vocabulary import Role

KINDS_OF_PLACES = ("production", "staging", "test", "development")
PRIMARY = "PRIMARY"
"""What an audience calls the Primary (`accounts.audiences`), so no gateway environment has this name."""
MOST_PRIMARIES = 8
"""Addresses of the Primary that a gateway tries one after the other."""


@dataclass(frozen=True)
class GatewaySettings:
    """What only a gateway needs (client-api D, rows Gateway)."""

    name: str
    environment: str
    role: str
    primary_urls: tuple[str, ...]
    """Where a node of the Primary is looked for, one after the other."""
    bootstrap_token: str = field(repr=False)
    state_file: Path
    server_names: tuple[str, ...]
    offline_auth_max: int
    """Seconds without the Primary after which no credential counts here any more."""


@dataclass(frozen=True)
class Settings:
    """All settings of one node."""

    mode: str
    version: str
    production: bool
    database: Mapping[str, object] = field(repr=False)
    redis_url: str = field(repr=False)
    master_key: bytes = field(repr=False)
    previous_master_key: bytes | None = field(repr=False)
    session_secret: str = field(repr=False)
    listen_host: str
    listen_port: int
    base_url: str
    domain: str
    server_names: tuple[str, ...]
    tls_enabled: bool
    tls_directory: Path
    threads: int
    timing: TimeProfile
    default_gateway_environment: str
    production_gateway_environment: str
    gateway_environments: tuple[str, ...]
    sign_ins_per_minute: int
    calls_per_minute: int
    advertised_urls: tuple[str, ...]
    admin_email: str
    admin_password_file: Path | None
    ca_file: Path | None
    metrics_token: str = field(repr=False)
    log_level: str
    log_format: str
    failpoint: str
    run_migrations: bool
    audit_retention_days: int
    retention: Mapping[str, int]
    rotation_grace_hours: int
    storage_grace_hours: int
    """How long the values before a rotated one stay usable after it has arrived everywhere."""
    orchestrator_mode: bool
    """Whether new projects keep their values in their vault (`storage: key_vault`) when nothing else is said."""
    entra: EntraSettings
    azure: AzureNode
    gateway: GatewaySettings | None

    @property
    def former_master_keys(self) -> tuple[bytes, ...]:
        """The master key before the current one, while it is being replaced."""
        return (self.previous_master_key,) if self.previous_master_key else ()

    @property
    def own_gateway(self) -> GatewaySettings:
        """What only a gateway has. Raises `EnvironmentMistake` on a Primary."""
        if self.gateway is None:
            raise EnvironmentMistake("this node is not a gateway; set MAZEVAULT_MODE to gateway")
        return self.gateway


def load(environ: Mapping[str, str], *, mode: str | None = None) -> Settings:
    """Read and check everything. Raises `EnvironmentMistake` with a sentence for each mistake found."""
    environ, found = cleaned(environ), Findings()
    chosen = found.of(mode_of, environ, mode) or "primary"
    host, port = found.of(listen_address, environ) or ("", 8443)
    domain = environ.get("MAZEVAULT_DOMAIN", "localhost")
    base_url = found.of(_https, environ, "MAZEVAULT_BASE_URL", f"https://{domain}:{port}") or f"https://{domain}:{port}"
    base_url, kept = base_url.rstrip("/"), found.of(_retention, environ, chosen)
    read = Settings(
        mode=chosen,
        version=environ.get("MAZEVAULT_VERSION") or VERSION,
        production=found.of(one_of, environ, "MAZEVAULT_ENV", KINDS_OF_PLACES, "development") == "production",
        database=found.of(_database, environ),
        redis_url=found.of(_redis, environ),
        master_key=found.of(_master_key, environ),
        previous_master_key=found.of(_previous_master_key, environ),
        session_secret=found.of(_session_secret, environ),
        listen_host=host,
        listen_port=port,
        base_url=base_url,
        domain=domain,
        server_names=_names(environ.get("MAZEVAULT_SERVER_NAMES") or f"{domain},localhost,127.0.0.1"),
        tls_enabled=found.of(_flag, environ, "MAZEVAULT_TLS_ENABLED", default=True),
        tls_directory=Path(environ.get("MAZEVAULT_TLS_CERT_PATH") or "/certs"),
        threads=found.of(thread_count, environ),
        timing=found.of(_timing, environ),
        **_environments(environ, found),
        sign_ins_per_minute=found.of(_whole, environ, "MAZEVAULT_SIGN_IN_RATE_LIMIT", default=10, low=1, high=10_000),
        calls_per_minute=found.of(_whole, environ, "MAZEVAULT_API_RATE_LIMIT", default=6000, low=60, high=10_000_000),
        advertised_urls=_names(environ.get("MAZEVAULT_ADVERTISED_URLS") or base_url),
        admin_email=environ.get("MAZEVAULT_ADMIN_EMAIL", "admin@mazevault.com"),
        admin_password_file=_path(environ, "MAZEVAULT_ADMIN_PASSWORD_FILE"),
        ca_file=_path(environ, "MAZEVAULT_CA_FILE"),
        metrics_token=found.of(_secret, environ, "METRICS_TOKEN"),
        log_level=found.of(log_level, environ),
        log_format=found.of(log_format, environ),
        failpoint=environ.get("MAZEVAULT_FAILPOINT", ""),
        run_migrations=found.of(_flag, environ, "RUN_MIGRATIONS", default=False),
        audit_retention_days=kept["MAZEVAULT_AUDIT_RETENTION_DAYS"] if kept else 0,
        retention=kept,
        rotation_grace_hours=found.of(_whole, environ, "MAZEVAULT_ROTATION_GRACE_HOURS", default=24, low=0, high=8760),
        storage_grace_hours=found.of(_whole, environ, "MAZEVAULT_STORAGE_GRACE_HOURS", default=24, low=1, high=8760),
        orchestrator_mode=found.of(_flag, environ, "MAZEVAULT_ORCHESTRATOR_MODE", default=False),
        entra=found.of(entra_settings, environ, base_url, mode=chosen),
        azure=found.of(azure_node, environ),
        gateway=found.of(_gateway, environ) if chosen == "gateway" else None,
    )
    found.refuse()
    return read


def _environments(environ: Mapping[str, str], found: Findings) -> dict[str, Any]:
    """The gateway environments, and that the two that are named beside them are among them."""
    known = _names(environ.get("MAZEVAULT_GATEWAY_ENVIRONMENTS", "NPR,PRO").upper())
    if PRIMARY in known:
        found.note(f"MAZEVAULT_GATEWAY_ENVIRONMENTS names {PRIMARY}, which stands for the Primary; choose another name")
    default = environ.get("MAZEVAULT_DEFAULT_GATEWAY_ENVIRONMENT", "NPR").upper()
    production = environ.get("MAZEVAULT_PRODUCTION_GATEWAY_ENVIRONMENT", "PRO").upper()
    for name, code in (
        ("MAZEVAULT_DEFAULT_GATEWAY_ENVIRONMENT", default), ("MAZEVAULT_PRODUCTION_GATEWAY_ENVIRONMENT", production)
    ):  # fmt: skip
        if environ.get(name) and code not in known:
            found.note(f"{name} is {shown(code)}; MAZEVAULT_GATEWAY_ENVIRONMENTS names {', '.join(known)}")
    return {
        "default_gateway_environment": default, "production_gateway_environment": production, "gateway_environments": known,
    }  # fmt: skip


def _redis(environ: Mapping[str, str]) -> str:
    url = _secret(environ, "REDIS_URL") or "redis://127.0.0.1:6379/0"
    _parts_of("REDIS_URL", url, ("redis", "rediss", "unix"), "redis://:password@host:6379/0, rediss://… or unix:///path")
    return url


def _parts_of(name: str, url: str, schemes: Sequence[str], example: str) -> ParseResult:
    """An address with a secret in it, taken apart. Raises `EnvironmentMistake` without repeating anything of it."""
    try:
        parts = urlparse(url)
        _ = parts.port
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in schemes or parts.fragment or "@" in parts.path + parts.query:
        raise EnvironmentMistake(
            f"{name} is no address such as {example}; percent-encode what stands in user and password, "
            "for example # as %23, / as %2F, ? as %3F, @ as %40 (its value is not repeated here, since it holds a password)"
        )
    return parts


def _retention(environ: Mapping[str, str], mode: str) -> dict[str, int]:
    """Days by setting (`common.retained`); 0 keeps for ever, and what is needed for a while is kept for a while."""
    kept, found = {}, Findings()
    for name, (default, least) in settings_of(mode).items():
        kept[name] = days = found.of(_whole, environ, name, default=default, low=0, high=36500)
        if days is not None and 0 < days < least:
            found.note(f"{name} is {days}; it must be at least {least} days, or 0 to keep for ever")
    found.refuse()
    return kept


def load_node(environ: Mapping[str, str], *, mode: str) -> Settings:
    """The settings of a running node: what its environment leaves out is read from its Key Vault first, when it names one.

    Raises `EnvironmentMistake` also when that vault denies or does not answer.
    """
    return load(with_vault(cleaned(environ)), mode=mode)


def with_vault(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment, and from the node's own Key Vault what is absent in it. Raises `EnvironmentMistake`."""
    try:
        return completed(environ)
    except ValueError as error:
        raise EnvironmentMistake(str(error)) from error


def celery_broker(redis_url: str) -> str:
    """Celery spells a unix socket as `redis+socket:///path?virtual_host=0`; other URLs pass unchanged."""
    parts = urlparse(redis_url)
    if parts.scheme != "unix":
        return redis_url
    number = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{parts.path}?{urlencode({'virtual_host': number})}"


def _master_key(environ: Mapping[str, str]) -> bytes:
    text = _secret(environ, "MAZEVAULT_MASTER_KEY")
    if not text:
        raise EnvironmentMistake(
            "MAZEVAULT_MASTER_KEY is missing; set it (or MAZEVAULT_MASTER_KEY_FILE) to 32 random bytes in base64, "
            "for example the output of: openssl rand -base64 32"
        )
    return _key("MAZEVAULT_MASTER_KEY", text)


def _previous_master_key(environ: Mapping[str, str]) -> bytes | None:
    """The other master key while one replaces the other."""
    text = _secret(environ, "MAZEVAULT_MASTER_KEY_PREVIOUS")
    return _key("MAZEVAULT_MASTER_KEY_PREVIOUS", text) if text else None


def _key(variable: str, text: str) -> bytes:
    try:
        key = base64.b64decode(text.removeprefix("base64:"), validate=True)
    except (binascii.Error, ValueError):
        raise EnvironmentMistake(f"{variable} is not base64; it must hold 32 random bytes in base64") from None
    if len(key) != 32:
        raise EnvironmentMistake(f"{variable} holds {len(key)} bytes; it must hold exactly 32")
    return key


def _session_secret(environ: Mapping[str, str]) -> str:
    secret = _secret(environ, "MAZEVAULT_SESSION_SECRET")
    if len(secret) < 32:
        raise EnvironmentMistake(
            "MAZEVAULT_SESSION_SECRET is missing or shorter than 32 characters; set it (or MAZEVAULT_SESSION_SECRET_FILE) "
            "to a long random text, for example the output of: openssl rand -base64 48"
        )
    return secret


def _database(environ: Mapping[str, str]) -> Mapping[str, object]:
    """`postgresql://user:password@host:port/name?sslmode=…` or libpq's `key=value` form, as Django wants it."""
    url = _secret(environ, "DATABASE_URL")
    if not url:
        raise EnvironmentMistake(
            "DATABASE_URL is missing; set it to postgresql://user:password@host:5432/name, "
            "or start everything on this machine with: make run"
        )
    if url.split(":", 1)[0] not in ("postgres", "postgresql"):
        return _database_from_pairs(url)
    parts = _parts_of("DATABASE_URL", url, ("postgres", "postgresql"), "postgresql://user:password@host:5432/name")
    options = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    host = options.pop("host", "") or unquote(parts.hostname or "")
    _refuse_unknown_options(options)
    return {
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or options.pop("user", "")),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": host,
        "PORT": str(parts.port or options.pop("port", "") or ""),
        "OPTIONS": options,
    }


def _database_from_pairs(text: str) -> Mapping[str, object]:
    from psycopg.conninfo import conninfo_to_dict

    try:
        pairs = {key: str(value) for key, value in conninfo_to_dict(text).items()}
    except Exception:  # psycopg raises its own ProgrammingError; the text may hold a password, so do not repeat it
        raise EnvironmentMistake(
            "DATABASE_URL is neither postgresql://user:password@host:5432/name nor libpq's key=value form with known keys"
        ) from None
    names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    known = {django: pairs.pop(libpq, "") for libpq, django in names.items()}
    return {**known, "OPTIONS": pairs}


def _refuse_unknown_options(options: Mapping[str, str]) -> None:
    """libpq refuses an option it does not know at the first connection, with a traceback; here it is a sentence."""
    from psycopg.conninfo import make_conninfo

    for name in options:
        try:
            make_conninfo(**{name: "1"})
        except Exception:  # psycopg's own ProgrammingError
            raise EnvironmentMistake(f"DATABASE_URL has the option {shown(name)}, which libpq does not know") from None


def _timing(environ: Mapping[str, str]) -> TimeProfile:
    overrides, found = {}, Findings()
    for item in fields(TimeProfile):
        text = environ.get(f"MAZEVAULT_TIME_{item.name.upper()}")
        if item.name == "name" or text is None:
            continue
        try:
            overrides[item.name] = float(text)
        except ValueError:
            found.note(f"MAZEVAULT_TIME_{item.name.upper()} is {shown(text)}; it must be a number of seconds")
    found.refuse()
    try:
        return time_profile(one_of(environ, "MAZEVAULT_TIME_PROFILE", tuple(PROFILES), "standard"), overrides)
    except TimingError as error:
        raise EnvironmentMistake(f"MAZEVAULT_TIME_PROFILE and MAZEVAULT_TIME_*: {error}") from error


def _moment(environ: Mapping[str, str], name: str) -> datetime | None:
    text = environ.get(name, "").strip()
    try:
        found = datetime.fromisoformat(text) if text else None
    except ValueError:
        raise EnvironmentMistake(f"{name} is {shown(text)}; it must be a date such as 2027-01-31") from None
    return found.replace(tzinfo=found.tzinfo or UTC) if found else None


def _primary_urls(text: str) -> tuple[str, ...]:
    """One address for each node of the Primary, with commas between them."""
    urls = tuple(dict.fromkeys(part for one in text.split(",") if (part := one.strip().rstrip("/"))))
    wrong = [url for url in urls if not url.startswith("https://")]
    if wrong:
        raise EnvironmentMistake(f"PRIMARY_BACKEND_URL is {shown(wrong[0])}; it must start with https://")
    if len(urls) > MOST_PRIMARIES:
        raise EnvironmentMistake(f"PRIMARY_BACKEND_URL names {len(urls)} addresses; at most {MOST_PRIMARIES} are tried")
    return urls


def _gateway(environ: Mapping[str, str]) -> GatewaySettings:
    found = Findings()
    read = GatewaySettings(
        name=environ.get("GATEWAY_NAME") or environ.get("MAZEVAULT_INSTANCE_ID", ""),
        environment=environ.get("MAZEVAULT_GATEWAY_ENVIRONMENT", "").upper(),
        role=found.of(_role, environ),
        primary_urls=found.of(_primary_urls, environ.get("PRIMARY_BACKEND_URL", "")),
        bootstrap_token=(found.of(_secret, environ, "GATEWAY_BOOTSTRAP_TOKEN") or "").strip(),
        state_file=Path(environ.get("MAZEVAULT_GATEWAY_STATE_FILE") or "/data/gateway-state.json"),
        server_names=_names(environ.get("MAZEVAULT_SERVER_NAMES") or "localhost,127.0.0.1"),
        offline_auth_max=found.of(_whole, environ, "OFFLINE_AUTH_MAX", default=8 * 3600, low=1, high=30 * 86400),
    )
    found.refuse()
    return read


def _role(environ: Mapping[str, str]) -> str:
    role = environ.get("MAZEVAULT_GATEWAY_ROLE", "")
    if role and role not in {item.value for item in Role}:
        raise EnvironmentMistake(f"MAZEVAULT_GATEWAY_ROLE is {shown(role)}; set it to primary or dr-standby")
    return role


def entra_settings(environ: Mapping[str, str], base_url: str, *, mode: str = "primary") -> EntraSettings:
    """The Entra group. What is only needed for the sign-in is only demanded when ENTRA_ENABLED is true.

    Entra sends the browser back to the node itself; where it goes from there may be a console that stands elsewhere.
    """
    found = Findings()
    enabled, cloud = found.of(_flag, environ, "ENTRA_ENABLED", default=False), found.of(cloud_from, environ) or Cloud()
    client_id = environ.get("ENTRA_CLIENT_ID", "").strip()
    usual = f"{base_url}/ui/" if mode == "primary" else f"{base_url}/"
    frontend = found.of(_https, environ, "FRONTEND_URL", usual) or usual
    origin = frontend.rstrip("/") if environ.get("FRONTEND_URL") and mode == "primary" else base_url
    if mode == "gateway":
        frontend = found.of(_https, environ, "GATEWAY_FRONTEND_URL", frontend)
    entra = EntraSettings(
        enabled=enabled,
        tenant_id=environ.get("ENTRA_TENANT_ID", "").strip(),
        client_id=client_id,
        client_secret=(found.of(_secret, environ, "ENTRA_CLIENT_SECRET") or "").strip(),
        redirect_uri=found.of(_https, environ, "ENTRA_REDIRECT_URI", f"{origin}{CALLBACK_PATH}") or "",
        scopes=_entra_scopes(environ.get("ENTRA_SCOPES") or "openid profile email", client_id),
        auto_create_users=found.of(_flag, environ, "ENTRA_AUTO_CREATE_USERS", default=True),
        default_role=environ.get("ENTRA_DEFAULT_ROLE", "").strip() or "viewer",
        session_max_age=found.of(_whole, environ, "ENTRA_SESSION_MAX_AGE", default=3600, low=60, high=86_400),
        token_max_age=found.of(_whole, environ, "ENTRA_TOKEN_MAX_AGE", default=86_400, low=60, high=366 * 86_400),
        work_max_age=found.of(_whole, environ, "ENTRA_WORK_MAX_AGE", default=30 * 86_400, low=3600, high=366 * 86_400),
        client_secret_expires=found.of(_moment, environ, "ENTRA_CLIENT_SECRET_EXPIRES"),
        authority_host=cloud.authority_host,
        instance_discovery=cloud.instance_discovery,
        graph_endpoint=(found.of(_https, environ, "AZURE_GRAPH_ENDPOINT", GRAPH_ENDPOINT) or "").rstrip("/"),
        ca_bundle=cloud.ca_bundle,
        frontend_url=frontend,
    )
    if enabled:
        _note_incomplete(entra, found)
    _note_short_work(entra, found)
    found.refuse()
    return entra


def _note_short_work(entra: EntraSettings, found: Findings) -> None:
    """Work that somebody began with a token goes on as long as it counts. An age that could not be read has its own sentence."""
    ages: tuple[int | None, ...] = (entra.work_max_age, entra.token_max_age, entra.session_max_age)
    read = [age for age in ages if age is not None]
    if len(read) == len(ages) and read[0] < max(read):
        found.note(
            f"ENTRA_WORK_MAX_AGE is {read[0]}; what somebody began with a token goes on as long as the token counts, so it must "
            f"be {max(read)} (the longer of ENTRA_TOKEN_MAX_AGE and ENTRA_SESSION_MAX_AGE) or more"
        )


def _note_incomplete(entra: EntraSettings, found: Findings) -> None:
    for name, value, where in (
        ("ENTRA_TENANT_ID", entra.tenant_id, "Entra ID, Overview, Tenant ID"),
        ("ENTRA_CLIENT_ID", entra.client_id, "App registrations, your app, Application (client) ID"),
    ):
        if not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", value):
            found.note(f"{name} is {shown(value)}; it must be the UUID shown at {where}")
    if not entra.client_secret:
        found.note("ENTRA_CLIENT_SECRET is missing; set it (or ENTRA_CLIENT_SECRET_FILE) to the secret's Value")
    if entra.redirect_uri and not entra.redirect_uri.endswith(CALLBACK_PATH):
        found.note(f"ENTRA_REDIRECT_URI is {shown(entra.redirect_uri)}; it must end with {CALLBACK_PATH}")
    if entra.default_role == "admin":
        found.note("ENTRA_DEFAULT_ROLE is 'admin'; that would make everybody of the tenant an administrator")


def _entra_scopes(text: str, client_id: str) -> tuple[str, ...]:
    """The scopes of the sign-in. Without one of an API the application's own is added: its token is what on-behalf-of needs."""
    scopes = tuple(dict.fromkeys(text.split()))
    has_api = any("/" in scope for scope in scopes)
    return scopes if has_api else (*scopes, f"{client_id}/.default")


def _https(environ: Mapping[str, str], name: str, default: str) -> str:
    text = environ.get(name, "").strip() or default
    try:
        parts = urlparse(text)
        _ = parts.port
    except ValueError:
        parts = None
    if parts is None or parts.scheme != "https" or not parts.hostname or parts.username or parts.fragment:
        raise EnvironmentMistake(f"{name} is {shown(text)}; it must be a URL that begins with https://")
    return text


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _path(environ: Mapping[str, str], name: str) -> Path | None:
    return Path(environ[name]) if environ.get(name) else None
