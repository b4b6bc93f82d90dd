"""In what form gateways were told of people and services. Empty: another one than now, so all are told anew."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("gateways", "0022_longest_times_of_nodes"),
        ("accounts", "0014_audiences_begin_gently"),  # a column that says when credentials count
    ]
    operations = [
        migrations.AddField("primarynode", "told_form", models.CharField(db_default="", default="", max_length=64)),
    ]
