"""HTTPServer against clients that send too much, too slowly, nothing, or do not read."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterable, Iterator

import pytest

from httpcore_srv import HTTPLimits, HTTPSettings, HTTPTimeouts
from httpcore_srv.connection import State
from httpcore_srv.farewell import PATIENCE
from httpcore_srv.wsgi import Environ, StartResponse
from tests.fakes.worker import BOUND_S, FakeClock
from tests.unit.httpcore_srv.worker_in_thread import (
    GET,
    Echo,
    Gate,
    WorkerInThread,
    WrappedListener,
    get,
    post,
    running,
    worker,
)

MEGABYTE = 1 << 20
TIGHT = HTTPSettings(
    limits=HTTPLimits(
        max_request_line_bytes=200,
        max_header_bytes=1000,
        max_headers=10,
        max_body_bytes=5000,
    )
)
# The clock stands still unless a test moves it, so these are exact however slow the machine.
TIMEOUTS = HTTPTimeouts(header_s=10, body_s=20, write_s=30, keep_alive_s=40, linger_s=5)
TIMED = HTTPSettings(timeouts=TIMEOUTS)
CHUNKED_HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def flood(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answers large things: at once, or piece by piece."""
    start_response("200 OK", [])
    path = environ["PATH_INFO"]
    if path == "/large":
        return [b"x" * (10 * MEGABYTE)]
    if path == "/stream":
        return (b"y" * MEGABYTE for _ in range(10))
    return [b"hello"]


# -- what is no request -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "status", "incident"),
    [
        (b"nonsense\r\n\r\n", 400, "BAD_REQUEST"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "BAD_REQUEST"),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400, "BAD_REQUEST"),
        (post("/", b"x" * 5001), 413, "BODY_TOO_LARGE"),
        (CHUNKED_HEAD + b"1389\r\n" + b"x" * 5001, 413, "BODY_TOO_LARGE"),
        (get("/" + "x" * 300), 414, "HEAD_TOO_LARGE"),
        (get("/", "Expect: miracles"), 417, "BAD_REQUEST"),
        (get("/", *(f"X-{n}: y" for n in range(11))), 431, "HEAD_TOO_LARGE"),
        (get("/", "X: " + "y" * 1200), 431, "HEAD_TOO_LARGE"),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501, "BAD_REQUEST"),
        (get("/").replace(b"1.1", b"2.0"), 505, "BAD_REQUEST"),
    ],
)
def test_what_is_refused_is_answered_counted_and_the_connection_closed(
    request_bytes: bytes, status: int, incident: str
) -> None:
    with worker(settings=TIGHT) as server, server.connect() as client:
        client.send(get("/before") + request_bytes)
        assert client.response().text == "app /before "
        response = client.response()
        assert (response.status, response.fields["connection"]) == (status, "close")
        client.assert_closed()
        client.close()
        server.until_connections(0)
        assert server.slot.begun_count == 1
        assert server.slot.incidents == {incident: 1}


def test_a_client_that_goes_on_sending_can_read_why_it_was_refused() -> None:
    with worker(settings=TIGHT) as server, server.connect() as client:
        client.send(post("/", b"x" * 600_000))
        assert client.response().status == 413
        client.assert_closed()


def test_a_client_that_sends_for_ever_after_a_refusal_is_cut() -> None:
    clock = FakeClock()
    with worker(settings=TIMED, clock_ns=clock) as server, server.connect() as client:
        assert client.ask(b"nonsense\r\n\r\n").status == 400
        for _ in range(PATIENCE):
            # Each time it has sent something within the linger timeout.
            server.until_connections(1)
            client.send(b"x" * MEGABYTE)
            server.until_next_round()
            server.pass_time(clock, TIMEOUTS.linger_s - 0.3)
            server.until_next_round()
        for _ in range(2):
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                client.send(b"x")
            server.pass_time(clock, TIMEOUTS.linger_s - 0.3)
        server.until_connections(0)


def test_a_client_that_sends_an_upload_after_a_refusal_gets_the_refusal() -> None:
    with worker(settings=TIGHT) as server, server.connect() as client:
        client.send(post("/", b"x" * (8 * MEGABYTE)))
        assert client.response().status == 413
        client.assert_closed()


def test_a_refused_client_that_does_not_close_is_closed_after_the_linger() -> None:
    clock = FakeClock()
    with worker(settings=TIMED, clock_ns=clock) as server, server.connect() as client:
        assert client.ask(b"nonsense\r\n\r\n").status == 400
        client.assert_closed()  # one way; the other one is still open
        server.until_connections(1)
        server.pass_time(clock, 4.5)
        server.pass_time(clock, 1)
        server.until_connections(0)


def test_no_100_is_sent_before_a_refusal() -> None:
    with worker(settings=TIGHT) as server, server.connect() as client:
        request = post("/", b"", "Expect: 100-continue")
        client.send(request.replace(b"Length: 0", b"Length: 9999"))
        assert client.response().status == 413
        client.assert_closed()


# -- time -------------------------------------------------------------------------------------


