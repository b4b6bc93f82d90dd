"""What grows, and for how long it is kept: one table for both kinds of node. Pure data; `common.retention` carries it out.

A row goes when it is older than its days and its guard holds. Days come from a setting, 0 keeps for ever; where the number is not
for people to choose there is no setting. `docs/operations/retention.md` is made from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PRIMARY, GATEWAY = "primary", "gateway"
BOTH = frozenset({PRIMARY, GATEWAY})
ON_PRIMARY, ON_GATEWAY = frozenset({PRIMARY}), frozenset({GATEWAY})
HOURS = 1 / 24


@dataclass(frozen=True)
class Rule:
    """One table. `age` is the column that counts; `guard` is SQL on the row `t` that must hold, said in words by `said`.

    `children` are tables whose rows go with theirs, with the column that refers to the row. `done_by` names the use case that
    removes them where one DELETE cannot; then `age` and `guard` are only said.
    """

    table: str
    grows_by: str
    days: float
    age: str
    said: str
    on: frozenset[str]
    setting: str = ""
    least: int = 1
    guard: str = "true"
    key: str = "id"
    joins: str = ""
    children: tuple[tuple[str, str], ...] = ()
    done_by: str = ""


RULES: tuple[Rule, ...] = (
    Rule(
        "gateways_task", "each sync run, connection test, survey, retirement", 30, "finished_at",
        "ended, and a survey has been read", ON_PRIMARY, "MAZEVAULT_RETENTION_TASK_DAYS",
        guard="t.finished_at IS NOT NULL AND NOT (t.kind = 'vault.survey' AND t.state = 'succeeded' AND t.detail = '')",
        children=(("gateways_rejectedresult", "task_id"),),
    ),
    Rule("gateways_rejectedresult", "each result that came too late", 30, "received_at", "with its task at the latest",
         ON_PRIMARY, "MAZEVAULT_RETENTION_TASK_DAYS"),
    Rule("gateways_taskminute", "a minute in which tasks ended at a gateway", HOURS, "minute", "", ON_PRIMARY),
    Rule("gateways_messagereceipt", "each message of a gateway", HOURS / 4, "received_at",
         "older messages are refused by their time, and their numbers stay used", ON_PRIMARY, key="message_id",
         done_by="gateways.instances"),
    Rule(
        "gateways_receivedwrite", "each write that waited at a gateway", 90, "settled_at",
        "settled; everything before it in its stream has arrived; a later write to the same secret was applied; no open loss "
        "manifest and no waiting write speaks of it; of conflicts, quarantined writes and dead letters only those a person "
        "resolved", ON_PRIMARY, "MAZEVAULT_RETENTION_WRITE_DAYS", least=30, done_by="gateways.write_retention",
    ),
    Rule("gateways_lossmanifest", "each move without the consent of the active gateway", 730, "closed_at", "closed", ON_PRIMARY,
         "MAZEVAULT_RETENTION_HISTORY_DAYS", guard="t.closed_at IS NOT NULL", least=30),
    Rule("gateways_bootstraptokenrow", "each bootstrap token", 400, "expires_at", "expired", ON_PRIMARY),
    Rule(
        "gateways_gatewaycertificate", "each renewal", 400, "not_after", "expired, and not the newest of its gateway", ON_PRIMARY,
        key="fingerprint",
        guard="EXISTS (SELECT 1 FROM gateways_gatewaycertificate n WHERE n.gateway_id = t.gateway_id "
              "AND n.not_after > t.not_after)",
    ),
    Rule(
        "gateways_gatewayauditrecord", "each audit entry of a gateway", 0, "received_at", "anchored; a signed cut stays",
        ON_PRIMARY, "MAZEVAULT_AUDIT_RETENTION_DAYS", least=0, done_by="gateways.audit_retention",
    ),
    Rule("common_auditcheckpoint", "a signed checkpoint each half minute in which something happened", 0, "",
         "with the entries before the cut it lies before; not when a gateway refused to sign it. A gateway remembers the newest "
         "5,000 it signed", BOTH, "MAZEVAULT_AUDIT_RETENTION_DAYS", least=0, done_by="gateways.audit_retention"),
    Rule("gateways_auditcountersignature", "each gateway for each checkpoint", 0, "", "with its checkpoint", ON_PRIMARY,
         "MAZEVAULT_AUDIT_RETENTION_DAYS", least=0, done_by="gateways.audit_retention"),
    Rule("common_auditentry", "whatever people and machines do", 0, "at", "covered by a signed checkpoint; a signed cut stays",
         ON_PRIMARY, "MAZEVAULT_AUDIT_RETENTION_DAYS", least=0, done_by="gateways.audit_retention"),
    Rule("common_auditentry", "each read and change at the gateway", 90, "at",
         "held and anchored by the Primary; the Primary's signed cut stays", ON_GATEWAY, "MAZEVAULT_AUDIT_RETENTION_DAYS",
         least=0, done_by="gateway_runtime.audit_retention"),
    Rule("common_auditlink", "each audit entry", 0, "", "with its entry", BOTH, "MAZEVAULT_AUDIT_RETENTION_DAYS", least=0,
         done_by="the rule of its entry"),
    Rule(
        "vault_secretversion", "each change of a secret", 400, "created_at",
        "not among the newest 100 of its secret, which a rollback can go back to, nor the newest with a value before them; no "
        "rotation of it is under way", ON_PRIMARY, "MAZEVAULT_RETENTION_VERSION_DAYS", least=0,
        joins="JOIN vault_secret s ON s.id = t.secret_id AND s.version > 100 AND t.version <= s.version - 100",
        guard="NOT EXISTS (SELECT 1 FROM integrations_rotation o WHERE o.version_id = t.id AND o.ended_at IS NULL) "
              "AND (t.sealed_value IS NULL AND t.external_version = '' OR EXISTS (SELECT 1 FROM vault_secretversion n "
              "JOIN vault_secret m ON m.id = n.secret_id WHERE n.secret_id = t.secret_id AND n.version > t.version "
              "AND n.version <= m.version - 100 AND (n.sealed_value IS NOT NULL OR n.external_version <> '')))",
        children=(("integrations_rotation", "version_id"), ("vault_keptvalue", "version_id")),
    ),
    Rule("integrations_rotation", "each rotated value", 400, "ended_at", "ended; goes with its version", ON_PRIMARY,
         "MAZEVAULT_RETENTION_VERSION_DAYS", least=0, guard="false", key="version_id"),
    Rule("vault_vaultclaim", "each change of a vault, until it is recorded", 7, "begun_at",
         "nobody could find out what became of it", BOTH, done_by="vault.elsewhere"),
    Rule("vault_answeredrequest", "each request with an Idempotency-Key", 1, "at", "", BOTH),
    Rule("failover_plan", "each plan of a move, and each move", 30, "expires_at", "no move was made by it", ON_PRIMARY,
         guard="NOT EXISTS (SELECT 1 FROM failover_operation o WHERE o.plan_id = t.id)"),
    Rule(
        "failover_operation", "each move", 730, "finished_at", "finished, and not the last one of its environment", ON_PRIMARY,
        "MAZEVAULT_RETENTION_HISTORY_DAYS", least=30,
        guard="t.finished_at IS NOT NULL AND EXISTS (SELECT 1 FROM failover_operation n "
              "WHERE n.environment_id = t.environment_id AND n.finished_at > t.finished_at)",
        children=(("failover_transition", "operation_id"),),
    ),
    Rule("failover_transition", "each step of a move", 730, "at", "without a move of its own; the others go with their move",
         ON_PRIMARY, "MAZEVAULT_RETENTION_HISTORY_DAYS", least=30, guard="t.operation_id IS NULL"),
    Rule("integrations_storagemove", "each move of a project's values", 730, "ended_at",
         "ended, not the last one of its project and environment, and no value of it rests here any more", ON_PRIMARY,
         "MAZEVAULT_RETENTION_HISTORY_DAYS", least=30,
         guard="t.ended_at IS NOT NULL AND EXISTS (SELECT 1 FROM integrations_storagemove n WHERE n.project_id = t.project_id "
               "AND n.gateway_environment = t.gateway_environment AND n.created_at > t.created_at) "
               "AND NOT EXISTS (SELECT 1 FROM vault_keptvalue k WHERE k.move = t.id)"),
    Rule("vault_keptvalue", "each value that was moved into a vault", 0, "", "it was seen in the vault, or its version goes",
         ON_PRIMARY, done_by="gateways.storage_kept"),
    Rule("integrations_vaultquestion", "each connection test, each list of who has access; twenty of an integration at most", 30,
         "begun_at", "", ON_PRIMARY, "MAZEVAULT_RETENTION_TASK_DAYS"),
    Rule("integrations_syncrun", "each run of a sync rule", 0, "created_at", "the newest of each rule stay, by number",
         ON_PRIMARY, done_by="gateways.sync_runs, when a run ends"),
    Rule("integrations_syncstep", "each step of a run", 0, "", "with its run", ON_PRIMARY, done_by="gateways.sync_runs"),
    Rule("integrations_syncnote", "each thing a run left alone", 0, "", "with its run", ON_PRIMARY, done_by="gateways.sync_runs"),
    Rule("accounts_failedsignin", "each sign-in that failed", HOURS / 4, "at", "", BOTH, done_by="accounts.jobs"),
    Rule("accounts_ratecount", "each minute of an address or account", HOURS / 30, "", "the present minute and the one before",
         BOTH, done_by="accounts.jobs"),
    Rule("accounts_signinattempt", "each sign-in that was begun", HOURS / 6, "expires_at", "", BOTH, done_by="accounts.jobs"),
    Rule("accounts_session", "each sign-in", 30, "expires_at", "ended or revoked", BOTH, done_by="accounts.jobs"),
    Rule("accounts_apitoken", "each API token", 30, "expires_at", "ended or revoked", BOTH, done_by="accounts.jobs"),
    Rule("accounts_entrasession", "each sign-in by Entra ID", 0, "expires_at", "with its session's end", BOTH,
         done_by="accounts.jobs"),
    Rule("accounts_obotoken", "each token got in somebody's name", 0, "", "with its session's end", BOTH,
         done_by="accounts.jobs"),
    Rule("gateway_runtime_effect", "each task", 30, "reported_at", "the Primary has its outcome", ON_GATEWAY,
         "MAZEVAULT_RETENTION_TASK_DAYS", guard="t.reported_at IS NOT NULL"),
    Rule("gateway_runtime_pendingwrite", "each write that waited here", 7, "settled_at", "ended", ON_GATEWAY,
         guard="t.settled_at IS NOT NULL AND t.outcome NOT IN ('queued', 'received')"),
    Rule("gateway_runtime_personaltokens", "each sign-in at the gateway", 0, "expires_at", "expired", ON_GATEWAY, key="hash",
         done_by="gateway_runtime.personal"),
)  # fmt: skip

BOUNDED: Mapping[str, str] = {
    "django_content_type": "Django's own, one a model",
    "auth_permission": "Django's own, one a model and verb",
    "auth_group": "Django's own, not used",
    "common_auditpending": "only what has no place in the chain yet",
    "common_removedtally": "counters, one a table",
    "common_change": "one row of a thing in an environment: older ones go when a newer one gets its position",
    "gateways_gatewaypresence": "one a gateway",
    "gateways_gatewayinstance": "the last five of a gateway",
    "accounts_organization": "configuration",
    "accounts_environment": "configuration",
    "accounts_project": "configuration",
    "accounts_role": "configuration",
    "accounts_user": "people; a deleted one stays, since history names it",
    "accounts_serviceidentity": "service identities; a deleted one stays, since history names it",
    "accounts_rolegrant": "configuration",
    "accounts_identityprovider": "configuration",
    "accounts_groupmapping": "configuration",
    "accounts_configtemplate": "configuration",
    "accounts_clientsecretwatch": "one row",
    "vault_keyencryptionkey": "one a generation of a key",
    "vault_certificateauthority": "one a generation of an authority",
    "vault_crosscertificate": "one a generation of an authority, and root that lived with it",
    "vault_secret": "secrets; a deleted one stays as a tombstone, so that copies and syncs hear of its end",
    "integrations_integration": "configuration",
    "integrations_vault": "one a vault",
    "integrations_vaultuse": "configuration",
    "integrations_accesssnapshot": "one an integration and person, replaced by the next",
    "integrations_syncrule": "configuration",
    "integrations_syncmemory": "one a rule",
    "integrations_syncitem": "one a rule and name in its vault",
    "integrations_operationtally": "counters",
    "gateways_gatewayenvironment": "configuration",
    "gateways_gateway": "one an enrolled name; a decommissioned one stays, since history names it",
    "gateways_gatewaylife": "one an enrolment: proves writes and audit of earlier lives",
    "gateways_certifiedkey": "one a key: a key belongs to its first subject for ever",
    "gateways_primarykeypair": "recipient keys are destroyed after two days; two signing keys a year",
    "gateways_primarynode": "one row",
    "gateways_gatewaystatus": "one a gateway",
    "gateways_route": "one an environment",
    "gateways_signoflife": "one a gateway",
    "gateways_epochgrant": "one an epoch: who was active when is proven for ever (I1)",
    "gateways_tasktally": "counters",
    "gateways_durationtally": "counters",
    "gateways_writestream": "one a life of a gateway",
    "gateways_writetally": "counters",
    "gateways_toldprincipal": "one a person and environment",
    "gateways_copydigest": "one an environment",
    "gateways_copiedthing": "one a thing in an environment",
    "gateways_gatewayauditchain": "one a life of a gateway, and one a fork of its audit chain, 100 a life at most",
    "failover_environmentstate": "one an environment",
    "gateway_runtime_nodestate": "one row",
    "gateway_runtime_messagenumbers": "one row",
    "gateway_runtime_replicarow": "one a copied thing",
    "gateway_runtime_copysum": "one row",
    "gateway_runtime_replicaprincipal": "one a person known here",
    "gateway_runtime_replicatoken": "living credentials of those",
    "gateway_runtime_backlog": "one row",
    "gateway_runtime_auditfork": "one a fork of the own audit chain, 100 a life at most",
    "gateway_runtime_writetally": "counters",
}
"""Tables that are as large as the configuration or the fleet is, with the reason."""


def settings_of(mode: str) -> dict[str, tuple[int, int]]:
    """Each setting of a node's mode with its default and its least value, both in days."""
    found: dict[str, tuple[int, int]] = {}
    for rule in RULES:
        if rule.setting and mode in rule.on:
            days, least = found.get(rule.setting, (0, 0))
            found[rule.setting] = (max(days, int(rule.days)), max(least, rule.least))
    return found


