"""A soak is judged by what was seen: each kind of damage is named, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.crowd import Tally
from benchmarks.family import Holdings
from benchmarks.soak import as_json, as_text
from benchmarks.soak_record import Look, Record, Tolerance, growth, judge

MB = 1_000_000
QUIET = Look(
    at_s=0.0,
    held=Holdings(processes=3, pss=40 * MB, rss=80 * MB, threads=5, descriptors=60),
    workers=1,
    connections=0,
    requests=10,
    running=0,
    streams=0,
    errors=0,
    restarts=0,
    lost=0,
    incidents={},
)
BUSY = replace(
    QUIET, held=Holdings(3, 60 * MB, 90 * MB, 30, 400), connections=300, running=4, streams=20
)


def record(**after: Any) -> Record:
    """Return a soak without fault, but for what the last look is told to have."""
    return Record(
        before=QUIET,
        looks=[replace(BUSY, at_s=float(second)) for second in range(16)],
        after=replace(QUIET, requests=1040, **after),
        good={"kept": Tally(opened=5, requests=1000, answers=1000, statuses={200: 1000})},
        bad={"flood": Tally(opened=9, requests=100)},
    )


def problems(seen: Record) -> list[str]:
    return list(judge(seen, Tolerance()))


def test_a_soak_without_fault_has_no_problems() -> None:
    assert problems(record()) == []


@pytest.mark.parametrize("what", ["descriptors", "threads", "processes"])
def test_what_processes_still_hold_is_named(what: str) -> None:
    held = replace(QUIET.held, **{what: getattr(QUIET.held, what) + 1})
    (problem,) = problems(record(held=held))
    assert problem.startswith(what)


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("connections", "connections: 0 before, 1"),
        ("streams", "streams: 0 before, 1"),
        ("running", "running requests: 0 before, 1"),
        ("errors", "counts 1 errors"),
        ("restarts", "counts 1 restarts"),
        ("lost", "counts 1 lost"),
    ],
)
def test_what_the_server_still_counts_is_named(what: str, named: str) -> None:
    (problem,) = problems(record(**{what: 1}))
    assert named in problem


def test_fewer_threads_than_before_are_no_problem() -> None:
    assert problems(record(held=replace(QUIET.held, threads=3))) == []


def test_a_failure_of_a_good_client_is_named_with_its_words() -> None:
    seen = record()
    seen.good["kept"].fail("kept 3: closed")
    (problem,) = problems(seen)
    assert "kept 3: closed" in problem


def test_good_clients_that_lack_answers_are_named() -> None:
    seen = record()
    seen.good["kept"].answers = 990
    assert any("1000 requests, only 990 answers" in problem for problem in problems(seen))
    seen.good["fresh"] = Tally()
    assert any("fresh: not a single answer" in problem for problem in problems(seen))


@pytest.mark.parametrize(("requests", "fits"), [(1009, 0), (1010, 1), (1110, 1), (1111, 0)])
def test_requests_counted_must_be_requests_asked(requests: int, fits: bool) -> None:
    seen = record()
    assert seen.after is not None
    seen.after = replace(seen.after, requests=requests)
    found = problems(seen)
    assert found == [] if fits else "which should be 1000 to 1100" in found[0]


def test_memory_that_grows_is_named() -> None:
    seen = record()
    for number, look in enumerate(seen.looks):
        held = replace(look.held, pss=look.held.pss + number * 4 * MB)
        seen.looks[number] = replace(look, held=held)
    (problem,) = problems(seen)
    assert problem.startswith("memory with 1 worker(s) grew from 82.0 MB")


def test_memory_of_more_workers_is_not_growth() -> None:
    seen = record()
    grown = replace(BUSY, workers=4, held=replace(BUSY.held, processes=6, pss=200 * MB))
    seen.looks[-4:] = [grown] * 3 + seen.looks[-1:]
    assert problems(seen) == []


def test_memory_is_not_judged_by_a_few_looks() -> None:
    seen = record()
    del seen.looks[3:]
    assert "too few" in next(growth(seen, Tolerance()))


def test_a_server_that_was_not_looked_at_afterwards_is_a_problem() -> None:
    seen = record()
    seen.after = None
    assert problems(seen) != []


def test_it_is_looked_at_until_nothing_is_left() -> None:
    seen, pauses = record(), []
    looks = iter([BUSY, BUSY, QUIET, BUSY])
    reported: list[Look] = []
    seen.settle(lambda: next(looks), 60.0, reported.append, pauses.append)
    assert seen.after is QUIET
    assert len(pauses) == 2
    assert reported == [QUIET]


def test_it_is_not_looked_at_for_ever() -> None:
    seen = record()
    seen.settle(lambda: BUSY, 0.0, lambda look: None, lambda seconds: None)
    assert seen.after is BUSY
    assert any("connections: 0 before, 300" in problem for problem in problems(seen))


def test_the_report_names_every_kind_and_the_whole_way() -> None:
    seen = record()
    text = as_text(seen)
    assert "kept" in text
    assert "200:1000" in text
    assert "1 workers" in text
    assert '"problems": [\n  "leak"\n ]' in as_json("now", 1.0, seen, ["leak"])
