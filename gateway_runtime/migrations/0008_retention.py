"""What retention looks rows up by. The indexes are built while others go on writing."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("gateway_runtime", "0007_running_digest"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="effect",
            index=models.Index(
                condition=models.Q(("reported_at__isnull", False)), fields=["reported_at"], name="effects_reported"
            ),
        ),
    ]
