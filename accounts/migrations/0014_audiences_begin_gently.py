"""Credentials of before there were audiences go on at gateways in production for two weeks (docs/operations/access.md).

The rows there are get the moment from the default of the new column, which the database keeps for all of them at once, so nothing
is written and nobody waits; rows that come later have none. What gateways were told of them changes, and the Primary tells that
at its start (`gateways.told_principals`). A change by hand is heard of like any other change of a right (0008).
"""

from django.db import migrations, models

_COLUMNS = {
    "accounts_session": "token_hash, user_id, service_id, gateway_environment, expires_at, revoked_at, audience",
    "accounts_apitoken": "token_hash, user_id, service_id, scopes, expires_at, revoked_at, audience",
}


def _begun() -> str:
    return "\n".join(
        f"ALTER TABLE {table} ADD COLUMN everywhere_until timestamptz NULL DEFAULT (now() + interval '14 days');"
        f"ALTER TABLE {table} ALTER COLUMN everywhere_until DROP DEFAULT;"
        for table in _COLUMNS
    )


def _undone() -> str:
    return "\n".join(f"ALTER TABLE {table} DROP COLUMN everywhere_until;" for table in _COLUMNS)


def _told(more: str) -> str:
    return "\n".join(
        f"DROP TRIGGER {table}_rights ON {table};"
        f"CREATE TRIGGER {table}_rights AFTER UPDATE OF {columns}{more} OR DELETE OR TRUNCATE ON {table}"
        " FOR EACH STATEMENT EXECUTE FUNCTION accounts_rights_are_told();"
        for table, columns in _COLUMNS.items()
    )


class Migration(migrations.Migration):
    dependencies = [("accounts", "0013_older_processes_write_on")]
    operations = [
        migrations.RunSQL(
            _begun(),
            _undone(),
            state_operations=[
                migrations.AddField("session", "everywhere_until", models.DateTimeField(null=True)),
                migrations.AddField("apitoken", "everywhere_until", models.DateTimeField(null=True)),
            ],
        ),
        migrations.RunSQL(_told(", everywhere_until"), _told("")),
    ]
