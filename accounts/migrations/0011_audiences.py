"""Where a session or an API token counts. Whoever changes that by hand is heard of like any other change of a right (0008)."""

from django.db import migrations, models

_COLUMNS = {
    "accounts_session": "token_hash, user_id, service_id, gateway_environment, expires_at, revoked_at",
    "accounts_apitoken": "token_hash, user_id, service_id, scopes, expires_at, revoked_at",
}


def told(more: str) -> str:
    return "\n".join(
        f"DROP TRIGGER {table}_rights ON {table};"
        f"CREATE TRIGGER {table}_rights AFTER UPDATE OF {columns}{more} OR DELETE OR TRUNCATE ON {table}"
        " FOR EACH STATEMENT EXECUTE FUNCTION accounts_rights_are_told();"
        for table, columns in _COLUMNS.items()
    )


class Migration(migrations.Migration):
    dependencies = [("accounts", "0010_configurations_rest_sealed")]
    operations = [
        migrations.AddField("session", "audience", models.JSONField(null=True)),
        migrations.AddField("apitoken", "audience", models.JSONField(null=True)),
        migrations.RunSQL(told(", audience"), told("")),
    ]
