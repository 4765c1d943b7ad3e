"""`wsgi.early_hints`: 103 before the response, for those who know what that is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.conftest import Serve
from tests.integration.raw_client import RawClient, request
from tests.integration.server_process import APPS, ServerProcess

HINTED = "hinted\n"


@pytest.fixture(scope="module", params=["inline", "pool", "request timeout"])
def server(serve_all: Serve, request: pytest.FixtureRequest) -> ServerProcess:
    """A server in which requests run inline, in the pool, or may be written off."""
    more = ["--request-timeout", "20"] if request.param == "request timeout" else []
    server = serve_all("slow_answers:app", "--max-workers", "1", *more, chdir=APPS)
    if request.param == "pool":
        assert server.get("/late?ms=50").status == 200
    return server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[RawClient]:
    """A connection."""
    with RawClient(server) as client:
        yield client


def link(number: int) -> str:
    """Return the value of the hint with this number."""
    return f"</style{number}.css>; rel=preload"


def test_a_hint_comes_before_the_response_and_has_nothing_but_its_headers(
    client: RawClient,
) -> None:
    client.ask("/hints")
    expected = f"HTTP/1.1 103 Early Hints\r\nLink: {link(0)}\r\n\r\n".encode()
    assert client.read(len(expected)) == expected
    answer = client.response()
    assert (answer.status, answer.text) == (200, HINTED)
    assert "link" not in answer.headers
    assert client.get("/ready").text == "ready\n"


def test_a_hint_is_sent_while_the_application_still_computes(client: RawClient) -> None:
    client.ask("/hints?ms=200")
    assert client.response().status == 103
    assert client.is_open()  # and nothing more yet
    assert client.response().text == HINTED


def test_there_may_be_several(client: RawClient) -> None:
    client.ask("/hints?count=3")
    hints = [client.response() for _ in range(3)]
    assert [(hint.status, hint.headers) for hint in hints] == [
        (103, {"link": link(number)}) for number in range(3)
    ]
    assert client.response().text == HINTED


def test_pipelined_requests_get_each_its_own(client: RawClient) -> None:
    client.send(request("/hints?count=2") + request("/ready") + request("/hints"))
    statuses = [client.response().status for _ in range(6)]
    assert statuses == [103, 103, 200, 200, 103, 200]


def test_a_head_request_gets_them_too(client: RawClient) -> None:
    client.ask("/hints", "HEAD", {"Connection": "close"})
    assert client.response().status == 103
    answer = client.head()
    assert (answer.status, answer.headers["content-length"]) == (200, str(len(HINTED)))
    assert client.rest() == b""


def test_an_http_1_0_client_gets_none(client: RawClient) -> None:
    client.ask("/hints?count=2", version="1.0")
    answer = client.response()
    assert (answer.status, answer.text) == (200, HINTED)
    assert client.rest() == b""


def test_hints_within_the_response_are_dropped(client: RawClient) -> None:
    assert client.get("/hints_too_late").text == "one two\n"
    assert client.get("/ready").text == "ready\n"


def test_a_hint_that_cannot_be_a_header_is_an_error_of_the_application(
    server: ServerProcess, client: RawClient
) -> None:
    client.ask("/hints?bad=1")
    assert client.response().status == 103  # the good one before it
    assert client.response().status == 500
    assert client.rest() == b""
    assert "two\\r\\nlines" in server.log()
    assert "\r" not in server.log()
