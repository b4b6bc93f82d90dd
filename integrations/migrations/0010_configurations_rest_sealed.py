"""What configurations of integrations left in plain is sealed; of deleted ones it goes."""

from django.db import migrations

from accounts import sealed_config


def seal(apps, schema_editor):
    for integration in apps.get_model("integrations", "Integration").objects.select_for_update().iterator():
        if integration.deleted_at is not None:
            integration.config, _ = sealed_config.split(integration.config)
        elif not sealed_config.seal_what_rests_plain(integration, integration.sealed_under):
            continue
        integration.save(update_fields=["config", "sealed_secrets", "secrets_version"])


class Migration(migrations.Migration):
    dependencies = [
        ("integrations", "0009_kept_values"),
        ("vault", "0009_kept_values"),  # the keys
    ]

    operations = [migrations.RunPython(seal, migrations.RunPython.noop)]
