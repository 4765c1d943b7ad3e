"""Elastic: figures from what was seen over time, bounds, the report."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import elastic, elastic_report
from benchmarks.elastic_fit import per_second, rate
from benchmarks.elastic_imbalance import Imbalance, judge_imbalance
from benchmarks.elastic_load import Answered, Seen
from benchmarks.elastic_series import (
    NEVER,
    Changes,
    changes,
    is_explained,
    milliseconds,
    ready_pids,
    rebounds,
    seconds_until_back,
    seconds_until_ready,
    seconds_until_replaced,
    staying,
    windows,
)
from benchmarks.elastic_server import Moment
from benchmarks.elastic_verdict import Check, Outcome, all_hold, judge

S = 1_000_000_000
MS = 1_000_000


@dataclass(frozen=True)
class Look:
    at_ns: int
    total: int = 0
    ready: int = 0
    kill_pending: int = 0
    workers: dict[int, str] = field(default_factory=dict)


def looks(*totals: int) -> list[Look]:
    """One look a second, everybody ready."""
    return [Look(second * S, total, total) for second, total in enumerate(totals)]


def crew(**states: str) -> Look:
    workers = {int(name.removeprefix("w")): state for name, state in states.items()}
    return Look(0, workers=workers)


# -- over time ------------------------------------------------------------------------------


def test_time_until_enough_workers_are_ready_counts_from_the_moment_given() -> None:
    seen = [Look(0, 9, 9), Look(2 * S, 9, 3), Look(3 * S, 9, 8), Look(4 * S, 9, 9)]
    assert seconds_until_ready(seen, 1 * S, 8) == 2.0


def test_starting_workers_are_not_ready() -> None:
    assert seconds_until_ready([Look(S, total=8, ready=7)], 0, 8) == NEVER


def test_time_until_back_is_that_of_the_last_fall() -> None:
    assert seconds_until_back(looks(16, 16, 4, 5, 4, 3), 1 * S, 4) == 3.0


def test_never_back_if_the_last_look_shows_too_many() -> None:
    assert seconds_until_back(looks(16, 4, 5), 0, 4) == NEVER
    assert seconds_until_back([], 0, 4) == NEVER


def test_back_at_once_if_there_never_were_more() -> None:
    assert seconds_until_back(looks(2, 3, 2), 1 * S, 4) == 0.0


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([2, 5, 16, 16, 9, 4, 2], 0),
        ([2, 16, 12, 16, 2], 1),
        ([4, 3, 5, 6, 4, 4, 7], 2),
        ([], 0),
        ([5], 0),
    ],
)
def test_a_rebound_is_a_rise_after_a_fall(counts: list[int], expected: int) -> None:
    assert rebounds(counts) == expected


def test_who_is_to_leave_does_not_stay() -> None:
    assert staying(Look(0, total=6, kill_pending=2)) == 4


def test_changes_count_newcomers_leavers_and_those_taken_back() -> None:
    seen = [
        crew(w1="Busy", w2="Idle"),
        crew(w1="Busy", w2="KillPending", w3="Starting"),  # one told to leave, one new
        crew(w1="Busy", w2="Idle", w3="Idle"),  # taken back
        crew(w1="Busy", w3="Busy"),  # told and gone between two looks
    ]
    assert changes(seen) == Changes(spawned=1, retired=2, revived=1)


def test_a_worker_that_leaves_is_counted_once() -> None:
    leaving = crew(w1="Busy", w2="KillPending")
    seen = [crew(w1="Busy", w2="Idle"), leaving, leaving, crew(w1="Idle")]
    assert changes(seen).count == 1


def test_replaced_when_all_are_ready_again_without_the_killed_one() -> None:
    both = {1: "Busy", 2: "Idle"}
    seen = [
        Look(0, 2, 2, workers=both),
        Look(2 * S, 2, 2, workers=both),  # the manager does not know yet
        Look(3 * S, 2, 1, workers={1: "Busy", 3: "Starting"}),
        Look(4 * S, 2, 2, workers={1: "Busy", 3: "Idle"}),
    ]
    assert seconds_until_replaced(seen, 1 * S, 2, needed=2) == 3.0
    assert seconds_until_replaced(seen[:3], 1 * S, 2, needed=2) == NEVER
    assert seconds_until_replaced([], 1 * S, 2, needed=2) == NEVER


def test_those_that_serve_can_be_killed() -> None:
    assert ready_pids(crew(w1="Busy", w2="Starting", w3="Idle", w4="KillPending")) == [1, 3]


def test_what_breaks_just_after_a_kill_is_explained_by_it() -> None:
    moments = (999, 1000, 1050, 1051, 3000)
    found = [moment for moment in moments if is_explained(moment * MS, [1000 * MS], 50 * MS)]
    assert found == [1000, 1050]


def test_windows_show_what_was_due_in_them() -> None:
    answered = [Answered(100 * MS, 5 * MS), Answered(200 * MS, 9 * MS), Answered(700 * MS, MS)]
    found = list(windows(answered, [Look(0, 2), Look(400 * MS, 4)], 0, S, 0.5))
    assert [(w.at_s, w.arrivals_per_s, w.p99_ms) for w in found] == [(0, 4, 9), (0.5, 2, 1)]
    assert found[0].total == 3
    assert math.isnan(found[1].total)


def test_no_duration_is_no_good_duration() -> None:
    assert milliseconds([], 0.99) == NEVER
    assert milliseconds([MS, 2 * MS], 0.5) == 1.0


# -- bounds ---------------------------------------------------------------------------------


def outcome(number: int, *checks: Check, scenario: str = "burst", failure: str = "") -> Outcome:
    return Outcome(scenario, number, checks, failure=failure)


@pytest.mark.parametrize(
    ("values", "at_least", "each", "value", "holds"),
    [
        ([1, 2, 9], False, False, 2, True),
        ([1, 3, 9], False, False, 3, False),
        ([1, 2, 9], False, True, 9, False),
        ([1, 2, 9], True, False, 2, True),
        ([1, 2, 9], True, True, 1, False),
        ([2, math.inf, math.inf], False, False, math.inf, False),
    ],
)
def test_rounds_are_judged_by_their_median_or_by_the_worst(
    values: list[float], at_least: bool, each: bool, value: float, holds: bool
) -> None:
    rounds = [
        outcome(number, Check("x", value, 2, at_least=at_least, each=each))
        for number, value in enumerate(values)
    ]
    (verdict,) = judge(rounds)
    assert (verdict.value, verdict.holds) == (value, holds)
    assert (verdict.low, verdict.high) == (min(values), max(values))
    assert all_hold(rounds) is holds


def test_what_is_no_number_holds_no_bound() -> None:
    rounds = [outcome(1, Check("x", math.nan, 2)), outcome(2, Check("x", 1, 2))]
    assert not all_hold(rounds)


def test_a_round_that_failed_or_checked_nothing_does_not_hold() -> None:
    good = outcome(1, Check("x", 1, 2))
    assert all_hold([good])
    assert not all_hold([good, outcome(2, failure="did not start")])
    assert not all_hold([good, outcome(2)])
    assert not all_hold([])


def test_scenarios_are_judged_apart() -> None:
    rounds = [
        outcome(1, Check("p99", 1, 2)),
        outcome(1, Check("p99", 3, 2), scenario="burst2"),
    ]
    assert [(v.scenario, v.holds) for v in judge(rounds)] == [("burst", True), ("burst2", False)]


# -- the report -----------------------------------------------------------------------------

CURVE = [{"at_s": 0.0, "arrivals_per_s": 5.0, "p99_ms": 101.0, "total": 2.0}] * 2
RESULTS = elastic_report.Results(
    "2026-01-01T00:00:00+00:00",
    {"commit": "abc", "cores": 2},
    1,
    True,
    [
        Outcome(
            "burst",
            1,
            [Check("errors", 0, 0), Check("ready after", math.inf, 0.5, "s")],
            {"requests": 820, "p99 ms": 150.123, "of a span": math.nan},
            ["3 x closed"],
            CURVE,
        ),
        Outcome("term", 1, failure="did not start"),
    ],
)


def test_the_report_says_what_holds_and_what_does_not() -> None:
    text = " ".join(elastic_report.as_text(RESULTS).split())
    assert "| burst | errors | 0 | 0-0 | ≤ 0 | holds |" in text
    assert "| burst | ready after | never s | never-never | ≤ 0.5 | **does not hold** |" in text
    assert "- term, round 1: did not start" in text
    assert "- burst, round 1: 3 x closed" in text
    assert "All together: does not hold." in text


def test_json_has_null_for_what_never_happened() -> None:
    document = json.loads(elastic_report.as_json(RESULTS))
    assert document["holds"] is False
    assert [verdict["value"] for verdict in document["verdicts"]] == [0, None]
    assert document["outcomes"][0]["figures"]["of a span"] is None


def test_progress_names_figures_and_bounds() -> None:
    first, second = map(elastic_report.progress, RESULTS.outcomes)
    assert "never s ready after (≤ 0.5)" in first
    assert second == "term round 1 FAILED: did not start"


def test_curves_are_drawn_where_there_are_any(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert elastic_report.draw(RESULTS.outcomes, tmp_path / "curve.svg")
    assert b"arrivals/s" in (tmp_path / "curve.svg").read_bytes()
    assert not elastic_report.draw(RESULTS.outcomes[1:], tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()


# -- the command ----------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "status"), [(1, 0), (3, 1)])
def test_the_exit_status_says_whether_all_bounds_hold(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: float, status: int
) -> None:
    def measure(name: str, number: int, quick: bool) -> Outcome:
        assert quick
        return outcome(number, Check("x", value, 2), scenario=name)

    monkeypatch.setattr("benchmarks.elastic.SCENARIOS", {"burst": measure})
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # put back at the end
    arguments = ["burst", "--quick", "--output-dir", str(tmp_path)]
    ended = CliRunner().invoke(elastic.main, arguments)
    assert ended.exit_code == status, ended.output
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".md"]


def test_a_server_that_does_not_start_is_a_failed_round(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def measure(name: str, number: int, quick: bool) -> Outcome:
        raise elastic.ServerError("ended before it answered")

    monkeypatch.setattr("benchmarks.elastic.SCENARIOS", {"burst": measure})
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # put back at the end
    ended = CliRunner().invoke(elastic.main, ["burst", "--output-dir", str(tmp_path)])
    assert ended.exit_code == 1
    assert "burst, round 3: ended before it answered" in ended.output


def test_unknown_scenarios_are_refused() -> None:
    ended = CliRunner().invoke(elastic.main, ["bursts"])
    assert ended.exit_code == 2
    assert "'bursts' is not one of" in ended.output


# -- throughput -----------------------------------------------------------------------------


def moment(second: float, total: int, requests: int) -> Moment:
    names = ("ready", "starting", "kill_pending", "threads", "busy_threads", "connections")
    zeros = dict.fromkeys(names, 0)
    return Moment(int(second * S), total, requests=requests, workers={}, **zeros)


def test_the_rate_is_what_the_server_counted_between_first_and_last_look() -> None:
    seen = [moment(1, 1, 100), moment(2, 3, 900), moment(3, 3, 500)]
    assert rate(seen) == 200


def test_workers_are_shown_second_by_second() -> None:
    seen = [moment(second / 4, total, 0) for second, total in enumerate((1, 2, 2, 2, 3, 9, 3, 3))]
    assert per_second(seen) == "1 3"
    assert per_second([]) == ""


# -- imbalance ------------------------------------------------------------------------------


def test_slow_ones_are_measured_against_one_request_a_second_each() -> None:
    slow = Seen(answered=[Answered(0, 5 * MS)])  # was under way when they turned slow
    for number in range(4):
        begin = number * 10 * MS
        slow.answered += [Answered(begin, S), Answered(begin + S, S), Answered(begin + 2 * S, S)]
    seen = Imbalance(Counter(), [MS], Seen(), slow, 0, int(2.5 * S))
    assert seen.slow_share == pytest.approx((4 * 2 + 0.5 + 0.49 + 0.48 + 0.47) / 10)


def test_the_others_must_not_suffer_beyond_three_times_the_unloaded_p99() -> None:
    others = Seen(answered=[Answered(S, MS)] * 90 + [Answered(S + 20 * MS, 4 * MS)] * 10)
    seen = Imbalance(Counter([7]), [MS], others, Seen(), S, 3 * S)
    judged = judge_imbalance("imbalance", 1, seen)
    values = {check.what: check.value for check in judged.checks}
    assert values["p99 of the others / unloaded"] == 4
    assert "beyond the bound: 4 ms at 0.02 s, " in judged.notes[0]


def test_peers_promise_nothing() -> None:
    own = outcome(1, Check("x", 1, 2))
    peer = Outcome("burst, peer", 1, figures={"errors": 9}, is_peer=True)
    assert all_hold([own, peer])
    assert not all_hold([peer])
