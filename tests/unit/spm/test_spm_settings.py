from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from httpcore_srv.ports import Incident
from spm import SPMS, SettingsError
from spm.scoreboard import MAX_INCIDENTS


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min_workers": 0}, "min_workers must be at least 1, not 0"),
        ({"min_workers": 5, "max_workers": 2}, "max_workers (2) is less than min_workers (5)"),
        ({"max_workers": 100_000}, "max_workers must be at most 512, not 100000"),
        ({"min_threads": -1}, "min_threads must be at least 1, not -1"),
        ({"min_threads": 9, "max_threads": 8}, "max_threads (8) is less than min_threads (9)"),
        ({"max_threads": 1 << 20}, "max_threads must be at most 4096, not 1048576"),
        ({"graceful_timeout_s": 0}, "graceful_timeout_s must be more than 0, not 0"),
        ({"graceful_timeout_s": -1}, "graceful_timeout_s must be more than 0, not -1"),
        ({"graceful_timeout_s": math.nan}, "graceful_timeout_s must be more than 0, not nan"),
        ({"graceful_timeout_s": math.inf}, "graceful_timeout_s must be more than 0, not inf"),
        ({"kill_after_s": 0}, "kill_after_s must be more than 0, not 0"),
        ({"metrics_interval_s": -0.5}, "metrics_interval_s must be 0 or more, not -0.5"),
        ({"memory_limit_bytes": -1}, "memory_limit_bytes must be 0 or more, not -1"),
        ({"written_off_limit": -1}, "written_off_limit must be 0 or more, not -1"),
        (
            {"incidents": ("x",) * (MAX_INCIDENTS + 1)},
            f"{MAX_INCIDENTS + 1} incidents; places: {MAX_INCIDENTS}",
        ),
        ({"wedged_kill_s": 5}, "wedged_kill_s (5) is less than heartbeat_stale_s (10)"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_in_one_line(
    wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        SPMS(**wrong)
    assert str(caught.value) == message
    assert caught.value.exit_status == 2


def test_the_defaults_fit_each_other() -> None:
    settings = SPMS()
    assert settings.min_workers <= settings.max_workers
    assert settings.preload


def test_killing_wedged_workers_can_be_off() -> None:
    assert SPMS(wedged_kill_s=0).wedged_kill_s == 0


def test_there_are_slots_for_two_generations() -> None:
    assert SPMS(max_workers=7).slots == 14


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPMS().min_workers = 3  # type: ignore[misc]


def test_every_place_for_an_incident_can_be_named() -> None:
    names = tuple(f"incident_{number}" for number in range(MAX_INCIDENTS))
    assert SPMS(incidents=names).incidents == names


def test_there_is_a_place_for_all_that_workers_count() -> None:
    assert sorted(Incident) == list(range(len(Incident)))
    assert len(Incident) <= MAX_INCIDENTS
