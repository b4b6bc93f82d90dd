"""What rotations look up. The indexes are built while others go on writing."""

from django.db import migrations, models

from common.migration_operations import BuildIndex


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("accounts", "0007_client_secret_watch"),
        ("vault", "0007_claims"),
    ]

    operations = [
        BuildIndex(
            model_name="secret",
            index=models.Index(condition=models.Q(("rotation__enabled", True)), fields=["id"], name="secrets_that_rotate"),
        ),
        BuildIndex(
            model_name="secretversion",
            index=models.Index(condition=models.Q(("operation", "rotate")), fields=["created_at"], name="versions_rotated"),
        ),
    ]
