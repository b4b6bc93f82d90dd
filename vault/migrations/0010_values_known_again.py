"""What a rotation replaced is known again. The columns get constant defaults.

Until it was divided this migration had the statement of 0011 and the indexes of 0012 and 0013 too. Where it was applied or broken
off as it was then, those find their work done.
"""

from django.db import migrations, models

from common.migration_operations import AddFieldOnce


class Migration(migrations.Migration):
    dependencies = [
        ("vault", "0009_kept_values"),
    ]

    operations = [
        AddFieldOnce("secret", "rotated_version", models.IntegerField(default=0, db_default=0)),
        AddFieldOnce("secretversion", "value_mark", models.CharField(db_default="", default="", max_length=64)),
    ]
