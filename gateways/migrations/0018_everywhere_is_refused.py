from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("gateways", "0017_idempotency_keys_of_writes")]
    operations = [
        migrations.AddField("primarynode", "everywhere_refused", models.BooleanField(db_default=False, default=False)),
    ]
