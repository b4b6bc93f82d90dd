"""Operations of migrations that stop nobody, beside those Django has."""

from __future__ import annotations

from typing import Any

from django.db.migrations.operations import AlterField
from django.db.models import CharField


class LongerText(AlterField):
    """A higher limit for a text column, nothing else. PostgreSQL changes its catalogue only: no row and no index is read
    (release notes of 9.2, "ALTER TABLE"). Raises `ValueError` for any other change."""

    def state_forwards(self, app_label: str, state: Any) -> None:
        before = state.models[app_label, self.model_name_lower].fields[self.name]
        (_, _, old_args, old), (_, _, args, new) = before.deconstruct(), self.field.deconstruct()
        lengths = [facts.pop("max_length", None) for facts in (old, new)]
        same = type(before) is type(self.field) is CharField and (old_args, old) == (args, new)
        if not same or None in lengths or lengths[0] > lengths[1]:
            raise ValueError(f"{self.model_name}.{self.name}: only the limit of a text may grow here")
        super().state_forwards(app_label, state)
