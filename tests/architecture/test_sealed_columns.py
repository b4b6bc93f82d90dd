"""Every column that holds sealed values is known to the rotation of keys; one that is not would be unreadable after it."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.db.models import BinaryField

from common.sealing import columns
from tests import factories

SEALED = {
    (model._meta.label, field.name)
    for model in apps.get_models()
    for field in model._meta.get_fields()
    if isinstance(field, BinaryField) and field.name.startswith("sealed_")
}
BOUND_ELSEWHERE = {"vault.KeptValue": "vault.SecretVersion"}
"""What was moved here as it was sealed, and opens as what it was."""
OTHER_BINARIES = {("vault.KeyEncryptionKey", "wrapped")}
"""Binary columns that hold no sealed value."""


def test_every_sealed_column_is_registered_and_nothing_else() -> None:
    assert {(column.model, column.column) for column in columns()} == SEALED
    assert ("vault.SecretVersion", "sealed_value") in SEALED


def test_a_binary_column_is_named_sealed_or_known_to_be_something_else() -> None:
    binaries = {
        (model._meta.label, field.name)
        for model in apps.get_models()
        for field in model._meta.get_fields()
        if isinstance(field, BinaryField)
    }
    assert binaries - SEALED == OTHER_BINARIES


@pytest.mark.parametrize("column", columns(), ids=lambda column: column.model)
def test_each_place_names_the_table_of_its_column(column, primary: None) -> None:
    row = example(column.model)
    assert column.place(row)[1] == apps.get_model(BOUND_ELSEWHERE.get(column.model, column.model))._meta.db_table


def example(label: str):
    """A row of the model, from what a set-up Primary has, or one that was never saved."""
    model = apps.get_model(label)
    if label in ("vault.SecretVersion", "vault.KeptValue"):
        project = factories.project()
        secret = apps.get_model("vault.Secret")(project=project, environment=factories.environment_of(project))
        version = apps.get_model("vault.SecretVersion")(secret=secret, version=1)
        return version if label == "vault.SecretVersion" else model(version=version)
    return model.objects.first() or model()
