"""What was decided, and why: in the log, and for the readout."""

from __future__ import annotations

import json
import logging

import pytest

from spm.journal import Journal
from spm.readout import render
from tests.fakes.server import serving
from tests.fakes.system import only


def test_a_decision_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="smart_http.spm")
    Journal().note("spawn 2", "demand 3.1 wants 4, 5 waiting", 2, 4)
    assert caplog.messages == ["spawn 2: demand 3.1 wants 4, 5 waiting (Total 2, wanted 4)"]


def test_decisions_are_kept_with_time_and_reason_the_oldest_first() -> None:
    times = iter([1000.12345, 2000.0])
    journal = Journal(clock=lambda: next(times))
    journal.note("spawn 1", "first", 0, 1)
    journal.note("retire 1", "second", 2, 1)
    assert journal.entries() == [
        {"at": 1000.123, "what": "spawn 1", "why": "first", "total": 0, "wanted": 1},
        {"at": 2000.0, "what": "retire 1", "why": "second", "total": 2, "wanted": 1},
    ]


def test_only_the_last_few_hundred_are_kept() -> None:
    journal = Journal()
    for number in range(1000):
        journal.note(str(number), "", 0, 0)
    kept = [entry["what"] for entry in journal.entries()]
    assert kept == [str(number) for number in range(700, 1000)]


def test_what_was_given_out_does_not_change_any_more() -> None:
    journal = Journal()
    journal.note("a", "", 0, 0)
    given = journal.entries()
    given[0]["what"] = "b"
    journal.note("c", "", 0, 0)
    assert [entry["what"] for entry in journal.entries()] == ["a", "c"]
    assert len(given) == 1


def test_a_manager_keeps_what_it_does_and_the_readout_has_it() -> None:
    with serving(min_workers=2, max_workers=4) as server:
        server.system.crash(server.ready()[0])
        server.until(lambda: len(server.ready()) == 2)
        values = json.loads(json.dumps(server.readout().as_dict()))
        first, second = values["decisions"]
        assert (first["what"], first["total"], first["wanted"]) == ("spawn 2", 0, 2)
        assert first["why"] == "0 of at least 2 are there"
        assert (second["what"], second["why"]) == ("spawn 1", "1 of at least 2 are there")
        assert first["at"] <= second["at"]
        assert "spawn 1: 1 of at least 2 are there (Total 1, wanted 2)" in render(values)


def test_people_are_shown_the_last_five() -> None:
    with serving() as server:
        for _ in range(9):
            server.system.crash(only(server.ready()))
            server.until(lambda: len(server.ready()) == 1, 60)
        values = server.readout().as_dict()
        assert len(values["decisions"]) == 10
        _, _, shown = render(values).partition("last decisions\n")
        assert len(shown.splitlines()) == 5


def test_a_look_that_leads_to_nothing_is_no_decision() -> None:
    with serving() as server:
        server.run(60)
        assert len(server.readout().decisions) == 1
