"""Counters and a running digest instead of counting and computing in requests; what is there already is counted once."""

import django.db.models.deletion
from django.db import migrations, models

FILL = """
INSERT INTO gateways_writestream (gateway_id, generation, arrived, highest)
SELECT gateway_id, generation, count(*), max(sequence) FROM gateways_receivedwrite WHERE in_stream GROUP BY 1, 2;
INSERT INTO gateways_taskminute (gateway_id, minute, good, bad)
SELECT gateway_id, date_trunc('minute', finished_at), count(*) FILTER (WHERE state = 'succeeded'),
       count(*) FILTER (WHERE state IN ('failed', 'dead_letter'))
  FROM gateways_task
 WHERE gateway_id IS NOT NULL AND finished_at > now() - interval '15 minutes' AND state IN ('succeeded', 'failed', 'dead_letter')
 GROUP BY 1, 2;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("common", "0004_audit_chains"),
        ("gateways", "0005_watched_since"),
    ]

    operations = [
        migrations.CreateModel(
            name="CopiedThing",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("kind", models.CharField(max_length=16)),
                ("entity_id", models.UUIDField()),
                ("fingerprint", models.CharField(max_length=64)),
            ],
        ),
        migrations.CreateModel(
            name="CopyDigest",
            fields=[
                (
                    "environment",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        serialize=False,
                        to="gateways.gatewayenvironment",
                    ),
                ),
                ("position", models.BigIntegerField(default=0)),
                (
                    "digest",
                    models.CharField(default="2:00000000000000000000000000000000000000000000000000000000000000", max_length=64),
                ),
                ("checked_upto", models.BigIntegerField(default=0)),
                (
                    "checked_sum",
                    models.CharField(default="2:00000000000000000000000000000000000000000000000000000000000000", max_length=64),
                ),
                ("checked_at", models.DateTimeField(null=True)),
            ],
        ),
        migrations.CreateModel(
            name="TaskMinute",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("minute", models.DateTimeField()),
                ("good", models.IntegerField(default=0)),
                ("bad", models.IntegerField(default=0)),
            ],
        ),
        migrations.CreateModel(
            name="WriteStream",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("generation", models.UUIDField()),
                ("arrived", models.BigIntegerField(default=0)),
                ("highest", models.BigIntegerField(default=0)),
            ],
        ),
        migrations.AddIndex(
            model_name="auditcountersignature",
            index=models.Index(fields=["generation"], name="countersignatures_of_a_life"),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("detail", ""), ("kind", "vault.survey"), ("state", "succeeded")),
                fields=["created_at"],
                name="tasks_not_read_yet",
            ),
        ),
        migrations.AddField(
            model_name="copiedthing",
            name="environment",
            field=models.ForeignKey(
                db_index=False, on_delete=django.db.models.deletion.CASCADE, to="gateways.gatewayenvironment"
            ),
        ),
        migrations.AddField(
            model_name="taskminute",
            name="gateway",
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, to="gateways.gateway"),
        ),
        migrations.AddField(
            model_name="writestream",
            name="gateway",
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, to="gateways.gateway"),
        ),
        migrations.AddIndex(
            model_name="copiedthing",
            index=models.Index(fields=["environment", "id"], name="copied_things_in_order"),
        ),
        migrations.AddConstraint(
            model_name="copiedthing",
            constraint=models.UniqueConstraint(fields=("environment", "kind", "entity_id"), name="one_fingerprint_of_a_thing"),
        ),
        migrations.AddConstraint(
            model_name="taskminute",
            constraint=models.UniqueConstraint(fields=("gateway", "minute"), name="one_row_of_a_gateways_minute"),
        ),
        migrations.AddConstraint(
            model_name="writestream",
            constraint=models.UniqueConstraint(fields=("gateway", "generation"), name="one_stream_of_a_life"),
        ),
        migrations.RunSQL(FILL, migrations.RunSQL.noop),
    ]
