"""Slow clients: the plan, the ratio that is made in each round, and the report."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import herd, slow_clients, slow_report
from benchmarks.crowd import raise_descriptor_limit
from benchmarks.family import Holdings, family, of_family, of_process
from benchmarks.hostile import SLOW
from benchmarks.latency import Latencies
from benchmarks.servers import OURS, SERVERS
from benchmarks.slow_run import ALONE, ARRIVING, THERE, Figures, Plan, Turn
from tests.unit.benchmarks.local_server import read_all, served

PLAN = Plan(SERVERS[:2], {"idle": 20, "slow-body": 5}, 500.0, 8, rounds=2, seconds=1.0)


def figures(p99: float, bad: int = 0) -> Figures:
    noted = ("closed without an answer",) if bad else ()
    return Figures(100, 0, bad, p99 / 2, p99, p99 * 2, p99 * 3, 0.1, noted)


def turn(number: int, clients: str, p99: float, bad: int = 0) -> Turn:
    loads = {"kept": figures(p99, bad), "fresh": figures(2 * p99)}
    tally = {"open": 5, "settled": 5, "cut": 0, "refused": 0}
    kinds = {"idle": tally, "slow-body": tally} if clients == THERE else {}
    return Turn(OURS, number, clients, loads, Holdings(3, 10, 20, 5, 60), 0.5, kinds)


TURNS = [
    turn(1, ALONE, 1.0),
    turn(1, ARRIVING, 8.0),
    turn(1, THERE, 2.0),
    turn(2, ALONE, 2.0),
    turn(2, ARRIVING, 8.0),
    turn(2, THERE, 3.0, bad=3),
    Turn("gunicorn", 1, THERE, failure="ended before it answered"),
]
RESULTS = slow_report.Results("2026-01-01T00:00:00+00:00", {"commit": "abc"}, PLAN, TURNS)


@pytest.mark.parametrize(
    ("only", "without", "expected"),
    [
        ((), (), {"idle": 9, **{name: 2 for name in SLOW if name != "idle"}}),
        (("idle", "slow-body"), (), {"idle": 9, "slow-body": 2}),
        (("idle", "slow-body"), ("idle",), {"slow-body": 2}),
        (("idle",), ("idle",), {}),
    ],
)
def test_kinds_can_be_chosen_and_left_out(
    only: tuple[str, ...], without: tuple[str, ...], expected: dict[str, int]
) -> None:
    assert slow_clients.chosen(9, 2, only, without) == expected


def test_kinds_without_clients_are_left_out() -> None:
    assert slow_clients.chosen(0, 1, ("idle", "slow-body"), ()) == {"slow-body": 1}


def test_figures_are_made_of_what_was_seen() -> None:
    seen = Latencies([int(ms * 1e6) for ms in range(1, 101)], [2_000_000], 98, 1, 1, ["x"])
    made = Figures.of(seen)
    assert (made.p50, made.p99, made.longest, made.late_p99) == (50.0, 99.0, 100.0, 2.0)
    assert (made.answered, made.bad, made.noted) == (98, 2, ("x",))


def test_ratios_are_made_within_each_round() -> None:
    there = slow_report.ratio(RESULTS, OURS, "kept", THERE)
    assert there is not None
    assert (there.low, there.median, there.high) == (1.5, 1.75, 2.0)
    arriving = slow_report.ratio(RESULTS, OURS, "fresh", ARRIVING)
    assert arriving is not None
    assert (arriving.low, arriving.high) == (4.0, 8.0)
    assert slow_report.ratio(RESULTS, "gunicorn", "kept", THERE) is None


def test_a_turn_is_bad_if_a_request_failed_or_nothing_was_measured() -> None:
    assert [seen.bad for seen in TURNS] == [0, 0, 0, 0, 0, 3, 1]


def test_the_report_has_every_figure_and_every_failure() -> None:
    text = slow_report.as_text(RESULTS)
    assert "1.75" in text
    assert "1.50-2.00" in text
    assert "20 idle, 5 slow-body; arriving at 500 a second" in text
    assert "gunicorn, round 1, there: ended before it answered" in text
    assert f"{OURS}, round 2, there: kept: closed without an answer" in text
    assert PLAN.arrival_s == 0.05


def test_the_json_has_every_turn() -> None:
    read = json.loads(slow_report.as_json(RESULTS))
    assert len(read["turns"]) == len(TURNS)
    assert read["turns"][0]["loads"]["kept"]["p99"] == 1.0
    assert read["plan"]["slow_clients"] == {"idle": 20, "slow-body": 5}


def test_progress_shows_what_went_wrong() -> None:
    assert "(3 BAD)" in slow_report.progress(TURNS[5])
    assert "FAILED: ended" in slow_report.progress(TURNS[6])


def test_the_facts_name_the_versions() -> None:
    facts = slow_report.facts([SERVERS[0]], slow_clients.choose_cores())
    assert facts["versions"] == {OURS: SERVERS[0].version()}


def test_the_herd_is_a_process_that_tells_how_it_is_and_ends_with_the_block() -> None:
    with served(read_all) as (_, port):
        with herd.running(port, {"slow-header": 3, "slow-body": 2}, 1000.0, None) as slow:
            while (tallies := slow.tallies())["slow-header"]["settled"] < 3:
                pass
            assert tallies["slow-header"]["wanted"] == 3
        with pytest.raises(ValueError, match="closed file"):
            slow.tallies()


def test_the_whole_of_it_against_this_server(tmp_path: Path) -> None:
    data = tmp_path / "slow.json"
    limit = raise_descriptor_limit()
    arguments = ["--rounds=1", "--seconds=0.3", "--idle=20", "--each=4", "--arrivals=200"]
    result = CliRunner().invoke(slow_clients.main, [*arguments, f"--json={data}"])
    assert result.exit_code == 0, result.output
    turns = json.loads(data.read_text())["turns"]
    assert [seen["clients"] for seen in turns] == [ALONE, ARRIVING, THERE]
    assert turns[-1]["settled"]
    assert {kind: tally["open"] for kind, tally in turns[-1]["herd"].items()} == {
        **dict.fromkeys(SLOW, 4),
        "idle": 20,
    }
    assert turns[-1]["holdings"]["descriptors"] >= turns[0]["holdings"]["descriptors"] + 40
    assert limit >= 1024


def test_a_family_is_a_process_and_its_descendants() -> None:
    with subprocess.Popen(["sh", "-c", "read x; true"], stdin=subprocess.PIPE) as child:
        assert {os.getpid(), child.pid} <= set(family(os.getpid()))
        own, both = of_process(os.getpid()), of_family(os.getpid())
        assert both.processes >= own.processes + 1
        assert both.pss > own.pss > 0
        assert own.rss >= own.pss
        assert own.threads >= 1
        child.communicate(b"\n", timeout=20)
    assert of_process(child.pid) == Holdings()


def test_descriptors_are_counted() -> None:
    before = of_process(os.getpid()).descriptors
    with socket.socket():
        assert of_process(os.getpid()).descriptors == before + 1
