"""python -m benchmarks.simulate: options, report, files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks.simulate import main
from benchmarks.simulation.cost import measure

ROOT = Path(__file__).resolve().parents[3]
QUICK = ("--quick", "--load", "step")


def simulate(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_it_prints_a_table_with_each_rule() -> None:
    result = simulate(*QUICK, "--load", "crashes", "--try", "spare=2,starting_limit=8")
    assert result.exit_code == 0, result.output
    assert "## step: " in result.stdout
    assert "## crashes: " in result.stdout
    for name in ("smart  ", "smart spare=2 starting_limit=8", "apache prefork", "fixed at maximum"):
        assert result.stdout.count(f"| {name}") == 2
    lines = [line for line in result.stdout.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1


def test_it_writes_report_json_and_curves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    trace = tmp_path / "recorded.csv"
    trace.write_text("".join(f"{number / 20},0.1\n" for number in range(200)))
    directory = tmp_path / "made" / "here"
    arguments = ("--trace", str(trace), "--rule", "smart", "--rule", "fixed at max")
    result = simulate(*QUICK, *arguments, "--out", str(directory))
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["recorded.png", "simulation.json", "simulation.md", "step.png"]
    assert (directory / "step.png").read_bytes().startswith(b"\x89PNG")
    assert "![recorded](recorded.png)" in (directory / "simulation.md").read_text()
    found = json.loads((directory / "simulation.json").read_text())
    assert [(o["load"], o["rule"]) for o in found["outcomes"]] == [
        ("step", "smart"),
        ("step", "fixed at maximum"),
        ("recorded", "smart"),
        ("recorded", "fixed at maximum"),
    ]
    assert [run["arrived"] for run in found["outcomes"][2]["runs"]] == [200]
    assert all(len(outcome["curve"]) > 100 for outcome in found["outcomes"])


def test_several_seeds_give_median_and_highest() -> None:
    result = simulate(*QUICK, "--seeds", "3", "--seed", "4", "--rule", "fixed at max")
    assert result.exit_code == 0, result.output
    assert "seeds 4, 5, 6" in result.stdout
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("| fixed")]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[4] == "1.00"  # against itself
    middle, highest = map(int, cells[14].split("-"))  # answered
    assert 0 < middle < highest


def test_a_trace_alone_is_simulated_alone(tmp_path: Path) -> None:
    trace = tmp_path / "recorded.csv"
    trace.write_text("0,1\n5,1\n")
    result = simulate("--trace", str(trace))
    assert result.exit_code == 0, result.output
    assert [line for line in result.stdout.splitlines() if line.startswith("## ")] == [
        "## recorded: recorded in recorded.csv, 2 requests"
    ]


def test_output_does_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    found = []
    for seed in ("1", "2"):
        directory = tmp_path / seed
        subprocess.run(
            [sys.executable, "-m", "benchmarks.simulate", *QUICK, "--out", str(directory)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            timeout=60,
        )
        outcomes = json.loads((directory / "simulation.json").read_text())["outcomes"]
        found.append([{**outcome, "decide_us": None} for outcome in outcomes])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--try", "spares=1"), "no constant is called 'spares'"),
        (("--try", "threads=1"), "no constant is called 'threads'"),
        (("--try", "spare"), "'spare' has no number"),
        (("--try", "spare=nan"), "'spare=nan' is not finite"),
        (("--rule", "iis"), "no rule begins so"),
        (("--workers", "10001"), "10001"),
        (("--trace", "/nonexistent"), "/nonexistent"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], complaint: str) -> None:
    result = simulate(*QUICK, *arguments)
    assert result.exit_code == 2
    assert complaint in result.output


def test_a_broken_trace_is_named_with_its_line(tmp_path: Path) -> None:
    trace = tmp_path / "step.csv"
    trace.write_text("0,1\nx\n")
    result = simulate("--trace", str(trace))
    assert result.exit_code == 2
    assert "step.csv, line 2" in result.output
    trace.write_text("0,1\n1,1\n")
    result = simulate(*QUICK, "--trace", str(trace))
    assert result.exit_code == 2
    assert "two loads are called step" in result.output


def test_the_cost_of_a_call_grows_with_the_workers() -> None:
    few, many = measure(10), measure(5000)
    assert few.steady_us < many.steady_us
    assert min(few.growing_us, few.retiring_us) > 0
