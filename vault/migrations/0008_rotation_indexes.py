"""What rotations look up. The indexes are built while others go on writing."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("accounts", "0007_client_secret_watch"),
        ("vault", "0007_claims"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="secret",
            index=models.Index(condition=models.Q(("rotation__enabled", True)), fields=["id"], name="secrets_that_rotate"),
        ),
        AddIndexConcurrently(
            model_name="secretversion",
            index=models.Index(condition=models.Q(("operation", "rotate")), fields=["created_at"], name="versions_rotated"),
        ),
    ]
