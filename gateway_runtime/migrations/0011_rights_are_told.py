"""Whatever changes what a credential gives at this gateway says so on the channel `mazevault_rights` (docs/adr/0036).

Pages of the copy and sign-ins write these tables; by triggers, so that no way can forget it.
"""

from django.db import migrations

TABLES = ("gateway_runtime_replicatoken", "gateway_runtime_replicaprincipal")


def triggers() -> str:
    return "\n".join(
        f"CREATE TRIGGER {table}_rights AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table}"
        " FOR EACH STATEMENT EXECUTE FUNCTION accounts_rights_are_told();"
        for table in TABLES
    )


def undo() -> str:
    return "\n".join(f"DROP TRIGGER {table}_rights ON {table};" for table in TABLES)


class Migration(migrations.Migration):
    dependencies = [("accounts", "0008_rights_are_told"), ("gateway_runtime", "0010_backlog")]
    operations = [migrations.RunSQL(triggers(), undo())]
