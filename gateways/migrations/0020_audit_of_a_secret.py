"""Who read this secret at a gateway is found without reading all that gateways ever told."""

from django.db import migrations, models

from common.migration_operations import BuildIndex


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("gateways", "0019_longest_block_of_leases"),
    ]

    operations = [
        BuildIndex(
            model_name="gatewayauditrecord",
            index=models.Index(
                models.Func(
                    models.F("text"),
                    models.Value('"entity":"secret","entity_id":"([^"]+)"'),
                    function="substring",
                    output_field=models.TextField(),
                ),
                models.F("id"),
                name="gateway_audit_of_a_secret",
            ),
        ),
    ]
