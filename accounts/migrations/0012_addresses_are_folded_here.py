"""One folding of e-mail addresses, stored and unique, in place of the database's own, which depends on its locale."""

import logging

from django.db import migrations, models
from django.db.models import Q

from accounts.addresses import folded

log = logging.getLogger("mazevault.accounts")


def fold(apps, schema_editor):
    """Of living accounts whose addresses are the same, the one with plain letters that is there for longest keeps it."""
    users = apps.get_model("accounts", "User").objects
    rows = list(users.values_list("id", "email", "deleted_at", "created_at"))
    taken = set()
    for identifier, email, deleted_at, _ in sorted(rows, key=lambda row: (not row[1].isascii(), row[3])):
        form = folded(email)
        if deleted_at is None and form in taken:
            log.error("account %s has the address of another one and is not found by it any more; delete it", identifier)
            form = f"{identifier}#{form}"[:1024]
        if deleted_at is None:
            taken.add(form)
        users.filter(id=identifier).update(email_folded=form)


class Migration(migrations.Migration):
    dependencies = [("accounts", "0011_audiences")]

    operations = [
        migrations.AddField("user", "email_folded", models.CharField(max_length=1024, default="", editable=False)),
        migrations.RunPython(fold, migrations.RunPython.noop),
        migrations.RemoveConstraint("user", "one_account_of_an_address"),
        migrations.AddConstraint(
            "user",
            models.UniqueConstraint(
                fields=["email_folded"], condition=Q(deleted_at__isnull=True), name="one_account_of_a_folded_address"
            ),
        ),
    ]
