"""What the credentials of an author are looked up by. The indexes are built while others go on writing."""

from django.db import migrations, models

from common.migration_operations import BuildIndex


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("accounts", "0014_audiences_begin_gently")]

    operations = [
        BuildIndex("session", models.Index(fields=["user", "created_at"], name="sessions_of_a_user_by_age")),
        BuildIndex("session", models.Index(fields=["service", "created_at"], name="sessions_of_a_service_by_age")),
        BuildIndex("apitoken", models.Index(fields=["user", "expires_at"], name="tokens_of_a_user_by_end")),
        BuildIndex("apitoken", models.Index(fields=["service", "expires_at"], name="tokens_of_a_service_by_end")),
    ]
