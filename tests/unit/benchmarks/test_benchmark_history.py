"""Runs of any known format show their ratios; another revision's files are gone afterwards."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks import compare, history
from benchmarks.history import FormatError
from benchmarks.server import ROOT

FIRST = {
    "format": 1,
    "began": "2026-01-01T10:00:00+00:00",
    "machine": {"commit": "aaa"},
    "plan": {"rounds": 1},
    "samples": [
        {
            "scenario": "hello",
            "round": 1,
            "server": server,
            "measurement": measured,
            "cpu_us": 1.0,
            "memory_mb": 2.0,
            "load_share": 0.5,
            "failure": "" if measured else "it did not start",
        }
        for server, measured in [
            ("smart-http", {"requests": 1, "rate": 120.0, "p50_us": 1.0, "p99_us": 2.0}),
            ("granian", {"requests": 1, "rate": 100.0, "p50_us": 1.0, "p99_us": 2.0}),
            ("bjoern", None),
        ]
    ],
}
SECOND = {
    "format": 2,
    "began": "2026-01-02T10:00:00+00:00",
    "machine": {"commit": "bbb"},
    "plan": {"rounds": 5},
    "samples": [
        {
            "scenario": scenario,
            "round": 1,
            "server": server,
            "figures": figures,
            "errors": 0,
            "notes": [],
            "failure": "",
        }
        for scenario, server, figures in [
            ("hello", "smart-http", {"rate": 150.0}),
            ("hello", "granian", {"rate": 100.0}),
            ("start", "smart-http", {"start_ms": 100.0}),
            ("start", "gunicorn", {"start_ms": 200.0}),
        ]
    ],
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for name, run in {"2026-01-02": SECOND, "2026-01-01": FIRST}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(run))
    (tmp_path / "elastic-2026-01-01.json").write_text("{}")
    return tmp_path


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_runs_of_both_formats_stand_in_the_order_of_time(results: Path) -> None:
    text = history.as_text(results, ["hello"])
    head, _, first, second = [cells(line) for line in text.splitlines() if line.startswith("|")]
    granian = head.index("/ granian")
    assert (first[0], first[1], first[granian]) == ("2026-01-01 10:00", "aaa", "1.20")
    assert (second[0], second[1], second[granian]) == ("2026-01-02 10:00", "bbb", "1.50")
    assert "start" not in text
    assert "skipped" not in text


def test_a_shorter_time_is_a_ratio_above_one(results: Path) -> None:
    text = history.as_text(results, ["start"])
    head, _, row = [cells(line) for line in text.splitlines() if line.startswith("|")]
    assert row[head.index("/ gunicorn")] == "2.00"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}'])
def test_a_file_of_another_kind_is_named_and_skipped(text: str, tmp_path: Path) -> None:
    file = tmp_path / "2026-01-03.json"
    file.write_text(text)
    with pytest.raises(FormatError):
        history.read(file)
    assert "2026-01-03.json skipped: " in history.as_text(tmp_path)


def test_the_command_shows_the_history_and_measures_nothing(results: Path) -> None:
    shown = CliRunner().invoke(command.main, ["--history", f"--output-dir={results}"])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == history.as_text(results)


def in_repository() -> bool:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, check=False
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0


needs_repository = pytest.mark.skipif(not in_repository(), reason="these files are not in git")


@needs_repository
def test_the_files_of_a_revision_are_there_inside_the_block_only() -> None:
    def interrupted() -> None:
        with compare.revision("HEAD") as server:
            roots.append(server.root)
            assert (server.root / "main.py").exists()
            assert server.version()[0].isdigit()
            raise KeyboardInterrupt

    roots: list[Path] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not roots[0].parent.exists()


@needs_repository
@pytest.mark.parametrize("name", ["no-such-revision", "--help"])
def test_what_is_no_revision_is_said(name: str) -> None:
    with pytest.raises(compare.RevisionError), compare.revision(name):
        pytest.fail("there is none")