def document() -> str:
    """docs/operations/retention.md."""
    lines = [*_HEAD.splitlines(), *map(_line, RULES), *_TAIL.splitlines()]
    lines += [f"| `{table}` | {reason} |" for table, reason in sorted(BOUNDED.items())]
    return "\n".join(lines) + "\n"


def _line(rule: Rule) -> str:
    where = " and ".join(sorted(rule.on))
    return f"| `{rule.table}` | {where} | {rule.grows_by} | {_kept(rule)} | {rule.said or 'nothing else'} |"


def _kept(rule: Rule) -> str:
    fixed = _span(rule.days) if rule.days else "as said" if not rule.setting else "for ever"
    return f"{fixed}, `{rule.setting}`" if rule.setting else fixed


def _span(days: float) -> str:
    if days >= 1:
        return f"{days:g} days"
    minutes = round(days * 24 * 60)
    return f"{minutes // 60} h" if minutes >= 60 else f"{minutes} min"


_HEAD = """# What is kept, and for how long

Made from `common/retained.py` by `make docs`; a test fails when a table is in neither list.

Every table that grows with use has a number. Where it is a setting, it is in days, the same on the Primary and on gateways, and 0
keeps for ever (where that is allowed: it says so at start). One loop, `retention`, removes a bounded number of rows at a time, in
every process; Celery does the same. `mazevault_retention_rows_removed_total{table}` counts what went,
`mazevault_table_rows{table}` says about how many rows are there.

A row goes when it is older than the time **and** the condition holds. What waits for a person is never removed.

| table | on | grows by | kept | may go when |
|---|---|---|---|---|"""
_TAIL = """
## Values

`MAZEVAULT_RETENTION_VERSION_DAYS` (400): a rollback can go back to each of the newest 100 versions of a secret, however old,
and to any version younger than that. Where those set no value, the version that holds it stays too. 0 keeps every version.

## Tables that do not grow with use

| table | why |
|---|---|"""
