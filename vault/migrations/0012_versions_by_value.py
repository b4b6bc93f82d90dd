"""The last version with a value is found without reading all versions."""

from django.db import migrations, models

from common.migration_operations import BuildIndex


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("vault", "0011_rotations_known_again"),
    ]

    operations = [
        BuildIndex(
            "secretversion",
            models.Index(
                condition=models.Q(("value_mark", ""), _negated=True),
                fields=["secret", "value_mark", "version"],
                name="versions_by_value",
            ),
        ),
    ]
