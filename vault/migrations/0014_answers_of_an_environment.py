"""The key of a repeated request has room for the gateway environment it is about."""

from django.db import migrations, models

from common.migration_operations import LongerText


class Migration(migrations.Migration):
    dependencies = [
        ("vault", "0013_versions_by_digest"),
    ]

    operations = [
        LongerText("answeredrequest", "key", models.CharField(max_length=240)),
    ]
