from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("integrations", "0006_uses_of_vaults"),
    ]

    operations = [
        migrations.AddField(
            model_name="accesssnapshot",
            name="vault_id",
            field=models.CharField(default="", max_length=500),
        ),
    ]
