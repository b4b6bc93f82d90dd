from django.db import migrations, models

_COUNT = """
CREATE FUNCTION gateways_count_orders() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.orders := OLD.orders + 1;
    RETURN NEW;
END $$;
CREATE TRIGGER gateways_route_orders BEFORE UPDATE ON gateways_route FOR EACH ROW EXECUTE FUNCTION gateways_count_orders();
CREATE TRIGGER gateways_gateway_orders BEFORE UPDATE ON gateways_gateway FOR EACH ROW EXECUTE FUNCTION gateways_count_orders();
"""
_UNCOUNT = """
DROP TRIGGER gateways_route_orders ON gateways_route;
DROP TRIGGER gateways_gateway_orders ON gateways_gateway;
DROP FUNCTION gateways_count_orders();
"""


class Migration(migrations.Migration):
    """Whatever changes a route or a gateway counts, also what is written past the models: directives follow from both rows."""

    dependencies = [("gateways", "0010_one_channel_key_signs")]

    operations = [
        migrations.AddField("gateway", "orders", models.BigIntegerField(db_default=0, editable=False)),
        migrations.AddField("route", "orders", models.BigIntegerField(db_default=0, editable=False)),
        migrations.RunSQL(_COUNT, _UNCOUNT),
    ]
