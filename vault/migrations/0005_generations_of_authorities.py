"""Authorities get generations. What an installation has becomes generation 1, which signs on."""

from __future__ import annotations

from datetime import UTC, datetime

import django.db.models.deletion
from cryptography import x509
from django.db import migrations, models

STANDINGS = [(one, one) for one in ("next", "current", "retired", "ended")]


def number(apps, schema_editor) -> None:  # type: ignore[no-untyped-def]
    authorities = apps.get_model("vault", "CertificateAuthority").objects
    counted: dict[str, int] = {}
    for row in authorities.order_by("created_at", "id"):
        certificate = x509.load_pem_x509_certificate(row.certificate.encode())
        row.generation = counted[row.scope] = counted.get(row.scope, 0) + 1
        row.key_id = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()
        row.not_after = certificate.not_valid_after_utc
        row.announced_at = row.current_at = row.created_at
        row.standing = "current" if row.retired_at is None else "retired"
        if row.retired_at is not None:
            row.trusted_until = row.not_after
        if row.standing == "retired" and row.not_after <= datetime.now(UTC):
            row.standing, row.ended_at, row.sealed_key = "ended", row.not_after, None
        row.save()
    _name_issuers(authorities)


def _name_issuers(authorities) -> None:  # type: ignore[no-untyped-def]
    roots = {row.key_id: row for row in authorities.filter(scope="root")}
    for row in authorities.exclude(scope="root"):
        certificate = x509.load_pem_x509_certificate(row.certificate.encode())
        above = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        row.issuer = roots.get(above.hex() if above else "")
        row.save()


class Migration(migrations.Migration):
    dependencies = [("vault", "0004_retired_versions")]

    operations = [
        migrations.RemoveConstraint("certificateauthority", "one_current_authority_of_a_scope"),
        migrations.AddField("certificateauthority", "generation", models.IntegerField(default=1)),
        migrations.AddField(
            "certificateauthority", "standing", models.CharField(max_length=8, choices=STANDINGS, default="current")
        ),
        migrations.AddField(
            "certificateauthority",
            "issuer",
            models.ForeignKey("vault.certificateauthority", django.db.models.deletion.PROTECT, null=True, related_name="+"),
        ),
        migrations.AddField("certificateauthority", "key_id", models.CharField(max_length=64, default="", db_index=True)),
        migrations.AddField("certificateauthority", "not_after", models.DateTimeField(null=True)),
        migrations.AddField("certificateauthority", "announced_at", models.DateTimeField(null=True)),
        migrations.AddField("certificateauthority", "current_at", models.DateTimeField(null=True)),
        migrations.AddField("certificateauthority", "trusted_until", models.DateTimeField(null=True)),
        migrations.AddField("certificateauthority", "ended_at", models.DateTimeField(null=True)),
        migrations.RunPython(number, migrations.RunPython.noop),
        migrations.CreateModel(
            name="CrossCertificate",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("certificate", models.TextField()),
                (
                    "authority",
                    models.ForeignKey("vault.certificateauthority", django.db.models.deletion.CASCADE, related_name="crossed"),
                ),
                ("issuer", models.ForeignKey("vault.certificateauthority", django.db.models.deletion.PROTECT, related_name="+")),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=["authority", "issuer"], name="one_cross_certificate_of_a_root")],
            },
        ),
    ]
