"""What a gateway shows about its own audit chains and about the Primary's, which it has countersigned."""

from __future__ import annotations

from django.conf import settings

from common import audit_report
from gateway_runtime import identity
from protocol.audit_evidence import Evidence, Keys


def evidence(made_at: str = "") -> Evidence:
    node = settings.MAZEVAULT
    known = identity.load(node.own_gateway.state_file, node.master_key)
    return Evidence(
        node=node.own_gateway.name,
        chains=audit_report.own_chains(),
        statements=audit_report.statements(),
        keys=Keys(root=known.root if known else ""),
        hidden=audit_report.hidden_entries(),
        made_at=made_at,
    )
