"""The kind `mixed`: how windows become figures."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.mixed import PAIRS, SLOW_EVERY, Pair, outcome, pairs, tail
from benchmarks.mixed_app import QUICK_BODY, QUICK_PATH, SLOW_BODY, SLOW_PATH, app
from benchmarks.steady import Window

REQUESTS = 100


def window(quick_us: int, errors: int = 0) -> Window:
    """Return a window of one second in which every quick request took so long."""
    noted = [f"error at {quick_us}"] * errors
    return Window([quick_us * 1000] * REQUESTS, [], errors, noted, 1.0, quick_us / 100)


def pair(alone_us: int, beside_us: int) -> Pair:
    return Pair(window(alone_us), window(beside_us))


def test_windows_without_and_with_slow_requests_take_turns() -> None:
    asked: list[int] = []

    def ask(slow_every: int) -> Window:
        asked.append(slow_every)
        return window(len(asked))

    measured = pairs(ask)
    assert asked == [0, SLOW_EVERY] * PAIRS
    assert [each.alone.quick_us(1.0) for each in measured] == [1, 3, 5]
    assert [each.beside.quick_us(1.0) for each in measured] == [2, 4, 6]


def test_one_bad_window_does_not_make_the_tail() -> None:
    assert tail([pair(10, 20), pair(10, 900), pair(12, 20)]) == 2.0


def test_without_an_answer_there_is_no_tail() -> None:
    assert tail([Pair(Window(), Window())]) == 0.0


def test_the_merit_is_of_asking_in_turn() -> None:
    found = outcome([pair(10, 30)], [pair(4, 20)], 7.5)
    assert found.figures == pytest.approx(
        {
            "rate": REQUESTS,
            "p50_us": 30,
            "p99_us": 30,
            "tail": 3,
            "tail_at_rate": 5,
            "load_share": 0.10,
            "memory_mb": 7.5,
        }
    )
    assert (found.errors, found.notes) == (0, ())


def test_errors_of_all_windows_are_summed_and_the_first_are_named() -> None:
    found = outcome([Pair(window(1, errors=2), window(2))], [Pair(window(3), window(4, 3))], 0.0)
    assert found.errors == 5
    assert found.notes == ("error at 1", "error at 4")


def answered(path: str) -> tuple[str, bytes]:
    statuses: list[str] = []

    def start_response(status: str, fields: list[tuple[str, str]], *_: Any) -> Any:
        statuses.append(status)

    body = b"".join(app({"PATH_INFO": path}, start_response))
    return statuses[0], body


def test_the_application_waits_on_one_path_only(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("benchmarks.mixed_app.time.sleep", waited.append)
    assert answered(QUICK_PATH) == ("200 OK", QUICK_BODY)
    assert waited == []
    assert answered(SLOW_PATH) == ("200 OK", SLOW_BODY)
    assert waited == [0.1]
