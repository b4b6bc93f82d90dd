"""Every table of both kinds of node either has a retention or a reason not to grow; settings, loops and the page agree."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.db import connection

from cli.documents import RETENTION
from common import retention
from common.retained import BOUNDED, GATEWAY, PRIMARY, RULES, Rule, document, settings_of
from orchestrator import loops
from orchestrator.celery import app
from orchestrator.settings.base import GATEWAY_APPS, PRIMARY_APPS

PLAIN = [rule for rule in RULES if not rule.done_by]


def tables(names: list[str]) -> set[str]:
    return {model._meta.db_table for model in apps.get_models() if model._meta.app_label in names}


def test_every_table_is_in_one_of_the_two_lists() -> None:
    known = {rule.table for rule in RULES}
    everything = {model._meta.db_table for model in apps.get_models()}
    assert everything - known - set(BOUNDED) == set(), "say in common/retained.py how it is kept small"
    assert known | set(BOUNDED) <= everything, "a table of the list is gone"
    assert not known & set(BOUNDED)


@pytest.mark.parametrize(("mode", "installed"), [(PRIMARY, PRIMARY_APPS), (GATEWAY, GATEWAY_APPS)])
def test_each_kind_of_node_has_rules_for_its_own_tables_only(mode: str, installed: list[str]) -> None:
    own = tables(installed)
    assert {rule.table for rule in retention.rules_of(mode)} <= own


@pytest.mark.django_db
@pytest.mark.parametrize("rule", PLAIN, ids=lambda rule: rule.table)
def test_each_rule_can_be_carried_out(rule: Rule) -> None:
    assert retention._remove(rule, rule.days or 1) == 0
    assert rule.days > 0 or rule.setting


@pytest.mark.django_db
@pytest.mark.parametrize("table", ["gateways_task", "gateway_runtime_effect", "gateway_runtime_pendingwrite"])
def test_old_rows_of_a_large_table_are_found_by_an_index(table: str) -> None:
    rule = next(one for one in PLAIN if one.table == table)
    text = retention._FIND.format(table=table, key=rule.key, joins=rule.joins, age=rule.age, guard=rule.guard)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("EXPLAIN " + text, [rule.days, 1000])
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert f"({rule.age} < (statement_timestamp()" in plan.split("Index Cond: ")[-1], plan


def test_every_process_and_celery_do_it() -> None:
    assert "retention" in [name for name, *_ in loops.LOOPS]
    assert "apply-retention" in app.conf.beat_schedule


def test_a_setting_has_one_default_in_a_kind_of_node_and_is_documented() -> None:
    readme = (RETENTION.parents[2] / "README.md").read_text()
    for mode in (PRIMARY, GATEWAY):
        for name in settings_of(mode):
            assert f"`{name}`" in readme
    assert settings_of(PRIMARY)["MAZEVAULT_AUDIT_RETENTION_DAYS"] == (0, 0)
    assert settings_of(GATEWAY)["MAZEVAULT_AUDIT_RETENTION_DAYS"] == (90, 0)


def test_the_page_is_what_the_table_says() -> None:
    assert RETENTION.read_text() == document()
