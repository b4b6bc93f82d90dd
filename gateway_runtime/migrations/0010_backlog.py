"""What waits in the queue of writes is counted as it comes and ends; what waits already is counted once."""

from django.db import migrations, models

FILL = """
INSERT INTO gateway_runtime_backlog (id, writes, size)
SELECT 1, count(*), coalesce(sum(size), 0) FROM gateway_runtime_pendingwrite WHERE outcome IN ('queued', 'received')
"""


class Migration(migrations.Migration):
    dependencies = [
        ("gateway_runtime", "0009_kept_mark"),
    ]

    operations = [
        migrations.CreateModel(
            name="Backlog",
            fields=[
                ("id", models.SmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("writes", models.BigIntegerField(default=0)),
                ("size", models.BigIntegerField(default=0)),
            ],
        ),
        migrations.RunSQL(FILL, migrations.RunSQL.noop),
    ]
