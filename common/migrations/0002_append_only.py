"""The database itself refuses to change what was written into the audit trail (DESIGN §10)."""

from django.db import migrations

GUARD = """
CREATE FUNCTION common_audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is append-only: % on % is refused', TG_OP, TG_TABLE_NAME;
END $$;
"""
TABLES = ("common_auditentry", "common_auditlink")


def triggers() -> str:
    rows = "\n".join(
        f"CREATE TRIGGER {table}_rows BEFORE UPDATE OR DELETE ON {table}"
        " FOR EACH ROW EXECUTE FUNCTION common_audit_is_append_only();\n"
        f"CREATE TRIGGER {table}_all BEFORE TRUNCATE ON {table}"
        " FOR EACH STATEMENT EXECUTE FUNCTION common_audit_is_append_only();"
        for table in TABLES
    )
    return GUARD + rows


def undo() -> str:
    dropped = "\n".join(f"DROP TRIGGER {table}_rows ON {table}; DROP TRIGGER {table}_all ON {table};" for table in TABLES)
    return dropped + "\nDROP FUNCTION common_audit_is_append_only();"


class Migration(migrations.Migration):
    dependencies = [("common", "0001_initial")]
    operations = [migrations.RunSQL(triggers(), undo())]
