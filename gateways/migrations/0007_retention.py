"""What retention looks rows up by. The indexes are built while others go on writing."""

from django.db import migrations, models

from common.migration_operations import AddFieldOnce, BuildIndex


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("gateways", "0006_work_that_does_not_grow"),
    ]

    operations = [
        AddFieldOnce(
            model_name="task",
            name="answered_claim",
            field=models.UUIDField(null=True),
        ),
        AddFieldOnce(
            model_name="writestream",
            name="floor",
            field=models.BigIntegerField(db_default=0),
        ),
        AddFieldOnce(
            model_name="writestream",
            name="forgotten",
            field=models.BigIntegerField(db_default=0),
        ),
        BuildIndex(
            model_name="receivedwrite",
            index=models.Index(
                condition=models.Q(("settled_at__isnull", False)), fields=["settled_at"], name="received_writes_settled"
            ),
        ),
        BuildIndex(
            model_name="receivedwrite",
            index=models.Index(
                condition=models.Q(("outcome", "applied")),
                fields=["gateway", "generation", "secret", "sequence"],
                name="writes_applied",
            ),
        ),
        BuildIndex(
            model_name="task",
            index=models.Index(condition=models.Q(("finished_at__isnull", False)), fields=["finished_at"], name="tasks_ended"),
        ),
    ]
