"""The Primary's copy of the gateways' audit chains, guarded like its own, and the countersignatures."""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

GUARDS = """
CREATE TRIGGER gateways_gatewayauditrecord_rows BEFORE UPDATE OR DELETE ON gateways_gatewayauditrecord
    FOR EACH ROW EXECUTE FUNCTION common_audit_chain_guard();
CREATE TRIGGER gateways_gatewayauditrecord_all BEFORE TRUNCATE ON gateways_gatewayauditrecord
    FOR EACH STATEMENT EXECUTE FUNCTION common_audit_is_append_only();
"""
GUARDS_UNDO = """
DROP TRIGGER gateways_gatewayauditrecord_rows ON gateways_gatewayauditrecord;
DROP TRIGGER gateways_gatewayauditrecord_all ON gateways_gatewayauditrecord;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("common", "0004_audit_chains"),
        ("gateways", "0003_offline_writes"),
    ]

    operations = [
        migrations.CreateModel(
            name="GatewayAuditChain",
            fields=[
                ("chain", models.CharField(max_length=36, primary_key=True, serialize=False)),
                ("position", models.BigIntegerField(default=0)),
                ("hash", models.CharField(max_length=64)),
                ("anchored_position", models.BigIntegerField(default=0)),
                ("anchored_at", models.DateTimeField(null=True)),
                (
                    "gateway",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="audit_chains", to="gateways.gateway"
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="GatewayAuditRecord",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("chain", models.CharField(max_length=36)),
                ("position", models.BigIntegerField()),
                ("text", models.TextField()),
                ("hash", models.CharField(max_length=64)),
                ("received_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("chain", "position"), name="one_gateway_record_at_a_position")],
            },
        ),
        migrations.CreateModel(
            name="AuditCountersignature",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("generation", models.UUIDField()),
                ("key", models.CharField(max_length=64)),
                ("signature", models.CharField(max_length=88)),
                ("refusal", models.CharField(default="", max_length=200)),
                ("received_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "checkpoint",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="countersignatures", to="common.auditcheckpoint"
                    ),
                ),
                ("gateway", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to="gateways.gateway")),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("checkpoint", "generation"), name="one_countersignature_of_a_life")
                ],
            },
        ),
        migrations.RunSQL(GUARDS, GUARDS_UNDO),
    ]
