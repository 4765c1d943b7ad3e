"""Applications that fail: what their client gets, what the log says, and that nobody else notices.

Every fault is tried with requests that the loop's own thread runs and with requests that run on
threads of the pool.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.conftest import Serve
from tests.integration.server_process import APPS, ServerProcess, eventually
from tests.unit.httpcore_srv.worker_in_thread import Client, Response, get, post

KINDS = {
    "error": "ValueError: asked for",
    "exit": "SystemExit: 3",
    "interrupt": "KeyboardInterrupt",
    "generator": "GeneratorExit",
    "memory": "MemoryError",
    "recursion": "RecursionError",
    "unusual": "Unusual",
    "unspeakable": "Unspeakable",
}
LANES = ["loop", "pool"]

serials = itertools.count(1)


class Site:
    """A server with one worker, and a client that keeps its connection all the while."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.neighbour = self.connect()
        (self.pid,) = server.workers()

    def connect(self) -> Client:
        """Return a new client; the caller closes it."""
        return Client(self.server.address)

    def lane(self, milliseconds: int = 0) -> dict[str, Any]:
        """Ask on the neighbour's connection who runs it, and more."""
        return said(self.neighbour, milliseconds)

    def enter(self, lane: str) -> None:
        """Bring the worker to run requests as `lane` says."""
        switch(self.neighbour, lane)

    def fault(self, path: str, *, version: bytes = b"1.1") -> tuple[bytes, str]:
        """Ask for a fault; return all that comes until the end, and the target."""
        target = f"{path}{'&' if '?' in path else '?'}n={next(serials)}"
        with self.connect() as client:
            client.send(get(target).replace(b"HTTP/1.1", b"HTTP/" + version))
            return client.until_end(), target

    def assert_unharmed(self) -> None:
        """The worker is the same one and answers on the connection that was kept."""
        assert self.lane()["pid"] == self.pid
        assert self.server.workers() == [self.pid]

    def record(self, target: str, method: str = "GET") -> str:
        """Return the one record of the log that is about this request."""
        line = f"{method} {target}: the application failed"
        records = re.split(r"^(?=\d{4}-\d\d-\d\dT)", self.server.wait_for_log(line), flags=re.M)
        (record,) = [record for record in records if f"{method} {target}" in record]
        return record

    def assert_logged_once(self, target: str, words: str) -> None:
        """One record is about this request, and there is a traceback in it."""
        record = self.record(target)
        assert "\nTraceback (most recent call last):\n" in record
        assert words in record


def said(client: Client, milliseconds: int = 0) -> dict[str, Any]:
    """Return what the worker behind a connection says of itself."""
    answer = client.ask(get(f"/lane?ms={milliseconds}"))
    assert answer.status == 200
    found = json.loads(answer.content)
    assert isinstance(found, dict)
    return found


def switch(client: Client, lane: str) -> None:
    """Bring the worker behind a connection to run requests as `lane` says.

    On a crowded machine no run of requests may be quick enough for the loop. What is tested holds
    on the pool as well, so that is no failure.
    """
    for _ in range(1000):
        if said(client)["lane"] == lane:
            return
        # A request that blocks sends those after it to the pool; many quick ones bring them back.
        if lane == "pool":
            said(client, 50)
    assert lane == "loop"


@pytest.fixture(scope="module", params=LANES)
def shared(serve_all: Serve, request: pytest.FixtureRequest) -> Iterator[tuple[Site, str]]:
    """A server for most tests of the module, and the lane in which it runs requests."""
    site = Site(serve_all("fault_points:app", "--max-workers", "1", chdir=APPS))
    yield site, request.param
    site.neighbour.close()


@pytest.fixture
def sited(shared: tuple[Site, str]) -> Site:
    site, lane = shared
    site.enter(lane)
    return site


