from django.db import migrations

_TELL = """
CREATE FUNCTION gateways_tell_known() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'gateways_gateway' THEN
        PERFORM pg_notify('mazevault_known', OLD.id::text);
    ELSIF TG_TABLE_NAME = 'gateways_gatewaycertificate' THEN
        PERFORM pg_notify('mazevault_known', OLD.gateway_id::text);
    ELSE
        PERFORM pg_notify('mazevault_known', '');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER gateways_gateway_known AFTER DELETE OR UPDATE OF name, environment_id, role, standby_mode, generation, signing_key,
    encryption_key, enrolled_at, banned_at, decommissioned_at, drained_at, held_at, held_reason, held_code, released_at
    ON gateways_gateway FOR EACH ROW EXECUTE FUNCTION gateways_tell_known();
CREATE TRIGGER gateways_gatewaycertificate_known AFTER UPDATE OR DELETE ON gateways_gatewaycertificate
    FOR EACH ROW EXECUTE FUNCTION gateways_tell_known();
CREATE TRIGGER gateways_primarykeypair_known AFTER INSERT OR UPDATE OR DELETE ON gateways_primarykeypair
    FOR EACH STATEMENT EXECUTE FUNCTION gateways_tell_known();
"""
_HUSH = """
DROP TRIGGER gateways_gateway_known ON gateways_gateway;
DROP TRIGGER gateways_gatewaycertificate_known ON gateways_gatewaycertificate;
DROP TRIGGER gateways_primarykeypair_known ON gateways_primarykeypair;
DROP FUNCTION gateways_tell_known();
"""


class Migration(migrations.Migration):
    """The machine lane remembers gateways, their certificates and the channel's keys; whatever changes them says so."""

    dependencies = [("gateways", "0012_instances")]

    operations = [migrations.RunSQL(_TELL, _HUSH)]
