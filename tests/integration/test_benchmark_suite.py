"""A small part of `python -m benchmarks --quick`: does it all work? Nothing is said of time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.load import LoadError, choose_generator
from benchmarks.server import ROOT
from benchmarks.servers import OURS

BOUND_S = 100.0


def suite(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    try:
        choose_generator()
    except LoadError as error:
        pytest.skip(str(error))
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments, f"--output-dir={directory}"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )


def test_two_servers_are_measured_and_the_run_leaves_its_numbers(tmp_path: Path) -> None:
    done = suite(
        "--quick",
        *("--server", OURS, "--server", "canned"),
        *("--scenario", "hello", "--scenario", "large"),
        directory=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (data,) = tmp_path.glob("*.json")
    run = json.loads(data.read_text())
    turns = [(sample["scenario"], sample["server"]) for sample in run["samples"]]
    assert turns == [("hello", OURS), ("hello", "canned"), ("large", OURS)]
    for sample in run["samples"]:
        assert (sample["failure"], sample["errors"]) == ("", 0)
        assert sample["figures"]["cpu_us"] > 0
        assert sample["figures"]["memory_mb"] > 0
    (text,) = tmp_path.glob("*.md")
    assert text.read_text() in done.stdout
    again = suite("--history", "--scenario", "hello", directory=tmp_path)
    assert again.returncode == 0, again.stderr
    assert run["machine"]["commit"] in again.stdout
