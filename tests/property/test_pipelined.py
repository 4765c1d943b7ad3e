"""Pipelined requests of any kinds, of several clients, cut anywhere: each gets its answers whole.

The model is one line: the answers of a connection are those to its requests, in their order, up
to the first that ends the connection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.httpcore_srv.pipelined_rig import (
    GOOD,
    LAST,
    Mixture,
    bytes_of,
    make_calm,
    mixed_worker,
    read_answers,
    some_requests,
)
from tests.unit.httpcore_srv.worker_in_thread import WorkerInThread, running

Served = tuple[Mixture, WorkerInThread]

kinds = st.builds(
    lambda good, last: good + last,
    st.lists(st.sampled_from(GOOD), max_size=10),
    st.lists(st.sampled_from(LAST), max_size=1),
).filter(bool)
places = st.lists(st.floats(0, 1), max_size=4)  # where a client's bytes are cut
talks = st.lists(st.tuples(kinds, places), min_size=1, max_size=3)


@pytest.fixture(
    scope="module",
    params=[(False, 1), (False, 4), (True, 1), (True, 4)],
    ids=["one thread", "threads", "revocable, one thread", "revocable, threads"],
)
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    revocable, threads = request.param
    app, worker = mixed_worker(revocable=revocable, max_threads=threads)
    with running(worker):
        yield app, worker


def pieces_of(data: bytes, places: list[float]) -> list[bytes]:
    """Cut some bytes at these places, given as shares."""
    ends = [*sorted(int(place * len(data)) for place in places), len(data)]
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(talks=talks, calm=st.booleans())
def test_every_client_gets_all_its_answers_in_order(
    served: Served, talks: list[tuple[list[str], list[float]]], calm: bool
) -> None:
    app, worker = served
    if calm:
        make_calm(worker, app.clock)
    clients = [worker.connect() for _ in talks]
    asked = [some_requests(*kinds) for kinds, _ in talks]
    unsent = [
        pieces_of(b"".join(map(bytes_of, requests)), places)
        for requests, (_, places) in zip(asked, talks, strict=True)
    ]
    while any(unsent):
        with worker.paused():  # what is sent here is one batch of events
            for client, pieces in zip(clients, unsent, strict=True):
                if pieces:
                    with contextlib.suppress(ConnectionError):  # its last answer was sent before
                        client.send(pieces.pop(0))
    for client, requests in zip(clients, asked, strict=True):
        read_answers(client, requests)
        client.close()
    worker.until_connections(0)
    slot = worker.slot
    assert slot.begun_count == slot.inline_count + slot.pooled_count
