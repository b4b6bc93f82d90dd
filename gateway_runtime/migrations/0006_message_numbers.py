from django.db import migrations, models

_CARRY_OVER = """
INSERT INTO gateway_runtime_messagenumbers (id, next) SELECT id, next_sequence FROM gateway_runtime_nodestate
"""
_CARRY_BACK = """
UPDATE gateway_runtime_nodestate SET next_sequence = kept.next FROM gateway_runtime_messagenumbers AS kept
"""


class Migration(migrations.Migration):
    """Message numbers get a row of their own, so that whoever reserves some waits for nobody's transaction."""

    dependencies = [("gateway_runtime", "0005_acting_process")]

    operations = [
        migrations.CreateModel(
            name="MessageNumbers",
            fields=[
                ("id", models.SmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("next", models.BigIntegerField()),
            ],
        ),
        migrations.RunSQL(_CARRY_OVER, _CARRY_BACK),
        migrations.RemoveField(model_name="nodestate", name="next_sequence"),
    ]
