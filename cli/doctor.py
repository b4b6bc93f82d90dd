"""`./mazevault doctor`: sign-in with Entra, and the authorities; each trouble with one cause, one fix and one owner.

Runs as a process of its own beside the launcher, with the settings of the node: those of the environment, or of the stack here.
"""

from __future__ import annotations

import argparse
import json
import os
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
from cryptography import x509

from accounts import diagnoses, secret_end
from accounts.diagnoses import Diagnosis, Owner
from accounts.entra import Entra, EntraError
from accounts.entra_settings import EntraSettings
from cli.stack.layout import StackError, layout_from, read_run_file
from cli.stack.primary_client import PrimaryClient, PrimaryError
from cli.stack.sandbox import entra_environment, own_tenant
from orchestrator.environment import EnvironmentMistake, entra_settings, with_vault
from protocol import paths
from vault.generations import warn_below

CLOCK_SECONDS = 60.0
"""Tokens are refused beyond two minutes; this leaves time to act."""
API_SECONDS = 30.0
WITH_RIGHTS = (
    "sign in as somebody who may read the fleet (gateway:read) and run the doctor again with what that answers:\n"
    "           export MAZEVAULT_TOKEN=$(curl -sS --fail-with-body{ca} {url}/api/v1/auth/login \\\n"
    """             -H 'Content-Type: application/json' -d '{{"email":"YOU","password":"YOURS"}}' """
    """| python3 -c 'import json,sys; print(json.load(sys.stdin)["token"])')\n"""
    "           ./mazevault doctor --url {url}{ca_file}"
)
"""How to run it again with rights; its lines can be pasted."""
WITH_ENTRA = (
    "it needs somebody who signs in with Entra: open {url}/api/v1/auth/sso/entra/login in a browser, then "
    "{url}/api/v1/auth/sso/entra/check, which makes this check and answers it; at the sandbox: "
    "./mazevault doctor --as ada.admin@bank.example"
)
OF_NO_ENTRA_SESSION = "ENTRA_SESSION_NEEDED"
"""The API's code for a token that a password or another token made: it may look at the fleet and knows nothing of Entra."""


class State(StrEnum):
    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """What one check found. `fix` and `owner` are empty when nothing is wrong."""

    check: str
    state: State
    sentence: str
    fix: str = ""
    owner: str = ""
    code: str = ""


class Trouble(Exception):
    """A check failed; raised with what is wrong."""

    def __init__(self, diagnosis: Diagnosis) -> None:
        super().__init__(diagnosis.cause)
        self.diagnosis = diagnosis


class Skipped(Exception):
    """A check cannot be made; the sentence says what it needs."""


@dataclass(frozen=True)
class Primary:
    """Where the API is, and who asks. `token` belongs to a session that began at Entra."""

    url: str
    ca_file: Path | None
    token: str = ""
    sign_in_as: str = ""
    admin_token: str = ""
    """The administrator's session of the stack that runs here, for what needs no session of Entra."""

    @property
    def any_token(self) -> str:
        return self.token or self.admin_token

    def client(self) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
        return httpx.Client(verify=context, timeout=API_SECONDS, trust_env=False)


def examine(own: EntraSettings, primary: Primary) -> list[Finding]:
    """All checks in order. When the login host cannot be asked, what needs it is skipped."""
    if not own.enabled:
        return [Finding("settings", State.SKIPPED, "sign-in with Entra is switched off (ENTRA_ENABLED)")]
    entra = Entra(own)
    first = _made("login host", lambda: _login_host(entra))
    later: list[tuple[str, Callable[[], str]]] = [
        ("clock", lambda: _clock(entra)),
        ("signing keys", lambda: _keys(entra)),
        ("redirect URI", lambda: _redirect_uri(entra)),
        ("client secret", lambda: _secret(entra)),
        ("end of the client secret", lambda: _secret_end(own, entra)),
    ]
    settings = Finding("settings", State.OK, f"tenant {own.tenant_id}, application {own.client_id}, at {own.authority_host}")
    if first.state is not State.OK:
        rest = [Finding(name, State.SKIPPED, "the login host cannot be asked") for name, _ in later]
        return [settings, first, *rest]
    return [settings, first, *(_made(name, check) for name, check in later), *_as_a_person(own, primary)]


