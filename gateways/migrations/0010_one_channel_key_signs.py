"""The rules of generations, in a transaction of their own: PostgreSQL alters no table whose rows were changed in the same one."""

from __future__ import annotations

from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("gateways", "0009_generations_of_channel_keys")]

    operations = [
        migrations.AlterField("primarykeypair", "announced_at", models.DateTimeField()),
        migrations.AddConstraint(
            "primarykeypair",
            models.UniqueConstraint(fields=["purpose", "generation"], name="one_primary_key_of_a_generation"),
        ),
        migrations.AddConstraint(
            "primarykeypair",
            models.UniqueConstraint(
                fields=["purpose"], condition=Q(standing="current"), name="one_current_primary_key_of_a_purpose"
            ),
        ),
        migrations.AddConstraint(
            "primarykeypair",
            models.UniqueConstraint(fields=["purpose"], condition=Q(standing="next"), name="one_next_primary_key_of_a_purpose"),
        ),
    ]
