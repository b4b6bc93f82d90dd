"""Whoever ends a claim knows that a name is being recovered for it."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("vault", "0014_answers_of_an_environment"),
    ]

    operations = [
        migrations.AddField("vaultclaim", "recovering_since", models.DateTimeField(null=True)),
    ]
