"""What retention looks rows up by. The indexes are built while others go on writing."""

from django.db import migrations, models

from common.migration_operations import BuildIndex


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("gateway_runtime", "0007_running_digest"),
    ]

    operations = [
        BuildIndex(
            model_name="effect",
            index=models.Index(
                condition=models.Q(("reported_at__isnull", False)), fields=["reported_at"], name="effects_reported"
            ),
        ),
    ]
