"""Time constants are chosen and checked together: a profile that breaks a promise is refused with the name of the setting.

Proven here: the numbers of both profiles keep every rule of reliability §4.3, each rule alone is enforced at its boundary, and
the waits derived from them are the ones that I2 rests on (see also `tests/failover/test_machine.py`).
"""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from protocol.timing import PROFILES, SHORT, STANDARD, TimeProfile, TimingError, time_profile

CONSTANTS = [item.name for item in fields(TimeProfile) if item.name != "name"]


class TestProfiles:
    def test_the_standard_profile_is_that_of_the_seed(self) -> None:
        assert (STANDARD.heartbeat_interval, STANDARD.heartbeat_full_age, STANDARD.heartbeat_zero_age) == (60, 75, 195)
        assert (STANDARD.lease_renew, STANDARD.lease_ttl, STANDARD.effect_deadline) == (15, 45, 10)
        assert (STANDARD.drain_limit, STANDARD.cooldown, STANDARD.label_dwell) == (300, 900, 120)

    @pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
    def test_every_named_profile_keeps_its_own_rules(self, profile: TimeProfile) -> None:
        assert profile.check() is profile

    @pytest.mark.parametrize("name", PROFILES)
    def test_a_profile_is_found_by_its_name(self, name: str) -> None:
        assert time_profile(name, {}).name == name

    @pytest.mark.parametrize(("profile", "drift", "wait"), [(STANDARD, 1.45, 2.45), (SHORT, 0.35, 0.65)])
    def test_the_wait_after_a_lease_is_drift_and_margin(self, profile: TimeProfile, drift: float, wait: float) -> None:
        assert profile.drift == pytest.approx(drift)
        assert profile.fence_wait == pytest.approx(wait)

    def test_an_unanswered_fence_takes_less_than_fifty_seconds(self) -> None:
        assert STANDARD.lease_ttl + STANDARD.fence_wait == pytest.approx(47.45)

    def test_one_lost_renewal_leaves_time_for_an_effect(self) -> None:
        for profile in PROFILES.values():
            assert profile.lease_ttl - 2 * profile.lease_renew > profile.effect_deadline


class TestRules:
    @pytest.mark.parametrize(
        ("setting", "edge", "good", "rule"),
        [
            ("lease_ttl", 40, 40.01, "lease_ttl must be longer"),
            ("lease_renew", 17.5, 17.49, "lease_ttl must be longer"),
            ("round_trip_max", 15, 14.99, "lease_ttl must be longer"),
            ("effect_deadline", 22.5, 22.49, "effect_deadline must be shorter"),
            ("heartbeat_full_age", 60, 60.01, "heartbeat_full_age must be longer"),
            ("heartbeat_interval", 75, 74.99, "heartbeat_full_age must be longer"),
            ("heartbeat_zero_age", 75, 75.01, "heartbeat_zero_age must be longer"),
            ("standby_fresh_age", 60, 60.01, "standby_fresh_age must be longer"),
        ],
    )
    def test_a_value_on_the_edge_of_a_rule_is_refused_and_one_beyond_it_is_taken(
        self, setting: str, edge: float, good: float, rule: str
    ) -> None:
        with pytest.raises(TimingError, match=rule):
            time_profile("standard", {setting: edge})
        assert getattr(time_profile("standard", {setting: good}), setting) == good

    @pytest.mark.parametrize("constant", CONSTANTS)
    @pytest.mark.parametrize("value", [0, -1, float("nan")])
    def test_every_constant_is_more_than_nothing(self, constant: str, value: float) -> None:
        with pytest.raises(TimingError, match=f"{constant} must be greater than 0"):
            time_profile("standard", {constant: value})

    def test_an_unknown_profile_names_the_known_ones(self) -> None:
        with pytest.raises(TimingError, match=r"'fast'.*standard, short"):
            time_profile("fast", {})

    @pytest.mark.parametrize("constant", ["lease_tll", "name", "drift"])
    def test_an_unknown_constant_is_named(self, constant: str) -> None:
        with pytest.raises(TimingError, match=f"unknown time constant '{constant}'"):
            time_profile("standard", {constant: 1})

    def test_an_override_changes_only_itself(self) -> None:
        assert time_profile("standard", {"cooldown": 60}) == replace(STANDARD, cooldown=60)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 0.0, -1.0, 1e9])
def test_a_constant_that_is_no_length_of_time_is_refused_by_name(value: float) -> None:
    with pytest.raises(TimingError, match="lease_ttl"):
        time_profile("standard", {"lease_ttl": value})
