"""A short run of each fuzz target, the same every time; README.md says how to run them for long."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from tests.corpus.cases import connections, invalid_cases, valid_cases
from tests.corpus.mutation import mutated
from tests.fuzz.targets import check_connection, check_requests

ROOT = Path(__file__).parents[2]
PATIENCE_S = 90  # a bound that says "never"
# What they do in some seconds; on a slow machine the clock ends them sooner.
TARGETS = {"fuzz_requests": 5_000, "fuzz_connection": 10_000}
BOUNDS = ("-seed=1", "-max_total_time=8", "-print_final_stats=1")

needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed: it has wheels for Linux on x86-64 only",
)


@dataclass
class Run:
    """One target at work; what it finds goes to `place`."""

    process: subprocess.Popen[str]
    place: Path

    def findings(self) -> list[str]:
        """Return the inputs that failed."""
        return [f"{path.name}: {path.read_bytes()!r}" for path in self.place.iterdir()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """All targets, run at the same time."""
    # Not measured: coverage would have them do a tenth of the work.
    environ = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}
    runs = {}
    for name, count in TARGETS.items():
        place = tmp_path_factory.mktemp(name)
        command = [sys.executable, "-m", f"tests.fuzz.{name}", *BOUNDS, f"-runs={count}"]
        process = subprocess.Popen(
            [*command, f"-artifact_prefix={place}/"],
            cwd=ROOT,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        runs[name] = Run(process, place)
    yield runs
    for run in runs.values():
        run.process.kill()
        run.process.communicate()


@needs_atheris
@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run_finds_nothing(runs: dict[str, Run], name: str) -> None:
    run = runs[name]
    output, _ = run.process.communicate(timeout=PATIENCE_S)
    assert run.process.returncode == 0, "\n".join([*run.findings(), output[-4000:]])
    assert "stat::number_of_executed_units" in output


@pytest.mark.parametrize("check", [check_requests, check_connection])
def test_the_corpus_and_what_is_made_of_it_hold_without_a_fuzzer(
    check: Callable[[bytes], None],
) -> None:
    for case in valid_cases() + invalid_cases():
        check(case.data)
    everything = connections()
    for seed in range(2000):
        check(mutated(Random(seed), everything))
