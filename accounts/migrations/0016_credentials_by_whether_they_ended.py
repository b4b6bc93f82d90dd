"""What the credentials of an author are looked up by: those that ended before a write are not read. Built while others write."""

from django.db import migrations, models

from common.migration_operations import BuildIndex


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("accounts", "0015_credentials_by_age")]

    operations = [
        BuildIndex("session", models.Index(fields=["user", "revoked_at", "expires_at"], name="living_sessions_of_a_user")),
        BuildIndex("session", models.Index(fields=["service", "revoked_at", "expires_at"], name="living_sessions_of_a_service")),
        BuildIndex("apitoken", models.Index(fields=["user", "revoked_at", "expires_at"], name="living_tokens_of_a_user")),
        BuildIndex("apitoken", models.Index(fields=["service", "revoked_at", "expires_at"], name="living_tokens_of_a_service")),
    ]
