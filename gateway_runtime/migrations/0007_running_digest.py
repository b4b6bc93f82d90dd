"""The digest of the copy moves with each page. A copy that is there already is summed up by its gateway in small steps."""

from django.db import migrations, models

UNKNOWN = """
INSERT INTO gateway_runtime_copysum (id, position, round, digest, checked_upto, checked_sum)
SELECT 1, replica_position, replica_round, '', 0, '2:' || repeat('0', 62) FROM gateway_runtime_nodestate
 WHERE EXISTS (SELECT 1 FROM gateway_runtime_replicarow)
"""


class Migration(migrations.Migration):
    dependencies = [
        ("gateway_runtime", "0006_message_numbers"),
    ]

    operations = [
        migrations.CreateModel(
            name="CopySum",
            fields=[
                ("id", models.SmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("position", models.BigIntegerField(default=0)),
                ("round", models.BigIntegerField(default=0)),
                (
                    "digest",
                    models.CharField(default="2:00000000000000000000000000000000000000000000000000000000000000", max_length=64),
                ),
                ("checked_upto", models.BigIntegerField(default=0)),
                (
                    "checked_sum",
                    models.CharField(default="2:00000000000000000000000000000000000000000000000000000000000000", max_length=64),
                ),
            ],
        ),
        migrations.RunSQL(UNKNOWN, migrations.RunSQL.noop),
    ]
