"""ThreadPool: threads that stream, and threads that are stuck, take no place from the others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from httpcore_srv.thread_pool import ThreadPool
from tests.unit.httpcore_srv.pool_rig import BOUND_S, LONG_S, SHORT_S, Request, Rig

MAX_STREAMS = 2  # of the rig's pool


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig(1, LONG_S)
    yield rig
    rig.close()


def counts(pool: ThreadPool) -> dict[str, int]:
    """Return what is not zero."""
    names = ("busy", "streams", "written_off", "idle", "alive")
    return {name: getattr(pool, name) for name in names if getattr(pool, name)}


def stream(rig: Rig) -> Request:
    """Begin a request whose thread steps aside."""
    request = rig.submit(rig.pool.stream_ended)
    request.wait_until_begun()
    with rig.pool.lock:
        assert rig.pool.step_aside()
    return request


def stuck(rig: Rig) -> Request:
    """Begin a request whose thread is written off."""
    request = rig.submit(rig.pool.came_back)
    request.wait_until_begun()
    with rig.pool.lock:
        rig.pool.write_off()
    return request


# -- streams -------------------------------------------------------------------------------


def test_a_thread_aside_is_not_busy(rig: Rig) -> None:
    stream(rig)
    assert counts(rig.pool) == {"streams": 1, "alive": 2}


def test_streams_leave_all_places_to_the_others(rig: Rig) -> None:
    for _ in range(MAX_STREAMS):
        stream(rig)
    working = {rig.submit().wait_until_begun() for _ in range(rig.pool.max_threads)}
    assert len(working) == rig.pool.max_threads
    alive = 1 + MAX_STREAMS + rig.pool.max_threads
    assert counts(rig.pool) == {
        "busy": rig.pool.max_threads,
        "streams": MAX_STREAMS,
        "alive": alive,
    }


def test_one_stream_too_many_counts_as_busy(rig: Rig) -> None:
    for _ in range(MAX_STREAMS):
        stream(rig)
    rig.submit().wait_until_begun()
    with rig.pool.lock:
        assert not rig.pool.step_aside()
    assert counts(rig.pool) == {"busy": 1, "streams": MAX_STREAMS, "alive": MAX_STREAMS + 2}


def test_a_pool_may_have_no_place_for_streams_at_all() -> None:
    pool = ThreadPool(1, 4, LONG_S, 0)
    with pool.lock:
        pool.busy += 1
        assert not pool.step_aside()
    assert (pool.busy, pool.streams) == (1, 0)


def test_a_stream_that_ends_leaves_its_thread_to_the_next_request(rig: Rig) -> None:
    first = stream(rig)
    first.end()
    rig.wait_for_idle(1)
    assert counts(rig.pool) == {"idle": 1, "alive": 2}
    rig.submit().wait_until_begun()
    assert len(rig.threads.started) == 1


def test_a_place_aside_is_free_again_when_a_stream_has_ended(rig: Rig) -> None:
    streams = [stream(rig) for _ in range(MAX_STREAMS)]
    streams[0].end()
    rig.wait_for_idle(1)
    stream(rig)
    assert counts(rig.pool) == {"streams": MAX_STREAMS, "alive": MAX_STREAMS + 1}


def test_threads_that_had_streams_leave_when_idle() -> None:
    rig = Rig(0, SHORT_S)
    for request in [stream(rig) for _ in range(MAX_STREAMS)]:
        request.end()
    rig.lock.wait_for(lambda: rig.pool.alive == 1)
    rig.threads.join()
    assert counts(rig.pool) == {"alive": 1}


# -- stuck threads ---------------------------------------------------------------------------


def test_a_thread_that_was_written_off_is_nobodys(rig: Rig) -> None:
    stuck(rig)
    assert counts(rig.pool) == {"written_off": 1, "alive": 1}


def test_another_takes_the_place_of_a_stuck_thread(rig: Rig) -> None:
    lost = [stuck(rig) for _ in range(3)]
    working = {rig.submit().wait_until_begun() for _ in range(rig.pool.max_threads)}
    assert len(working) == rig.pool.max_threads
    assert len(rig.threads.started) == rig.pool.max_threads + len(lost)


def test_a_thread_that_comes_back_serves_again(rig: Rig) -> None:
    request = stuck(rig)
    thread = rig.threads.started[0]
    request.end()
    rig.wait_for_idle(1)
    assert counts(rig.pool) == {"idle": 1, "alive": 2}
    assert rig.submit().wait_until_begun() is thread
    assert len(rig.threads.started) == 1


def test_a_thread_that_comes_back_to_many_idle_ones_leaves() -> None:
    rig = Rig(1, SHORT_S)
    request = stuck(rig)
    rig.run_together(1)
    rig.lock.wait_for(lambda: counts(rig.pool) == {"written_off": 1, "idle": 1, "alive": 2})
    request.end()
    rig.lock.wait_for(lambda: counts(rig.pool) == {"idle": 1, "alive": 2})
    rig.close()


def test_the_minimum_is_of_threads_that_can_serve() -> None:
    # A stuck one among them would leave the pool without a spare thread.
    rig = Rig(1, SHORT_S)
    stuck_one = stuck(rig)
    spare = rig.submit()
    thread = spare.wait_until_begun()
    spare.end()
    rig.wait_for_idle(1)
    for _ in range(3):
        rig.lock.entered_by.clear()
        rig.lock.wait_for(lambda: thread in rig.lock.entered_by)  # it asks whether to leave
    assert counts(rig.pool) == {"written_off": 1, "idle": 1, "alive": 2}
    stuck_one.end()
    rig.close()


# -- the end ---------------------------------------------------------------------------------


def test_a_pool_may_close_while_threads_stream(rig: Rig) -> None:
    requests = [stream(rig) for _ in range(MAX_STREAMS)]
    rig.pool.close()
    assert all(thread.is_alive() for thread in rig.threads.started)
    for request in requests:
        request.end()
    rig.threads.join()
    assert rig.pool.streams == 0


def test_a_pool_may_close_while_threads_are_stuck(rig: Rig) -> None:
    requests = [stuck(rig) for _ in range(2)]
    busy = rig.submit()
    busy.wait_until_begun()
    rig.pool.close()
    busy.end()
    rig.threads.started[2].join(BOUND_S)
    assert not rig.threads.started[2].is_alive()
    assert all(thread.is_alive() for thread in rig.threads.started[:2])
    for request in requests:  # each finds a word of its own to leave by
        request.end()
    rig.threads.join()
    assert rig.pool.written_off == 0


def test_a_lack_of_threads_is_logged_once_and_not_with_every_request(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    blocking = rig.submit()
    blocking.wait_until_begun()
    rig.threads.exhausted = True
    for _ in range(3):
        assert not rig.pool.submit(lambda: None)
    rig.run_aside()
    (record,) = caplog.records
    assert record.getMessage().startswith("cannot start another thread")
    assert rig.pool.stranded == 1


def test_a_new_leader_without_a_thread_gets_one_when_threads_can_be_had_again(rig: Rig) -> None:
    blocking = rig.submit()
    blocking.wait_until_begun()
    rig.threads.exhausted = True
    stranded = rig.run_aside()
    for _ in range(2):  # still none to be had
        rig.pool.rescue()
        assert (rig.pool.stranded, rig.pool.alive, rig.pool.idle) == (1, 2, -1)
    rig.threads.exhausted = False
    rig.pool.rescue()
    assert stranded.wait_until_begun() is rig.threads.started[1]
    rig.lock.wait_for(lambda: counts(rig.pool) == {"busy": 1, "alive": 3})
    assert rig.pool.stranded == 0


def test_a_rescuer_that_comes_too_late_is_an_idle_one_too_many(rig: Rig) -> None:
    blocking = rig.submit()
    thread = blocking.wait_until_begun()
    rig.threads.exhausted = True
    stranded = rig.run_aside()
    blocking.end()
    assert stranded.wait_until_begun() is thread
    rig.threads.exhausted = False
    rig.pool.rescue()
    stranded.end()
    rig.wait_for_idle(2)
    assert counts(rig.pool) == {"idle": 2, "alive": 3}
    together = {rig.submit().wait_until_begun() for _ in range(2)}
    assert together == set(rig.threads.started)
