"""A signed statement may be about a fork of a gateway's audit chain, whose name is a few characters longer."""

from django.db import migrations, models

from common.migration_operations import LongerText


class Migration(migrations.Migration):
    dependencies = [
        ("common", "0006_positions_of_a_scope"),
    ]

    operations = [
        LongerText("auditcheckpoint", "chain", models.CharField(max_length=40)),
    ]
