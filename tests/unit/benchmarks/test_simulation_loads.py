"""What comes: profiles, the loads made of them, and recorded ones."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from benchmarks.simulation.loads import NAMES, Limits, loads
from benchmarks.simulation.profile import Profile
from benchmarks.simulation.trace import TraceError, load_of, read

RAMP = Profile(((0.0, 0.0), (100.0, 100.0), (100.0, 20.0), (200.0, 20.0)))


def test_a_profile_is_straight_lines_and_jumps() -> None:
    rates = [RAMP.at(time_s) for time_s in (0, 25, 99.5, 100, 150, 200, 999)]
    assert rates == pytest.approx([0, 25, 99.5, 20, 20, 20, 20])
    assert (RAMP.seconds, RAMP.peak) == (200.0, 100.0)
    assert RAMP.scaled(rates=2, times=0.5).at(25) == pytest.approx(100)


def test_arrivals_come_in_order_and_as_often_as_the_profile_says() -> None:
    times = list(RAMP.arrivals(Random(3)))
    assert all(before <= after for before, after in pairwise(times))
    # Poisson: five standard deviations.
    for start_s, end_s, expected in ((0, 50, 1250), (50, 100, 3750), (100, 200, 2000)):
        count = sum(start_s <= time_s < end_s for time_s in times)
        assert abs(count - expected) < 5 * expected**0.5


@pytest.mark.parametrize("name", NAMES)
def test_loads_grow_with_the_threads_there_may_be(name: str) -> None:
    small, large = (loads(Limits.of(workers, 1))[name] for workers in (16, 160))
    if small.profile and large.profile:
        assert large.profile.peak == pytest.approx(10 * small.profile.peak)
    assert large.clients == 10 * small.clients
    assert large.length_s == small.length_s
    quick = loads(Limits.of(16, 1), quick=True)[name]
    assert quick.length_s == pytest.approx(small.length_s / 5)


def test_a_slow_tail_has_the_mean_that_is_said_of_it() -> None:
    load = loads(Limits.of(16, 1))["slow-tail"]
    random = Random(1)
    times = [load.service(random) for _ in range(100_000)]
    assert sum(times) / len(times) == pytest.approx(load.mean_service_s, rel=0.03)
    assert 700 < sum(seconds > 1 for seconds in times) < 1300


def test_a_recorded_load_is_read_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "monday.csv"
    path.write_text("# recorded\n0.5,0.1\n\n1.0,0.2\n1.0,0.3\n12.0,0\n")
    assert list(read(path)) == [(0.5, 0.1), (1.0, 0.2), (1.0, 0.3), (12.0, 0.0)]
    load = load_of(path)
    assert (load.name, load.length_s) == ("monday", 12.0)
    assert load.mean_service_s == pytest.approx(0.15)
    assert list(load.requests(Random(1))) == list(read(path))
    assert load.profile is not None
    assert load.profile.at(1.05) == pytest.approx(20.0)  # two within a tenth of a second
    assert load.profile.at(6.0) == 0.0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0.5,0.1\n0.4,0.1\n", "line 2: earlier"),
        ("0.5\n", "line 1: expected"),
        ("0.5,0.1,3\n", "line 1: expected"),
        ("time,service\n", "line 1: expected"),
        ("0.5,-1\n", "line 1: a time that is none"),
        ("nan,1\n", "line 1: a time that is none"),
        ("1,inf\n", "line 1: a time that is none"),
        ("-1,1\n", "line 1: earlier"),
        ("", "no two requests"),
        ("0,1\n", "no two requests"),
        ("\xff", "utf-8"),
    ],
)
def test_what_is_no_recorded_load_is_said_in_one_line(
    tmp_path: Path, text: str, complaint: str
) -> None:
    path = tmp_path / "broken.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(TraceError, match=complaint) as caught:
        load_of(path)
    assert "\n" not in str(caught.value)
