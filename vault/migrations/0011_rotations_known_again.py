"""Of each secret the version its last rotation made, ten thousand secrets at a time. Locked in the order in which changes lock."""

from django.db import migrations

from common.migration_operations import RunUntilDone

ROTATED = """
WITH r AS (SELECT v.secret_id, max(v.version) AS version
             FROM vault_secretversion v JOIN vault_secret o ON o.id = v.secret_id
            WHERE v.operation = 'rotate' AND v.version > o.rotated_version
            GROUP BY v.secret_id LIMIT 10000),
     held AS (SELECT o.id FROM vault_secret o WHERE o.id IN (SELECT secret_id FROM r) ORDER BY o.id FOR NO KEY UPDATE)
UPDATE vault_secret s SET rotated_version = r.version FROM r JOIN held ON held.id = r.secret_id
 WHERE r.secret_id = s.id AND s.rotated_version < r.version
"""


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("vault", "0010_values_known_again"),
    ]

    operations = [RunUntilDone(ROTATED)]
