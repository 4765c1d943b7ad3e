"""The promises are data; a run says for each whether its median keeps it."""

from __future__ import annotations

import pytest

from benchmarks.bounds import BEST, BOUNDS, Bound, judge
from benchmarks.sample import FIGURES, Sample
from benchmarks.scenarios import SCENARIOS
from benchmarks.servers import CANNED, OURS, SERVERS
from benchmarks.summary import Spread


def sample(scenario: str, server: str, number: int, **figures: float) -> Sample:
    return Sample(scenario, number, server, figures)


def test_every_scenario_has_a_promise_and_every_promise_what_it_names() -> None:
    merits = {scenario.name: scenario.merit for scenario in SCENARIOS}
    assert {bound.scenario for bound in BOUNDS} == set(merits)
    for bound in BOUNDS:
        assert bound.name in FIGURES
        assert bound.against in {None, BEST, *(server.name for server in SERVERS)}
        assert (bound.bound, bound.aim) != (None, None)
    assert set(merits.values()) <= set(FIGURES)


@pytest.mark.parametrize(
    ("bound", "value", "holds", "reaches"),
    [
        (Bound("hello", "granian", 1.1, 1.5), 1.2, True, False),
        (Bound("hello", "granian", 1.1), 1.0, False, None),
        (Bound("hello", CANNED, None, 0.8), 0.9, None, True),
        (Bound("mixed", None, 3.0, 2.0), 2.5, True, False),
        (Bound("mixed", None, 3.0, 2.0), 3.5, False, False),
        (Bound("sleep", None, 0.95, 0.98, "ideal"), 0.99, True, True),
        (Bound("start", "gunicorn", 1 / 1.1, 1.0, "start_ms"), 0.95, True, False),
    ],
)
def test_a_bound_is_kept_or_not(
    bound: Bound, value: float, holds: bool | None, reaches: bool | None
) -> None:
    spread = Spread(value, value - 1, value + 1)
    assert (bound.holds(spread), bound.reaches_aim(spread)) == (holds, reaches)


def test_only_what_was_measured_is_judged() -> None:
    samples = [sample("hello", OURS, 1, rate=110.0), sample("hello", "granian", 1, rate=100.0)]
    (judged,) = judge(samples)
    assert (judged.bound.scenario, judged.peer) == ("hello", "granian")
    assert judged.bound.holds(judged.spread)


def test_the_best_peer_is_neither_this_server_nor_the_canned_loop() -> None:
    rates = {OURS: 90.0, "granian": 80.0, "bjoern": 100.0, CANNED: 200.0}
    samples = [sample("post", name, 1, rate=rate) for name, rate in rates.items()]
    judged = {found.bound.against: found for found in judge(samples)}
    assert judged[BEST].peer == "bjoern"
    assert judged[BEST].spread.median == 0.9


def test_a_start_that_takes_less_time_is_the_better_one() -> None:
    samples = [
        sample("start", OURS, 1, start_ms=105.0),
        sample("start", "gunicorn", 1, start_ms=100.0),
    ]
    (judged,) = judge(samples)
    assert judged.bound.holds(judged.spread)
    assert not judged.bound.reaches_aim(judged.spread)
