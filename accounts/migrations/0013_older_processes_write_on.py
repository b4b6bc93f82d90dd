"""The new columns have defaults in the database, so that a process of the release before can add rows beside this one."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("accounts", "0012_addresses_are_folded_here")]

    operations = [
        migrations.AlterField("project", "webhooks_version", models.IntegerField(default=0, db_default=0)),
        migrations.AlterField(
            "user", "email_folded", models.CharField(max_length=1024, default="", db_default="", editable=False)
        ),
    ]
