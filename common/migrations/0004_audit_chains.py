"""Several chains in one database, a waiting list for the sequencer, signed checkpoints, and one narrow door for retention.

The links are made anew because the hash now covers the chain's name and the position: the sequencer places all entries again.
"""

import django.db.models.deletion
from django.db import migrations, models

WAITING = """
INSERT INTO common_auditpending (entry_id) SELECT id FROM common_auditentry;
CREATE FUNCTION common_audit_entry_waits() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO common_auditpending (entry_id) VALUES (NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER common_auditentry_waits AFTER INSERT ON common_auditentry
    FOR EACH ROW EXECUTE FUNCTION common_audit_entry_waits();
"""
WAITING_UNDO = """
DROP TRIGGER common_auditentry_waits ON common_auditentry;
DROP FUNCTION common_audit_entry_waits();
"""

GUARDS = """
CREATE FUNCTION common_audit_chain_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('mazevault.audit_cut', true) = 'open' AND EXISTS (
        SELECT 1 FROM common_auditcheckpoint
         WHERE is_cut AND common_auditcheckpoint.chain = OLD.chain AND common_auditcheckpoint.position >= OLD.position)
    THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'the audit trail is append-only: % on % is refused', TG_OP, TG_TABLE_NAME;
END $$;
CREATE FUNCTION common_audit_entry_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('mazevault.audit_cut', true) = 'open'
        AND NOT EXISTS (SELECT 1 FROM common_auditlink WHERE entry_id = OLD.id)
        AND NOT EXISTS (SELECT 1 FROM common_auditpending WHERE entry_id = OLD.id)
    THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'the audit trail is append-only: % on % is refused', TG_OP, TG_TABLE_NAME;
END $$;
DROP TRIGGER common_auditentry_rows ON common_auditentry;
CREATE TRIGGER common_auditentry_rows BEFORE UPDATE OR DELETE ON common_auditentry
    FOR EACH ROW EXECUTE FUNCTION common_audit_entry_guard();
CREATE TRIGGER common_auditlink_rows BEFORE UPDATE OR DELETE ON common_auditlink
    FOR EACH ROW EXECUTE FUNCTION common_audit_chain_guard();
CREATE TRIGGER common_auditlink_all BEFORE TRUNCATE ON common_auditlink
    FOR EACH STATEMENT EXECUTE FUNCTION common_audit_is_append_only();
"""
GUARDS_UNDO = """
DROP TRIGGER common_auditlink_all ON common_auditlink;
DROP TRIGGER common_auditlink_rows ON common_auditlink;
DROP TRIGGER common_auditentry_rows ON common_auditentry;
CREATE TRIGGER common_auditentry_rows BEFORE UPDATE OR DELETE ON common_auditentry
    FOR EACH ROW EXECUTE FUNCTION common_audit_is_append_only();
DROP FUNCTION common_audit_entry_guard();
DROP FUNCTION common_audit_chain_guard();
"""
OLD_LINK_GUARDS = """
CREATE TRIGGER common_auditlink_rows BEFORE UPDATE OR DELETE ON common_auditlink
    FOR EACH ROW EXECUTE FUNCTION common_audit_is_append_only();
CREATE TRIGGER common_auditlink_all BEFORE TRUNCATE ON common_auditlink
    FOR EACH STATEMENT EXECUTE FUNCTION common_audit_is_append_only();
"""


class Migration(migrations.Migration):
    dependencies = [("common", "0003_change_feed")]
    operations = [
        migrations.RunSQL(migrations.RunSQL.noop, OLD_LINK_GUARDS),
        migrations.DeleteModel(name="AuditLink"),
        migrations.AddField("auditentry", "organization", models.UUIDField(null=True)),
        migrations.AddField("auditentry", "project", models.UUIDField(null=True)),
        migrations.AddIndex("auditentry", models.Index(fields=["project", "id"], name="audit_by_project")),
        migrations.AddIndex("auditentry", models.Index(fields=["actor", "id"], name="audit_by_actor")),
        migrations.AddIndex("auditentry", models.Index(fields=["at"], name="audit_by_time")),
        migrations.CreateModel(
            name="AuditPending",
            fields=[("entry_id", models.BigIntegerField(primary_key=True, serialize=False))],
        ),
        migrations.CreateModel(
            name="AuditCheckpoint",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("chain", models.CharField(max_length=36)),
                ("position", models.BigIntegerField()),
                ("is_cut", models.BooleanField(default=False)),
                ("text", models.TextField()),
                ("signature", models.CharField(max_length=88)),
                ("key", models.CharField(max_length=64)),
            ],
            options={"indexes": [models.Index(fields=["chain", "is_cut", "position"], name="checkpoints_of_a_chain")]},
        ),
        migrations.CreateModel(
            name="AuditLink",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("chain", models.CharField(max_length=36)),
                ("position", models.BigIntegerField()),
                ("hash", models.CharField(max_length=64)),
                (
                    "entry",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT, related_name="link", to="common.auditentry"
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("chain", "position"), name="one_entry_at_a_position"),
                ],
            },
        ),
        migrations.RunSQL(WAITING, WAITING_UNDO),
        migrations.RunSQL(GUARDS, GUARDS_UNDO),
    ]
