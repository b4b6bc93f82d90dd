"""Webhooks and what configurations of identity providers left in plain are sealed; what was typed at failed sign-ins goes."""

import json
import uuid

from django.db import migrations, models

from accounts import directory, resting, sealed_config


def seal(apps, schema_editor):
    for provider in apps.get_model("accounts", "IdentityProvider").objects.select_for_update().iterator():
        if provider.deleted_at is not None:
            provider.config, _ = sealed_config.split(provider.config)
        elif not sealed_config.seal_what_rests_plain(provider, directory.SEALED_UNDER):
            continue
        provider.save(update_fields=["config", "sealed_secrets", "secrets_version"])
    for project in apps.get_model("accounts", "Project").objects.filter(settings__has_key="notification_webhooks").iterator():
        hooks = project.settings.pop("notification_webhooks")
        if hooks is not None:
            project.webhooks_version += 1
            project.sealed_webhooks = resting.sealed(resting.webhooks(project), json.dumps(hooks))
        project.save(update_fields=["settings", "sealed_webhooks", "webhooks_version"])


def forget_what_was_typed(apps, schema_editor):
    """Failures count for minutes; those of no account were kept under what somebody typed."""
    failures = apps.get_model("accounts", "FailedSignIn").objects
    typed = [name for name in failures.values_list("account", flat=True).distinct() if not _is_an_id(name)]
    failures.filter(account__in=typed).delete()


def _is_an_id(name):
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0009_entra_rights_end"),
        ("vault", "0009_kept_values"),  # the keys
    ]

    operations = [
        migrations.AddField("project", "sealed_webhooks", models.BinaryField(null=True)),
        migrations.AddField("project", "webhooks_version", models.IntegerField(default=0)),
        migrations.RunPython(forget_what_was_typed, migrations.RunPython.noop),
        migrations.RunPython(seal, migrations.RunPython.noop),
    ]