def _made(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, State.OK, check())
    except (EntraError, Trouble) as trouble:
        return _failed(name, trouble.diagnosis)
    except Skipped as reason:
        return Finding(name, State.SKIPPED, str(reason))


def _failed(name: str, found: Diagnosis) -> Finding:
    return Finding(name, State.FAILED, found.cause, found.fix, found.owner.value, found.code)


def _login_host(entra: Entra) -> str:
    """Reachable, trusted, and this tenant's."""
    return f"reached; issuer {entra.configuration()['issuer']}"


def _clock(entra: Entra) -> str:
    answer = entra.answer_to(f"{entra.settings.authority}/v2.0/.well-known/openid-configuration")
    try:
        ahead = (datetime.now(UTC) - parsedate_to_datetime(answer.headers["Date"])).total_seconds()
    except (KeyError, ValueError) as error:
        raise Skipped("the login host does not tell its time") from error
    if abs(ahead) > CLOCK_SECONDS:
        where = "ahead of" if ahead > 0 else "behind"
        cause = f"the clock here is {abs(ahead):.0f} s {where} Entra's"
        raise Trouble(Diagnosis("CLOCK", cause, "run a time service (chrony) on this node", Owner.OPERATOR))
    return f"{abs(ahead):.0f} s apart"


def _keys(entra: Entra) -> str:
    count = len(entra.keys(datetime.now(UTC)))
    if not count:
        raise Trouble(diagnoses.UNREADABLE)
    return f"{count} usable"


def _redirect_uri(entra: Entra) -> str:
    """Ask for a silent sign-in: Entra comes back to a registered address only, and shows AADSTS50011 otherwise."""
    own = entra.settings
    url = entra.begin().url
    silent = f"{url.split('?')[0]}?{urlencode({**dict(parse_qsl(urlsplit(url).query)), 'prompt': 'none'})}"
    answer = entra.answer_to(silent)
    if answer.headers.get("Location", "").startswith(own.redirect_uri):
        values = dict(parse_qsl(urlsplit(answer.headers["Location"]).query))
        diagnosis, number = diagnoses.diagnose(values)
        if number not in (None, 50058, 65001):
            raise Trouble(diagnosis)
        return f"{own.redirect_uri} is registered"
    diagnosis, number = diagnoses.diagnose({"error_description": answer.text[:200_000]})
    if number is None:
        raise Skipped(f"Entra neither came back to {own.redirect_uri} nor said why; look at Authentication, Redirect URIs")
    raise Trouble(diagnosis)


def _secret(entra: Entra) -> str:
    entra.application_token(entra.settings.client_id)
    return "taken"


def _secret_end(own: EntraSettings, entra: Entra) -> str:
    now = datetime.now(UTC)
    ends, source, detail = secret_end.ending(own, entra, now)
    if ends is None:
        raise Skipped(f"not known: {detail}; set ENTRA_CLIENT_SECRET_EXPIRES, or grant the application Application.Read.All")
    days = (ends - now).total_seconds() / 86_400
    if days < secret_end.WARN_DAYS:
        fix = "App registrations, Certificates & secrets: make a new one, put it in place, restart the nodes, delete the old one"
        raise Trouble(Diagnosis("CLIENT_SECRET_ENDS", f"it ends in {days:.0f} days", fix, Owner.DIRECTORY))
    return f"in {days:.0f} days (by the {source})"


def _as_a_person(own: EntraSettings, primary: Primary) -> Iterator[Finding]:
    """Consent and roles are seen with the eyes of somebody who signed in."""
    try:
        body = _check(own, primary)
    except Skipped as reason:
        yield Finding("sign-in", State.SKIPPED, str(reason))
        return
    except Trouble as trouble:
        yield _failed("sign-in", trouble.diagnosis)
        return
    yield Finding("sign-in", State.OK, f"as {body['user']}, role {body['role']}")
    for row in body["resources"]:
        if row["ok"]:
            yield Finding(f"consent for {row['resource']}", State.OK, "granted")
        else:
            fix, _, owner = str(row["details"]).removeprefix("Fix: ").partition(" Owner: ")
            yield Finding(f"consent for {row['resource']}", State.FAILED, row["error"], fix, owner.rstrip("."), row["code"])
    yield _made("App Roles and groups", lambda: _roles(own, body))


