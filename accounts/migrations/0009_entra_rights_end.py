"""Rights that came by Entra end: which mapping gave a role, and when Entra last let somebody in.

Accounts of Entra from before count from their last sign-in. Who has another provider or another confirmation has other rights, so
both are told like the rest (migration 0008).
"""

from django.db import migrations, models

CONFIRMED = "UPDATE accounts_user SET entra_confirmed_at = last_login WHERE sso_provider <> ''"
TOLD = """
DROP TRIGGER accounts_user_rights ON accounts_user;
CREATE TRIGGER accounts_user_rights
 AFTER UPDATE OF email, role, is_active, must_change_password, deleted_at, sso_provider, entra_confirmed_at OR DELETE OR TRUNCATE
    ON accounts_user FOR EACH STATEMENT EXECUTE FUNCTION accounts_rights_are_told();
"""
BEFORE = """
DROP TRIGGER accounts_user_rights ON accounts_user;
CREATE TRIGGER accounts_user_rights
 AFTER UPDATE OF email, role, is_active, must_change_password, deleted_at OR DELETE OR TRUNCATE
    ON accounts_user FOR EACH STATEMENT EXECUTE FUNCTION accounts_rights_are_told();
"""


class Migration(migrations.Migration):
    dependencies = [("accounts", "0008_rights_are_told")]
    operations = [
        migrations.AddField("user", "entra_confirmed_at", models.DateTimeField(null=True)),
        migrations.AddField(
            "rolegrant", "given_by", models.JSONField(db_default=models.Value([], models.JSONField()), default=list)
        ),
        migrations.RunSQL(CONFIRMED, ""),
        migrations.RunSQL(TOLD, BEFORE),
    ]
