"""Channel keys get generations; certificates name the key that issued them.

Of the signing keys of an installation the one that ends first, of those that do not end within the hour, is the one in use, as
it was until now. Where several were made for the same end, the first made is it. One of the others waits; the rest is history.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from django.db import migrations, models

MARGIN = timedelta(hours=1)


def number(apps, schema_editor) -> None:  # type: ignore[no-untyped-def]
    keys = apps.get_model("gateways", "PrimaryKeyPair").objects
    now = datetime.now(UTC)
    for purpose in ("signing", "recipient"):
        rows = list(keys.filter(purpose=purpose).order_by("created_at", "id"))
        living = [row for row in sorted(rows, key=lambda row: row.not_after) if row.not_after > now + MARGIN] or rows[-1:]
        current = rows[-1:] if purpose == "recipient" else living[:1]
        following = [row for row in rows if row in living[1:]][-1:] if purpose == "signing" else []
        _place(rows, current, following)


def _place(rows, current, following) -> None:  # type: ignore[no-untyped-def]
    for generation, row in enumerate(rows, start=1):
        row.generation, row.announced_at = generation, row.created_at
        row.standing = "current" if row in current else "next" if row in following else "retired"
        if row.purpose == "signing" and row.standing == "retired":
            row.sealed_private_key = None
        row.save()


def name_issuers(apps, schema_editor) -> None:  # type: ignore[no-untyped-def]
    for row in apps.get_model("gateways", "GatewayCertificate").objects.all():
        certificate = x509.load_pem_x509_certificate(row.pem.encode())
        above = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        row.issuer_key = above.hex() if above else ""
        row.save(update_fields=["issuer_key"])


class Migration(migrations.Migration):
    dependencies = [("gateways", "0008_signs_of_life"), ("vault", "0006_one_generation_signs")]

    operations = [
        migrations.AddField("primarykeypair", "generation", models.IntegerField(default=1)),
        migrations.AddField("primarykeypair", "standing", models.CharField(default="current", max_length=8)),
        migrations.AddField("primarykeypair", "announced_at", models.DateTimeField(null=True)),
        migrations.AlterField("primarykeypair", "sealed_private_key", models.BinaryField(null=True)),
        migrations.AddField("gatewaycertificate", "issuer_key", models.CharField(db_index=True, default="", max_length=64)),
        migrations.AddField("gatewaycertificate", "renewal_ordered_at", models.DateTimeField(null=True)),
        migrations.RunPython(number, migrations.RunPython.noop),
        migrations.RunPython(name_issuers, migrations.RunPython.noop),
    ]
