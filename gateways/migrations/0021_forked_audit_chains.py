"""Where a gateway's audit chain was contradicted, and the chain in which its own way goes on."""

from django.db import migrations, models

from common.migration_operations import LongerText


class Migration(migrations.Migration):
    dependencies = [
        ("gateways", "0020_audit_of_a_secret"),
        ("common", "0007_names_of_forked_chains"),
    ]

    operations = [
        LongerText("gatewayauditchain", "chain", models.CharField(max_length=40, primary_key=True, serialize=False)),
        LongerText("gatewayauditrecord", "chain", models.CharField(max_length=40)),
        migrations.AddField("gatewayauditchain", "follows", models.CharField(db_default="", default="", max_length=40)),
        migrations.AddField("gatewayauditchain", "begins_at", models.BigIntegerField(db_default=0, default=0)),
        migrations.AddField("gatewayauditchain", "contradicted_at", models.DateTimeField(null=True)),
        migrations.AddField("gatewayauditchain", "contradicted_position", models.BigIntegerField(null=True)),
        migrations.AddField("gatewayauditchain", "contradicted_hash", models.CharField(db_default="", default="", max_length=64)),
        migrations.AddField(
            "gatewayauditchain", "contradicting_hash", models.CharField(db_default="", default="", max_length=64)
        ),
        migrations.AddConstraint(
            "gatewayauditchain",
            models.UniqueConstraint(condition=~models.Q(follows=""), fields=("follows",), name="one_chain_follows_a_chain"),
        ),
    ]
