import uuid

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    """Questions to a vault are kept while they are open, so that no request waits for their answer."""

    dependencies = [
        ("integrations", "0007_access_snapshots_name_their_vault"),
    ]

    operations = [
        migrations.CreateModel(
            name="VaultQuestion",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, primary_key=True, serialize=False)),
                ("kind", models.CharField(max_length=8)),
                ("asked_by", models.CharField(max_length=64)),
                ("method", models.CharField(max_length=32)),
                ("vault_id", models.CharField(default="", max_length=500)),
                ("task", models.UUIDField(null=True)),
                ("ran_at", models.CharField(default="", max_length=100)),
                ("begun_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("ended_at", models.DateTimeField(null=True)),
                ("answer", models.JSONField(default=dict)),
                ("detail", models.CharField(default="", max_length=2000)),
                (
                    "integration",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="questions", to="integrations.integration"
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(condition=models.Q(("ended_at__isnull", True)), fields=["begun_at"], name="questions_open"),
                    models.Index(fields=["integration", "kind", "-begun_at"], name="questions_by_age"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("ended_at__isnull", True)),
                        fields=("integration", "kind"),
                        name="one_open_question_of_a_kind",
                    )
                ],
            },
        ),
    ]
