"""By what value and request are known again goes with a claim, sealed."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("vault", "0015_recoveries_are_written_down"),
    ]

    operations = [
        migrations.AddField("vaultclaim", "sealed_marks", models.BinaryField(null=True)),
    ]
