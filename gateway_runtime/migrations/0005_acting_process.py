import uuid

from django.db import migrations, models


class Migration(migrations.Migration):
    """Of the process before the upgrade nobody knows how it ended; a new database had none."""

    dependencies = [
        ("gateway_runtime", "0004_personal_tokens"),
    ]

    operations = [
        migrations.AddField(
            model_name="nodestate",
            name="process",
            field=models.UUIDField(default=uuid.uuid4, null=True),
        ),
        migrations.AlterField(
            model_name="nodestate",
            name="process",
            field=models.UUIDField(null=True),
        ),
    ]