@pytest.fixture(params=LANES)
def own(serve: Serve, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A server that nobody else asks, for faults that may take others with them."""
    site = Site(serve("fault_points:app", "--max-workers", "1", chdir=APPS))
    site.enter(request.param)
    yield site
    site.neighbour.close()


def parsed(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """Take apart the one response that there is."""
    assert raw.count(b"HTTP/1.1 ") == 1, raw
    head, _, content = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    return int(first[9:12]), {name.lower(): value for name, value in pairs}, content


def assert_500(raw: bytes) -> None:
    status, fields, content = parsed(raw)
    assert (status, content) == (500, b"500 Internal Server Error\n")
    assert fields["connection"] == "close"
    assert int(fields["content-length"]) == len(content)
    assert "date" in fields
    assert b"X-Injected" not in raw


def assert_cut(raw: bytes) -> None:
    """The client has a part, and the framing tells that it is one."""
    status, fields, content = parsed(raw)
    assert status == 200
    assert b"half" in content
    if "content-length" in fields:
        assert len(content) < int(fields["content-length"])
    else:
        assert fields["transfer-encoding"] == "chunked"
        assert content == b"4\r\nhalf\r\n"


# -- exceptions --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "stop"])
@pytest.mark.parametrize("point", ["called", "started", "first"])
def test_whatever_is_raised_before_the_head_is_a_500(sited: Site, point: str, kind: str) -> None:
    raw, target = sited.fault(f"/{point}?kind={kind}")
    assert_500(raw)
    sited.assert_logged_once(target, KINDS.get(kind, "StopIteration"))
    sited.assert_unharmed()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["/later?", "/later?length=9&", "/written?"])
def test_whatever_is_raised_after_the_head_cuts_the_response(
    sited: Site, path: str, kind: str
) -> None:
    raw, target = sited.fault(f"{path}kind={kind}")
    assert_cut(raw)
    sited.assert_logged_once(target, KINDS[kind])
    sited.assert_unharmed()


@pytest.mark.parametrize("kind", ["unformattable", "syntax"])
def test_an_exception_of_which_no_traceback_can_be_made_is_one_like_any_other(
    own: Site, kind: str
) -> None:
    raw, target = own.fault(f"/called?kind={kind}")
    assert_500(raw)
    assert own.record(target)
    own.assert_unharmed()
    raw, target = own.fault(f"/later?kind={kind}")
    assert_cut(raw)
    assert own.record(target)
    own.assert_unharmed()


@pytest.mark.parametrize("kind", ["error", "exit"])
def test_a_stream_to_an_old_client_that_fails_ends_with_a_reset(sited: Site, kind: str) -> None:
    # RFC 9112 section 8: without a length the content is complete when the connection ends,
    # unless the connection itself tells of an error. A reset is the only one there is.
    target = f"/later?kind={kind}&n={next(serials)}"
    with sited.connect() as client:
        client.send(get(target).replace(b"HTTP/1.1", b"HTTP/1.0"))
        with pytest.raises(ConnectionResetError):
            client.until_end()
    sited.assert_logged_once(target, KINDS[kind])
    sited.assert_unharmed()


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_close_raises_leaves_the_client_answer_and_connection(
    sited: Site, kind: str
) -> None:
    target = f"/at_end?kind={kind}&n={next(serials)}"
    with sited.connect() as client:
        for _ in range(2):
            answer = client.ask(get(target))
            assert (answer.status, answer.content) == (200, b"whole")
            assert "connection" not in answer.fields
            target = f"{target}1"
    sited.assert_logged_once(target[:-1], KINDS[kind])
    sited.assert_unharmed()


# -- what PEP 3333 does not allow --------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        *(f"/status?kind={kind}" for kind in ("number", "split", "no-code", "interim")),
        *(f"/headers?kind={kind}" for kind in ("none", "dict", "number", "three", "length")),
        *(f"/headers?kind={kind}" for kind in ("split-value", "split-name", "nul", "not-latin-1")),
        *(f"/content?kind={kind}" for kind in ("text", "bytes", "none", "number")),
        *(f"/content?kind={kind}" for kind in ("str", "bytearray")),
        "/twice?kind=unsent",
    ],
)
def test_what_an_application_may_not_do_is_a_500(sited: Site, path: str) -> None:
    raw, target = sited.fault(path)
    assert_500(raw)
    sited.assert_logged_once(target, "Error")
    sited.assert_unharmed()


@pytest.mark.parametrize("kind", ["none", "number"])
def test_headers_that_are_none_may_be_looked_at_before_they_are_checked(
    own: Site, kind: str
) -> None:
    # Requests that take long are looked at while they run, to tell streams from the others.
    raw, target = own.fault(f"/headers?kind={kind}&ms=300")
    assert_500(raw)
    own.assert_logged_once(target, "Error")
    own.assert_unharmed()


@pytest.mark.parametrize("kind", ["sent", "sent-info"])
def test_a_second_start_response_after_the_head_cuts_the_response(sited: Site, kind: str) -> None:
    raw, target = sited.fault(f"/twice?kind={kind}")
    assert_cut(raw)
    sited.assert_logged_once(target, "Error")
    sited.assert_unharmed()


def test_a_second_start_response_with_exc_info_before_the_head_counts(sited: Site) -> None:
    with sited.connect() as client:
        answer = client.ask(get(f"/twice?kind=info&n={next(serials)}"))
        assert (answer.status, answer.content) == (503, b"sorry")
        assert said(client)["pid"] == sited.pid


# -- what goes on after its time ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["willing", "unwilling"])
@pytest.mark.parametrize("manner", ["close", "reset"])
def test_an_endless_response_ends_with_its_client(sited: Site, kind: str, manner: str) -> None:
    closed = sited.lane()["closed"]
    target = f"/endless?kind={kind}&n={next(serials)}"
    with sited.connect() as client:
        client.send(get(target))
        assert client.head().status == 200
        assert client.chunk() == b"x" * 1000
        if manner == "reset":
            client.reset()
    eventually(lambda: sited.lane()["closed"] == closed + 1, hint=sited.server.report)
    sited.server.eventually(lambda s: s["busy_threads"] == 0)
    sited.assert_unharmed()
    if kind == "unwilling":
        sited.assert_logged_once(target, "RuntimeError: generator ignored GeneratorExit")


def test_write_after_the_end_gets_into_no_later_response(sited: Site) -> None:
    with sited.connect() as client:
        assert client.ask(get("/keep_write")).content == b"kept"
        for _ in range(3):
            answer = client.ask(get("/late_write"))
            assert (answer.status, answer.chunks) == (200, [b"one ", b"two"])
        sited.assert_unharmed()


def test_write_after_the_client_has_gone_reaches_no_other_client(sited: Site) -> None:
    closed = sited.lane()["closed"]
    with sited.connect() as client:
        client.send(get("/endless"))
        client.head()
    eventually(lambda: sited.lane()["closed"] == closed + 1, hint=sited.server.report)
    clients = [sited.connect() for _ in range(4)]  # one of them has the descriptor's number now
    try:
        for client in clients:
            answer = client.ask(get("/late_write"))
            assert (answer.status, answer.chunks) == (200, [b"one ", b"two"])
    finally:
        for client in clients:
            client.close()
    sited.assert_unharmed()


@pytest.mark.parametrize("size", [10, 600_000], ids=["memory", "live"])
def test_a_request_body_that_the_application_keeps_to_itself_harms_nobody(
    own: Site, size: int
) -> None:
    for _ in range(2):
        with own.connect() as client:
            answer: Response = client.ask(post("/keep_buffer", b"x" * size))
            assert (answer.status, answer.content) == (200, b"kept")
    own.assert_unharmed()


def test_no_fault_has_cost_a_thread_or_a_request(sited: Site) -> None:
    # The last of the module's tests with this server: the loop, the sentinel and the pool.
    status = sited.server.eventually(lambda s: s["busy_threads"] == 0 and s["connections"] == 1)
    assert (status["restarts"], status["lost"]) == (0, 0)
    assert sited.lane()["threads"] <= 2 + 16


# -- crashes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("lane", LANES)
def test_a_crash_costs_that_worker_alone_and_it_is_replaced(serve: Serve, lane: str) -> None:
    server = serve("fault_points:app", "--min-workers", "2", "--max-workers", "2", chdir=APPS)
    crashes = [("exit", ""), ("segfault", "&after=1"), ("abort", "")]
    for number, (kind, after) in enumerate(crashes, 1):
        clients = [Client(server.address) for _ in range(6)]
        try:
            homes = {id(client): said(client)["pid"] for client in clients}
            victim = clients[0]
            lost = homes[id(victim)]
            switch(victim, lane)
            victim.send(get(f"/crash?kind={kind}{after}"))
            assert_gone(victim, b"4\r\nhalf\r\n" if after else b"")
            for client in clients[1:]:
                if homes[id(client)] == lost:
                    assert_gone(client, b"")
                else:
                    assert said(client)["pid"] == homes[id(client)]
        finally:
            for client in clients:
                client.close()
        server.eventually(functools.partial(recovered, number))
        assert lost not in server.workers()
    log = server.log()
    for words in ("exit status 3", "SIGSEGV", "SIGABRT"):
        assert len(re.findall(rf"died: .*{words}", log)) == 1
    assert server.status()["lost"] == len(crashes)


@pytest.mark.parametrize("lanes", [["loop"], ["pool"], ["pool", "loop"]], ids="-".join)
def test_an_application_that_closes_every_descriptor_ends_its_worker(
    serve: Serve, lanes: list[str]
) -> None:
    # As libraries do that turn processes into daemons. After the pool, the loop runs on another
    # thread than the main one: where it fails, nobody is left to serve, so the process must end.
    server = serve("fault_points:app", "--max-workers", "1", chdir=APPS)
    with Client(server.address) as client:
        for lane in lanes:
            switch(client, lane)
        client.send(get("/crash?kind=descriptors"))
        assert_gone(client, b"")
    server.eventually(functools.partial(recovered, 1))
    assert server.get("/lane").status == 200


def recovered(deaths: int, status: dict[str, Any]) -> bool:
    """Whether so many workers have been replaced."""
    return bool(status["restarts"] == deaths and status["idle"] == status["wanted"])


def assert_gone(client: Client, content: bytes) -> None:
    """The connection ends, by a reset or not, without an end of the response."""
    try:
        raw = client.until_end()
    except ConnectionResetError:
        return
    assert raw.endswith(content)
    assert not raw.endswith(b"0\r\n\r\n")
