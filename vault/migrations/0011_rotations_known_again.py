"""Of each secret the version its last rotation made, ten thousand secrets at a time; `migrate` tries again after a deadlock."""

from django.db import migrations

from common.migration_operations import RunUntilDone

ROTATED = """
UPDATE vault_secret s SET rotated_version = r.version
  FROM (SELECT v.secret_id, max(v.version) AS version
          FROM vault_secretversion v JOIN vault_secret o ON o.id = v.secret_id
         WHERE v.operation = 'rotate' AND v.version > o.rotated_version
         GROUP BY v.secret_id LIMIT 10000) r
 WHERE r.secret_id = s.id AND s.rotated_version < r.version
"""


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("vault", "0010_values_known_again"),
    ]

    operations = [RunUntilDone(ROTATED)]
