"""What a rotation replaced is known again. The columns get constant defaults, the index is built while others go on writing."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models

ROTATED = """
UPDATE vault_secret s SET rotated_version = r.version
  FROM (SELECT secret_id, max(version) AS version FROM vault_secretversion WHERE operation = 'rotate' GROUP BY secret_id) r
 WHERE r.secret_id = s.id
"""


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("vault", "0009_kept_values"),
    ]

    operations = [
        migrations.AddField("secret", "rotated_version", models.IntegerField(default=0, db_default=0)),
        migrations.AddField("secretversion", "value_mark", models.CharField(db_default="", default="", max_length=64)),
        migrations.RunSQL(ROTATED, migrations.RunSQL.noop),
        AddIndexConcurrently(
            "secretversion",
            models.Index(
                condition=models.Q(("value_mark", ""), _negated=True),
                fields=["secret", "value_mark", "version"],
                name="versions_by_value",
            ),
        ),
        AddIndexConcurrently(
            "secretversion",
            models.Index(
                condition=models.Q(("value_mark", ""), models.Q(("value_digest", ""), _negated=True)),
                fields=["secret", "value_digest", "version"],
                name="versions_by_digest",
            ),
        ),
    ]