def _roles(own: EntraSettings, body: Mapping[str, Any]) -> str:
    where = "MazeVault, Access Control, Group/App Role Mappings"
    if not body["mappings"]:
        raise Trouble(Diagnosis("NO_MAPPING", f"there is no mapping, so everybody is {own.default_role}",
                                f"{where}: add one whose External ID is the Value of an App Role", Owner.OPERATOR))  # fmt: skip
    if not body["mapped_roles"]:
        raise Trouble(Diagnosis("NO_MAPPING_FITS", f"no mapping fits {body['user']}, who is therefore {own.default_role}",
                                "Entra ID, Enterprise applications, your app, Users and groups: assign an App Role, "
                                f"or add a mapping: {where}", Owner.DIRECTORY))  # fmt: skip
    return f"{', '.join(body['mapped_roles'])} out of {body['mappings']} mappings"


def _check(own: EntraSettings, primary: Primary) -> dict[str, Any]:
    if not primary.url:
        raise Skipped("no Primary is known here; name it with --url")
    try:
        with primary.client() as http:
            token = primary.token or (_signed_in(http, own, primary) if primary.sign_in_as else "")
            if not token:
                raise Skipped(WITH_ENTRA.format(url=primary.url))
            return _answer(http.get(f"{primary.url}/api/v1/auth/sso/entra/check", headers={"Authorization": f"Bearer {token}"}))
    except Trouble as trouble:
        if trouble.diagnosis.code != OF_NO_ENTRA_SESSION:
            raise
        raise Skipped(f"the token in MAZEVAULT_TOKEN is of no such session; {WITH_ENTRA.format(url=primary.url)}") from trouble
    except (httpx.HTTPError, OSError) as error:
        why = f"the Primary at {primary.url} cannot be asked: {type(error).__name__}"
        raise Trouble(Diagnosis("PRIMARY", why, "check --url and --ca-file", Owner.OPERATOR)) from error


def _signed_in(http: httpx.Client, own: EntraSettings, primary: Primary) -> str:
    """A sign-in at the sandbox, which asks for no password. Entra itself has no such form."""
    begun = http.get(f"{primary.url}/api/v1/auth/sso/entra/login")
    if begun.status_code != 302:
        _answer(begun)
    trusted = str(own.ca_bundle) if own.ca_bundle else None
    with httpx.Client(verify=ssl.create_default_context(cafile=trusted), timeout=API_SECONDS, trust_env=False) as entra:
        back = entra.post(begun.headers["Location"], data={"user": primary.sign_in_as})
    if back.status_code != 302:
        raise Trouble(diagnoses.diagnose({"error_description": back.text})[0])
    return str(_answer(http.get(back.headers["Location"], headers={"Accept": "application/json"}))["token"])


