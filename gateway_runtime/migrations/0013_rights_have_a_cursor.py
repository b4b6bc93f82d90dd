"""While a gateway is quarantined it reads who lost rights, and nothing else, at a cursor of its own."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("gateway_runtime", "0012_forks_of_the_audit_chain")]
    operations = [
        migrations.AddField("nodestate", "rights_position", models.BigIntegerField(db_default=0, default=0)),
    ]