def received(server: WorkerInThread, state: State) -> bool:
    """Whether the only connection has come to this state."""
    return [stream.connection.state for stream in server.server.streams.values()] == [state]


@pytest.mark.parametrize(
    ("begun", "state", "timeout_s"),
    [
        (b"GET / HTTP/1.1\r\nHo", State.RECEIVING_HEAD, TIMEOUTS.header_s),
        (post("/", b"content")[:-1], State.RECEIVING_BODY, TIMEOUTS.body_s),
        (CHUNKED_HEAD + b"5\r\nhel", State.RECEIVING_BODY, TIMEOUTS.body_s),
    ],
)
@pytest.mark.parametrize("before", [0, 1])
def test_a_request_that_does_not_come_to_its_end_is_a_408(
    begun: bytes, state: State, timeout_s: float, before: int
) -> None:
    clock = FakeClock()
    with worker(settings=TIMED, clock_ns=clock) as server, server.connect() as client:
        for _ in range(before):
            client.ask()
            server.until_at_rest()
        client.send(begun)
        server.slot.until(lambda: received(server, state))
        server.pass_time(clock, timeout_s - 0.3)
        client.assert_silent()
        server.pass_time(clock, 0.6)
        assert client.response().status == 408
        client.assert_closed()


def test_more_bytes_of_a_head_buy_no_more_time() -> None:
    clock = FakeClock()
    with worker(settings=TIMED, clock_ns=clock) as server, server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\n")
        server.slot.until(lambda: received(server, State.RECEIVING_HEAD))
        for _ in range(3):
            rounds = server.slot.rounds
            client.send(b"X: y\r\n")
            server.slot.until(lambda rounds=rounds: server.slot.rounds > rounds)
            clock.advance(3.5)
            server.until_next_round()
        assert client.response().status == 408


def test_a_client_that_never_says_anything_is_closed_without_an_answer() -> None:
    clock = FakeClock()
    with worker(settings=TIMED, clock_ns=clock) as server, server.connect() as client:
        server.until_connections(1)
        server.pass_time(clock, TIMEOUTS.header_s + 0.3)
        client.assert_closed()


@pytest.mark.parametrize("pool", [False, True])
def test_an_idle_connection_is_closed_after_the_keep_alive_timeout(pool: bool) -> None:
    clock = FakeClock()
    with worker(settings=TIMED, clock_ns=clock) as server, server.connect() as client:
        server.server.dispatcher.inline = not pool
        server.until_connections(1)
        for _ in range(3):
            client.ask()
            server.until_at_rest()
            server.pass_time(clock, TIMEOUTS.keep_alive_s - 0.3)
            client.assert_silent(0.05)
        client.ask()
        server.until_at_rest()
        server.pass_time(clock, TIMEOUTS.keep_alive_s + 0.3)
        client.assert_closed()


def test_without_keep_alive_every_response_is_the_last() -> None:
    settings = HTTPSettings(timeouts=HTTPTimeouts(keep_alive_s=0))
    with worker(settings=settings) as server, server.connect() as client:
        assert client.ask().fields["connection"] == "close"
        client.assert_closed()


def test_the_time_of_the_application_is_not_the_clients() -> None:
    clock = FakeClock()
    app = Echo()
    with worker(app, TIMED, clock_ns=clock) as server, server.connect() as client:
        server.use_pool()  # the loop goes on while the request runs
        client.send(get("/wait"))
        app.gate.entered()
        for _ in range(5):
            server.pass_time(clock, 100)
        app.gate.open()
        assert client.response().text == "app /wait "
        assert client.ask().status == 200


# -- clients that do not read -----------------------------------------------------------------


@pytest.mark.parametrize("path", ["/large", "/stream"])
def test_a_slow_reader_gets_everything(path: str) -> None:
    with worker(flood) as server, server.connect(receive_buffer_bytes=4096) as slow:
        slow.send(get(path) + GET)
        assert len(slow.response().content) == 10 * MEGABYTE
        assert slow.response().text == "hello"


def test_a_slow_reader_of_a_large_response_holds_no_thread() -> None:
    with worker(flood, HTTPSettings(max_threads=1)) as server:
        slow = [server.connect(receive_buffer_bytes=4096) for _ in range(5)]
        for client in slow:
            client.send(get("/large"))
            client.head()
        with server.connect() as quick:
            assert quick.ask().text == "hello"
        server.slot.until(lambda: server.slot.busy_count == 0)
        for client in slow:
            assert len(client.read(10 * MEGABYTE)) == 10 * MEGABYTE


def test_a_slow_reader_of_large_responses_in_a_row_holds_no_thread_either() -> None:
    with worker(flood, HTTPSettings(max_threads=1)) as server:
        slow = server.connect(receive_buffer_bytes=4096)
        slow.send(get("/large") * 2)
        slow.head()
        left = 10 * MEGABYTE
        while server.slot.begun_count < 2:  # the first is in the socket now, and fills it
            left -= len(slow.read(min(left, 10_000)))
        with server.connect() as quick:
            assert quick.ask().text == "hello"
        server.slot.until(lambda: server.slot.busy_count == 0)
        assert server.slot.streams == 0
        slow.read(left)
        assert slow.response().content == b"x" * (10 * MEGABYTE)