def _answer(answer: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    if answer.status_code != 200:
        fix, _, owner = str(body.get("details", "")).removeprefix("Fix: ").partition(" Owner: ")
        known = next((one for one in Owner if one.value == owner.rstrip(".")), Owner.OPERATOR)
        raise Trouble(Diagnosis(str(body.get("code", "")), str(body.get("error", "")), fix or "see the audit log", known))
    return body


def authorities(primary: Primary) -> Finding:
    """Whether an authority of the Primary ends without a successor."""
    return _made("certificate authorities", lambda: _authorities(primary))


def _authorities(primary: Primary) -> str:
    """All of them for who may look at the fleet; else those whose certificates anybody may see."""
    if not primary.url:
        raise Skipped("no Primary is known here; name it with --url")
    try:
        with primary.client() as http:
            rows, told_all = _rows_of_authorities(http, primary)
    except (httpx.HTTPError, OSError, ValueError, KeyError) as error:
        why = f"the Primary at {primary.url} cannot be asked: {type(error).__name__}"
        raise Trouble(Diagnosis("PRIMARY", why, "check --url and --ca-file", Owner.OPERATOR)) from error
    warnings = [row["warning"] for row in rows if row["warning"]]
    if warnings:
        fix = "./mazevault keys list, and docs/operations/keys.md"
        raise Trouble(Diagnosis("CA_ENDS", "; ".join(warnings), fix, Owner.OPERATOR))
    more = "" if told_all else f"; to look at those of the environments too, {_with_rights(primary)}"
    return ", ".join(f"{row['authority']} ends in {row['days_left']:.0f} days" for row in rows) + more


def _with_rights(primary: Primary) -> str:
    ca, ca_file = (f" --cacert {primary.ca_file}", f" --ca-file {primary.ca_file}") if primary.ca_file else ("", "")
    return WITH_RIGHTS.format(url=primary.url, ca=ca, ca_file=ca_file)


def _rows_of_authorities(http: httpx.Client, primary: Primary) -> tuple[list[dict[str, Any]], bool]:
    """Of all, with a token that may; else of those that everybody is shown."""
    if primary.any_token:
        return _told_authorities(http, primary), True
    return _shown_authorities(http, primary), False


def _told_authorities(http: httpx.Client, primary: Primary) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {primary.any_token}"}
    rows: Any = _answer(http.get(f"{primary.url}/api/v1/admin/authorities", headers=headers))
    return [row for row in rows if row["standing"] == "current"]


def _shown_authorities(http: httpx.Client, primary: Primary) -> list[dict[str, Any]]:
    """From the trust document: of several generations the newest that is valid, since its successor is made long before."""
    shown, now = _answer(http.get(f"{primary.url}{paths.TRUST}")), datetime.now(UTC)
    found = []
    for name, part in (("root", "roots"), ("platform", "intermediates"), ("channel", "channel_certificate")):
        newest = max(x509.load_pem_x509_certificates(shown[part].encode()), key=lambda one: one.not_valid_after_utc)
        left, life = newest.not_valid_after_utc - now, newest.not_valid_after_utc - newest.not_valid_before_utc
        days, low = left.total_seconds() / 86_400, left < warn_below(life)
        found.append({"authority": name, "days_left": days, "warning": f"{name} ends in {days:.0f} days" if low else ""})
    return found


def _settings(environ: Mapping[str, str]) -> tuple[EntraSettings, Primary]:
    """The node's own settings, or those of the stack that runs here."""
    layout = layout_from(environ)
    run = read_run_file(layout)
    url = environ.get("MAZEVAULT_BASE_URL") or (run or {}).get("primary_url", "")
    ca_file = environ.get("MAZEVAULT_CA_FILE") or (run or {}).get("ca_file")
    if "ENTRA_ENABLED" not in environ and run and run.get("sandbox_url"):
        environ = {**environ, **(own_tenant(environ) or entra_environment(layout, url))}
    token = environ.get("MAZEVAULT_TOKEN", "")
    own = entra_settings(with_vault(environ), url or "https://localhost:8443")
    return own, Primary(url, Path(ca_file) if ca_file else None, token, admin_token=_admin_session(run, url))


def _admin_session(run: Mapping[str, Any] | None, url: str) -> str:
    """The administrator's session, if the Primary is that of the stack that runs here: the last one, or a new one where it has
    ended. Empty where it cannot be had; the check then finds out why."""
    if not run or url != run.get("primary_url"):
        return ""
    try:
        with PrimaryClient(url, Path(run["ca_file"]), run["admin_email"], Path(run["admin_password_file"]), timeout=8) as primary:
            return primary.token
    except (PrimaryError, OSError):
        return ""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="mazevault doctor", description="Check sign-in with Entra and the certificate authorities."
    )
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    parser.add_argument("--as", dest="sign_in_as", default="", help="sign in at the sandbox as this user, for the last checks")
    parser.add_argument("--url", default="", help="of the Primary; otherwise MAZEVAULT_BASE_URL or the stack that runs here")
    parser.add_argument("--ca-file", type=Path, help="what the Primary's certificate is checked with")
    wish = parser.parse_args(arguments)
    try:
        own, found = _settings(os.environ)
    except (EnvironmentMistake, StackError) as mistake:
        findings = [Finding("settings", State.FAILED, str(mistake), "set it as it says", Owner.OPERATOR.value, "SETTINGS")]
    else:
        primary = replace(
            found, url=wish.url or found.url, ca_file=wish.ca_file or found.ca_file, sign_in_as=wish.sign_in_as,
            admin_token="" if wish.url else found.admin_token,
        )  # fmt: skip
        findings = [*examine(own, primary), authorities(primary)]
    print(json.dumps([asdict(row) for row in findings], indent=2) if wish.output == "json" else _text(findings))
    return 1 if any(row.state is State.FAILED for row in findings) else 0


def _text(findings: Sequence[Finding]) -> str:
    lines = []
    for row in findings:
        lines.append(f"{row.state.value:<8} {row.check}: {row.sentence}")
        if row.fix:
            lines += [f"         fix: {row.fix}", f"         owner: {row.owner}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
