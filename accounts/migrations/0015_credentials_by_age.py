"""What the credentials of an author are looked up by. The indexes are built while others go on writing."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("accounts", "0014_audiences_begin_gently")]

    operations = [
        AddIndexConcurrently("session", models.Index(fields=["user", "created_at"], name="sessions_of_a_user_by_age")),
        AddIndexConcurrently("session", models.Index(fields=["service", "created_at"], name="sessions_of_a_service_by_age")),
        AddIndexConcurrently("apitoken", models.Index(fields=["user", "expires_at"], name="tokens_of_a_user_by_end")),
        AddIndexConcurrently("apitoken", models.Index(fields=["service", "expires_at"], name="tokens_of_a_service_by_end")),
    ]
