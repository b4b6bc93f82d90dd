"""What the Primary shows about all audit chains it holds, and the report on them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from common import audit_report
from common.snapshot import snapshot
from gateways.models import AuditCountersignature, GatewayAuditChain, GatewayAuditRecord, PrimaryKeyPair
from protocol.audit import PRIMARY, Link
from protocol.audit_evidence import Countersignature, Evidence, Keys, Report, check
from vault import authorities


def evidence(made_at: str = "") -> Evidence:
    """Its own chain, its copies of the gateways' chains, and the public keys behind the signatures."""
    copies = {chain: partial(_copied, chain) for chain in GatewayAuditChain.objects.values_list("chain", flat=True)}
    signing = PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.SIGNING).order_by("created_at")
    return Evidence(
        node=PRIMARY,
        chains={**audit_report.own_chains(), **copies},
        statements=audit_report.statements(),
        countersignatures=tuple(_countersignatures()),
        keys=Keys(
            channel=tuple(signing.values_list("certificate", flat=True)),
            intermediates=authorities.certificates_ever("platform"),
            root=authorities.certificates_ever(authorities.ROOT),
        ),
        hidden=audit_report.hidden_entries(),
        made_at=made_at,
    )


def verify(pin: str = "") -> Report:
    """Check everything in this database; `pin` is the root's, when it is known from elsewhere."""
    with snapshot() as moment:
        return check([evidence(moment)], pin)


def _copied(chain: str) -> Iterator[Link]:
    rows = GatewayAuditRecord.objects.filter(chain=chain).order_by("position").values_list("position", "text", "hash")
    return (Link(*row) for row in rows.iterator(chunk_size=1000))


def _countersignatures() -> Iterator[Countersignature]:
    rows = AuditCountersignature.objects.exclude(signature="").select_related("gateway", "checkpoint").order_by("id")
    for row in rows:
        yield Countersignature(row.checkpoint.text, row.gateway.name, str(row.generation), row.key, row.signature)
