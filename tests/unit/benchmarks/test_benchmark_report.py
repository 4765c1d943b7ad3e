"""Ratios are made within a round; table and JSON hold what was measured and what was not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.report import Results
from benchmarks.runner import Plan
from benchmarks.sample import Sample
from benchmarks.scenarios import SCENARIOS
from benchmarks.servers import OURS, SERVERS
from benchmarks.summary import Spread, ratios, rows


def sample(
    server: str, number: int, rate: float, *, errors: int = 0, load_share: float = 0.5
) -> Sample:
    figures = {
        "rate": rate,
        "p50_us": 200.0,
        "p99_us": 900.0,
        "cpu_us": 1000 / rate,
        "memory_mb": 20.0,
        "load_share": load_share,
    }
    notes = (f"{errors} response(s) of status 400 and above",) if errors else ()
    return Sample("hello", number, server, figures, errors, notes)


def failed(server: str, number: int) -> Sample:
    return Sample("hello", number, server, failure="ended before it answered")


SAMPLES = (
    sample(OURS, 1, 100.0),
    sample("granian", 1, 50.0),
    failed("bjoern", 1),
    sample(OURS, 2, 30.0, errors=2),
    sample("granian", 2, 10.0, load_share=0.99),
    failed("bjoern", 2),
    sample(OURS, 3, 100.0),
    sample("granian", 3, 100.0, load_share=0.99),
    sample("bjoern", 3, 400.0),
)


def results(samples: tuple[Sample, ...] = SAMPLES) -> Results:
    servers = [server for server in SERVERS if server.name in (OURS, "granian", "bjoern")]
    plan = Plan(SCENARIOS[:1], servers, rounds=3, seconds=1, warm_up_s=1)
    machine = {"cpu": "Some CPU", "commit": "abc", "versions": {"granian": "2.0"}}
    return Results(
        "2026-01-01T00:00:00+00:00", machine, plan, "granian", {"waitress": "absent"}, samples
    )


def test_a_ratio_is_made_of_two_rates_of_one_round() -> None:
    # The medians are 100 and 50; round by round it is 2, 3 and 1.
    assert ratios(SAMPLES, "hello", OURS, "granian") == Spread(2.0, 1.0, 3.0)


def test_a_round_in_which_one_of_the_two_failed_has_no_ratio() -> None:
    assert ratios(SAMPLES, "hello", OURS, "bjoern") == Spread(0.25, 0.25, 0.25)


def test_where_less_is_better_the_ratio_is_turned_round() -> None:
    # 10, 33.3 and 10 us against 20, 100 and 10.
    assert ratios(SAMPLES, "hello", OURS, "granian", "cpu_us") == Spread(2.0, 1.0, 3.0)


def test_there_is_no_ratio_to_a_server_that_was_not_measured() -> None:
    assert ratios(SAMPLES, "hello", OURS, "waitress") is None


def test_a_row_says_median_errors_and_failures() -> None:
    ours, granian, bjoern = rows(SAMPLES, "granian")
    assert ours.figures["rate"] == Spread(100.0, 30.0, 100.0)
    assert ours.errors == 2
    assert granian.ratio == Spread(1.0, 1.0, 1.0)
    assert bjoern.failures == ("ended before it answered",) * 2


def test_a_row_shows_when_the_generator_was_the_limit() -> None:
    ours, granian, _ = rows(SAMPLES, "granian")
    assert granian.generator_bound
    assert not ours.generator_bound


def test_the_columns_of_the_table_are_aligned() -> None:
    lines = report.table(["a", "b", "c"], [["long word", "x", "1"], ["y", "z", "1,000"]])
    assert lines.splitlines() == [
        "| a         | b |     c |",
        "| --------- | - | ----: |",
        "| long word | x |     1 |",
        "| y         | z | 1,000 |",
    ]


def test_the_text_names_figures_failures_and_what_was_skipped() -> None:
    text = report.as_text(results())
    ours = next(line for line in text.splitlines() if line.startswith(f"| {OURS} "))
    assert [cell.strip() for cell in ours.strip("|").split("|")] == [
        *(OURS, "100", "2.00", "1.00-3.00", "0.20", "0.90", "10.0", "20", "50%", "2")
    ]
    assert "waitress skipped: absent" in text
    assert text.count("hello, bjoern: ended before it answered") == 1
    assert f"hello, {OURS}, round 2: 2 response(s) of status 400 and above" in text
    assert "50*" in text


def test_a_server_that_failed_every_time_is_in_the_table() -> None:
    text = report.as_text(results((failed(OURS, 1), failed(OURS, 2))))
    assert f"| {OURS} |     failed |" in text


def test_a_run_that_was_broken_off_says_so() -> None:
    assert results().missing_turns() == 0
    broken_off = results(SAMPLES[:4])
    assert broken_off.missing_turns() == 5
    assert "broken off: 5 turn(s) were not taken" in report.as_text(broken_off)


def test_the_text_says_which_bounds_hold() -> None:
    lines = [line for line in report.as_text(results()).splitlines() if " / " in line]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [
        "hello",
        "requests/s / granian",
        "2.00",
        "1.00-3.00",
        ">= 1.10",
        "yes",
        "-",
        "-",
    ] in cells
    assert [
        *("hello", "requests/s / bjoern", "0.25", "0.25-0.25", ">= 0.70", "NO", ">= 0.85", "NO")
    ] in cells


def test_the_json_holds_plan_summary_and_every_sample() -> None:
    run = json.loads(report.as_json(results()))
    assert run["format"] == report.JSON_FORMAT
    assert run["machine"]["commit"] == "abc"
    assert run["plan"]["servers"] == [OURS, "granian", "bjoern"]
    assert run["plan"]["scenarios"][0]["connections"] == SCENARIOS[0].connections
    assert run["skipped"] == {"waitress": "absent"}
    assert len(run["samples"]) == len(SAMPLES)
    assert run["samples"][0]["figures"]["rate"] == 100.0
    assert run["samples"][2]["figures"] == {}
    assert run["bounds"][0]["against"] == "granian"
    assert run["bounds"][0]["holds"] is True
    assert run["summary"][0]["ratio"] == {"median": 2.0, "low": 1.0, "high": 3.0}


def test_the_plot_is_a_picture_of_every_server(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks import plot

    plot.draw(results(), tmp_path / "plot.svg")
    picture = (tmp_path / "plot.svg").read_text(encoding="utf-8")
    assert "<svg" in picture
    for name in (OURS, "granian", "bjoern"):
        assert name in picture
