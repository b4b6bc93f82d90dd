from django.db import migrations, models


class Migration(migrations.Migration):
    """The furthest mark of the Primary is kept, as proof for it should its database be put back."""

    dependencies = [("gateway_runtime", "0008_retention")]

    operations = [
        migrations.AddField("nodestate", "mark", models.TextField(default="")),
        migrations.AddField("nodestate", "mark_epoch", models.BigIntegerField(default=-1)),
        migrations.AddField("nodestate", "mark_position", models.BigIntegerField(default=-1)),
    ]