def test_a_slow_reader_of_a_stream_waits_in_its_own_thread() -> None:
    with worker(flood, HTTPSettings(max_threads=2)) as server:
        slow = server.connect(receive_buffer_bytes=4096)
        slow.send(get("/stream"))
        slow.head()
        server.slot.until(lambda: (server.slot.streams, server.slot.busy_count) == (1, 0))
        with server.connect() as quick:
            assert quick.ask().text == "hello"
        assert sum(map(len, slow.chunks())) == 10 * MEGABYTE
        server.slot.until(lambda: server.slot.streams == 0)


def test_a_stream_is_flushed_piece_by_piece() -> None:
    gate = Gate()

    def pieces(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        for number in range(3):
            gate.pass_through(environ["PATH_INFO"])
            yield b"%d" % number

    with worker(pieces) as server, server.connect() as client:
        client.send(get("/"))
        for number in range(3):
            gate.open()
            if number == 0:
                client.head()
            assert client.chunk() == b"%d" % number
        assert client.chunk() == b""


def test_what_write_is_given_goes_out_at_once() -> None:
    gate = Gate()

    def writing(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [("Content-Length", "8")])
        write(b"half")
        gate.pass_through("")
        return [b"half"]

    with worker(writing) as server, server.connect() as client:
        client.send(get("/"))
        client.head()
        assert client.read(4) == b"half"
        gate.open()
        assert client.read(4) == b"half"
        gate.open()
        assert client.ask().text == "halfhalf"


def test_a_client_that_reads_nothing_of_a_large_response_is_cut() -> None:
    clock = FakeClock()
    with worker(flood, TIMED, clock_ns=clock) as server:
        client = server.connect(receive_buffer_bytes=4096)
        client.send(get("/large"))
        client.head()
        for _ in range(20):
            # More than once: the kernel may still be taking some of it into its buffers.
            clock.advance(TIMEOUTS.write_s + 0.3)
            server.until_next_round()
        server.until_connections(0)


def test_a_client_that_reads_nothing_of_a_stream_is_cut() -> None:
    settings = HTTPSettings(timeouts=HTTPTimeouts(write_s=0.2))
    with worker(flood, settings) as server:
        client = server.connect(receive_buffer_bytes=4096)
        client.send(get("/stream"))
        client.head()
        server.slot.until(lambda: server.slot.streams == 1)
        server.until_connections(0)
        server.slot.until(lambda: server.slot.streams == 0)
        assert server.slot.pooled_count == 1
        assert server.slot.incidents == {"STALLED": 1}


def test_the_iterable_of_a_client_that_has_gone_is_closed() -> None:
    closed = threading.Event()

    class Endless:
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield b"z" * 10_000

        def close(self) -> None:
            closed.set()

    def endless(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Endless()

    with worker(endless) as server:
        client = server.connect()
        client.send(get("/"))
        client.head()
        client.close()
        assert closed.wait(BOUND_S)
        server.until_connections(0)


# -- what once went wrong ---------------------------------------------------------------------


def test_a_network_error_that_accept_reports_does_not_end_the_worker() -> None:
    listener = WrappedListener()
    listener.failures.append(OSError(errno.EPROTO, "Protocol error"))
    try:
        with worker(listener=listener) as server, server.connect() as client:
            assert client.ask().status == 200
    finally:
        listener.close()


def test_a_client_that_sends_only_an_empty_line_is_closed() -> None:
    clock = FakeClock()
    server = WorkerInThread(Echo(), TIMED, clock_ns=clock)
    client = server.connect()  # before the worker: it will find the bytes when it accepts
    client.send(b"\r\n")
    with running(server):
        server.until_connections(1)
        server.pass_time(clock, 1000)
        client.assert_closed()


@pytest.mark.parametrize("pool", [False, True])
def test_a_keep_alive_timeout_may_be_the_shortest(pool: bool) -> None:
    clock = FakeClock()
    settings = HTTPSettings(timeouts=HTTPTimeouts(header_s=100, keep_alive_s=5))
    with worker(settings=settings, clock_ns=clock) as server, server.connect() as client:
        server.server.dispatcher.inline = not pool
        server.until_connections(1)  # its deadline is that of a head now
        client.ask()
        server.until_at_rest()
        server.pass_time(clock, 6)
        client.assert_closed()


def test_a_client_that_leaves_while_all_threads_are_busy_costs_nothing() -> None:
    app = Echo()
    with worker(app, HTTPSettings(max_threads=1)) as server:
        idle, busy = server.connect(), server.connect()
        idle.ask()
        server.until_connections(2)
        busy.send(get("/wait"))
        app.gate.entered()
        server.slot.until(lambda: server.slot.busy_count == 1)
        idle.close()
        try:
            server.slot.until(lambda: server.slot.connections == 1)
        finally:
            app.gate.open()
        assert busy.response().status == 200
