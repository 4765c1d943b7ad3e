"""Slow scripts never come to an end, hostile ones do, and none sends more than it counts."""

from __future__ import annotations

import random

import pytest

from benchmarks.answer import Answer
from benchmarks.crowd import Drain, Kind, Receive, Rest, Send, Step, Take, Wrong
from benchmarks.hostile import HOSTILE, SLOW, SMUGGLED, get, post
from benchmarks.ordinary import ORDINARY, STREAM_BYTES, file_reader, sleeper
from benchmarks.stress_app import crc_of_pieces

STEPS = 200
NOTHING = Answer(200, {}, 0, 0, b"")


def steps(kind: Kind, seed: int = 1, answer: Answer = NOTHING) -> list[Step]:
    """Return the first steps of a script whose every request is answered the same."""
    script = kind.script(7, random.Random(seed))
    found: list[Step] = []
    result: object = None
    for _ in range(STEPS):
        try:
            step = script.send(result)
        except StopIteration:
            break
        found.append(step)
        result = {Receive: answer, Take: 10}.get(type(step))
    script.close()
    return found


def sent(taken: list[Step]) -> bytes:
    return b"".join(step.data for step in taken if isinstance(step, Send))


@pytest.mark.parametrize("name", [name for name in SLOW if name != "idle"])
def test_slow_clients_do_a_little_again_and_again(name: str) -> None:
    taken = steps(SLOW[name])
    assert len(taken) == STEPS
    assert sum(isinstance(step, Rest) for step in taken) >= STEPS // 2 - 1
    assert all(len(step.data) <= 10 for step in taken[2:] if isinstance(step, Send))
    assert all(step.size <= 4096 for step in taken if isinstance(step, Take))


@pytest.mark.parametrize("name", ["slow-header", "slow-body", "slow-chunk"])
def test_slow_senders_never_come_to_the_end_of_a_request(name: str) -> None:
    taken = steps(SLOW[name])
    assert sum(step.requests for step in taken if isinstance(step, Send)) == 0
    said = sent(taken)
    assert said.count(b"\r\n\r\n") == (0 if name == "slow-header" else 1)
    assert b"0\r\n\r\n" not in said.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("name", ["slow-reader", "slow-stream-reader"])
def test_slow_readers_leave_the_answer_in_the_socket(name: str) -> None:
    taken = steps(SLOW[name])
    assert sent(taken).count(b"\r\n\r\n") == 1
    assert all(step.unread for step in taken if isinstance(step, Rest))
    assert SLOW[name].receive_buffer is not None


def test_idle_clients_ask_once_and_rest() -> None:
    assert [type(step) for step in steps(SLOW["idle"])[:4]] == [Send, Receive, Rest, Rest]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("seed", range(20))
def test_hostile_clients_come_to_an_end_and_are_not_good(name: str, seed: int) -> None:
    kind = HOSTILE[name]
    taken = steps(kind, seed)
    assert len(taken) < 10
    assert not kind.is_good
    assert not any(isinstance(step, Receive) for step in taken)  # which they may never get


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("seed", range(20))
def test_no_request_that_could_be_whole_is_uncounted(name: str, seed: int) -> None:
    taken = steps(HOSTILE[name], seed)
    counted = sum(step.requests for step in taken if isinstance(step, Send))
    if name in ("garbage", "half-request", "connect-and-close", "stopped-body"):
        assert counted == 0  # by chance garbage could be one: not in this universe
    elif name != "huge-head":  # which is over every limit
        assert counted >= sent(taken).count(b"GET /")


def test_half_requests_are_never_whole() -> None:
    whole = post("/upload", b"x" * 1000)
    for seed in range(200):
        said = sent(steps(HOSTILE["half-request"], seed))
        assert whole.startswith(said)
        assert len(said) < len(whole)


def test_every_smuggling_attempt_hides_a_request_or_a_bad_size() -> None:
    assert len(set(SMUGGLED)) == len(SMUGGLED)
    hiding = [data for data in SMUGGLED if b"GET /smuggled" in data]
    assert len(hiding) >= len(SMUGGLED) - 1


@pytest.mark.parametrize("name", ["kept", "fresh", "poster", "chunker", "streamer"])
def test_ordinary_clients_refuse_a_wrong_answer(name: str) -> None:
    for wrong in (NOTHING, Answer(500, {}, 0, 0, b"")):
        with pytest.raises(Wrong):
            steps(ORDINARY[name], answer=wrong)


def test_ordinary_clients_go_on_as_long_as_the_answers_are_right() -> None:
    right = Answer(200, {}, STREAM_BYTES, crc_of_pieces(STREAM_BYTES), b"")
    assert sum(isinstance(step, Receive) for step in steps(ORDINARY["streamer"], answer=right)) == 5
    file = file_reader(7, 9)
    assert any(isinstance(step, Receive) for step in steps(file, answer=Answer(200, {}, 7, 9, b"")))
    with pytest.raises(Wrong, match="7 bytes of a file"):
        steps(file, answer=Answer(200, {}, 7, 8, b""))


def test_ordinary_clients_respect_a_close() -> None:
    last = Answer(200, {b"connection": b"close"}, 5, 0, b"slept")
    taken = steps(sleeper(40.0), answer=last)
    assert [type(step) for step in taken] == [Send, Receive]


def test_all_ordinary_clients_are_good_and_all_requests_well_formed() -> None:
    for kind in (*ORDINARY.values(), file_reader(1, 1), sleeper(1.0)):
        assert kind.is_good
    assert get("/x", "A: b") == b"GET /x HTTP/1.1\r\nHost: test\r\nA: b\r\n\r\n"
    assert post("/", b"12").endswith(b"Content-Length: 2\r\n\r\n12")


def test_hostile_clients_wait_for_the_server_to_close_when_they_stay() -> None:
    assert any(isinstance(step, Drain) for step in steps(HOSTILE["smuggle"]))
