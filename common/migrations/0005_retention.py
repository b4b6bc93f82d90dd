"""How many rows retention has removed."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("common", "0004_audit_chains"),
    ]

    operations = [
        migrations.CreateModel(
            name="RemovedTally",
            fields=[
                ("table", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("total", models.BigIntegerField(default=0)),
            ],
        ),
    ]
