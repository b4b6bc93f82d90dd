"""Under which name the Primary takes what follows where an audit chain kept here was told in two ways."""

from django.db import migrations, models
from django.db.models.functions import Now


class Migration(migrations.Migration):
    dependencies = [
        ("gateway_runtime", "0011_rights_are_told"),
        ("common", "0007_names_of_forked_chains"),
    ]

    operations = [
        migrations.CreateModel(
            name="AuditFork",
            fields=[
                ("name", models.CharField(max_length=40, primary_key=True, serialize=False)),
                ("chain", models.CharField(db_index=True, max_length=36)),
                ("position", models.BigIntegerField()),
                ("begun_at", models.DateTimeField(db_default=Now())),
            ],
        ),
    ]
