"""Whatever changes what a credential gives says so on the channel `mazevault_rights` (accounts/rights.py, docs/adr/0036).

By triggers, so that no way to end a right can forget it, a statement by hand included. `last_used_at` and `last_login` are no rights.
A new session is asked for by nobody before, so it needs no notice; a new role binding does.
"""

from django.db import migrations

FUNCTION = """
CREATE FUNCTION accounts_rights_are_told() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('mazevault_rights', '');
    RETURN NULL;
END $$;
"""
EVENTS = {
    "accounts_session": "UPDATE OF token_hash, user_id, service_id, gateway_environment, expires_at, revoked_at",
    "accounts_apitoken": "UPDATE OF token_hash, user_id, service_id, scopes, expires_at, revoked_at",
    "accounts_user": "UPDATE OF email, role, is_active, must_change_password, deleted_at",
    "accounts_serviceidentity": "UPDATE OF display_name, status, deleted_at",
    "accounts_rolegrant": "INSERT OR UPDATE",
    "accounts_role": "UPDATE OF permissions",
    "accounts_project": "UPDATE OF organization_id",
}


def triggers() -> str:
    return FUNCTION + "\n".join(
        f"CREATE TRIGGER {table}_rights AFTER {events} OR DELETE OR TRUNCATE ON {table}"
        " FOR EACH STATEMENT EXECUTE FUNCTION accounts_rights_are_told();"
        for table, events in EVENTS.items()
    )


def undo() -> str:
    dropped = "\n".join(f"DROP TRIGGER {table}_rights ON {table};" for table in EVENTS)
    return dropped + "\nDROP FUNCTION accounts_rights_are_told();"


class Migration(migrations.Migration):
    dependencies = [("accounts", "0007_client_secret_watch")]
    operations = [migrations.RunSQL(triggers(), undo())]
