"""The rules of generations, in a transaction of their own: PostgreSQL alters no table whose rows were changed in the same one."""

from __future__ import annotations

from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("vault", "0005_generations_of_authorities")]

    operations = [
        migrations.AlterField("certificateauthority", "key_id", models.CharField(max_length=64, db_index=True)),
        migrations.AlterField("certificateauthority", "not_after", models.DateTimeField()),
        migrations.AlterField("certificateauthority", "announced_at", models.DateTimeField()),
        migrations.AddConstraint(
            "certificateauthority",
            models.UniqueConstraint(fields=["scope", "generation"], name="one_authority_of_a_generation"),
        ),
        migrations.AddConstraint(
            "certificateauthority",
            models.UniqueConstraint(fields=["scope"], condition=Q(standing="current"), name="one_current_authority_of_a_scope"),
        ),
        migrations.AddConstraint(
            "certificateauthority",
            models.UniqueConstraint(fields=["scope"], condition=Q(standing="next"), name="one_next_authority_of_a_scope"),
        ),
    ]
