"""As 0012, of versions from before there were marks."""

from django.db import migrations, models

from common.migration_operations import BuildIndex


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("vault", "0012_versions_by_value"),
    ]

    operations = [
        BuildIndex(
            "secretversion",
            models.Index(
                condition=models.Q(("value_mark", ""), models.Q(("value_digest", ""), _negated=True)),
                fields=["secret", "value_digest", "version"],
                name="versions_by_digest",
            ),
        ),
    ]
