"""Load generators against the live server: not a request fails, not a connection is lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.integration.apps.client_wire import pieces
from tests.integration.conftest import Serve
from tests.integration.programs import find_program, run
from tests.integration.server_process import APPS, ServerProcess

MIXED = """
local requests, number = {}, 0
init = function()
    requests = {
        wrk.format("GET", "/whole"),
        wrk.format("GET", "/stream?bytes=100000"),
        wrk.format("POST", "/upload", nil, string.rep("x", 5000)),
        wrk.format("GET", "/sized?bytes=100000"),
        wrk.format("GET", "/file?bytes=10000"),
        wrk.format("GET", "/tagged"),
    }
end
request = function()
    number = number % #requests + 1
    return requests[number]
end
"""


@pytest.fixture(scope="module")
def server(serve_all: Serve) -> ServerProcess:
    """A server for all of the module's tests."""
    limits = ("--min-workers", "2", "--max-workers", "2")
    return serve_all("client_wire:app", *limits, chdir=APPS)


def url(server: ServerProcess, target: str) -> str:
    """Return the address of a target."""
    return "http://{}:{}".format(*server.address) + target


def figure(report: str, name: str) -> int:
    """Return a number of ab's report."""
    found = re.search(rf"^{name}:\s+(\d+)", report, re.MULTILINE)
    assert found, report
    return int(found[1])


class Count:
    """What the server has counted since."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._before = server.status()

    def requests(self, at_least: int) -> int:
        """Return the number of requests when there are that many."""
        before: int = self._before["requests"]
        status = self._server.eventually(lambda s: s["requests"] - before >= at_least)
        assert status["errors"] == self._before["errors"] == 0
        assert (status["restarts"], status["lost"]) == (0, 0)
        return int(status["requests"]) - before


@pytest.mark.parametrize("target", ["/whole", "/sized?bytes=200000", "/file?bytes=50000"])
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "closed"])
def test_ab_counts_no_failed_request(server: ServerProcess, target: str, keep: bool) -> None:
    ab, count = find_program("ab"), Count(server)
    report = run(ab, "-q", "-n", "1000", "-c", "16", *(["-k"] * keep), url(server, target))
    assert figure(report, "Complete requests") == 1000
    assert figure(report, "Failed requests") == 0
    assert "Non-2xx" not in report
    if keep:
        assert figure(report, "Keep-Alive requests") == 1000
    # It may open connections that it does not use, but it sends no request twice.
    assert count.requests(1000) == 1000


def test_ab_sends_bodies(server: ServerProcess, tmp_path: Path) -> None:
    ab, count = find_program("ab"), Count(server)
    path = tmp_path / "body"
    path.write_bytes(b"".join(pieces(100_000)))
    sent = ("-p", str(path), "-T", "application/octet-stream")
    report = run(ab, "-q", "-k", "-n", "500", "-c", "8", *sent, url(server, "/upload"))
    assert figure(report, "Complete requests") == 500
    # All answers are as long as the first one: all bodies were as long as the first one.
    assert figure(report, "Failed requests") == 0
    assert figure(report, "Keep-Alive requests") == 500
    assert "Non-2xx" not in report
    assert count.requests(500) == 500


def test_ab_is_content_with_head(server: ServerProcess) -> None:
    ab, count = find_program("ab"), Count(server)
    target = url(server, "/sized?bytes=1000")
    report = run(ab, "-q", "-k", "-i", "-n", "500", "-c", "8", target)
    assert figure(report, "Complete requests") == 500
    assert figure(report, "Failed requests") == 0
    assert figure(report, "Keep-Alive requests") == 500
    assert count.requests(500) == 500


def test_wrk_meets_no_error(server: ServerProcess, tmp_path: Path) -> None:
    wrk, count = find_program("wrk"), Count(server)
    script = tmp_path / "mixed.lua"
    script.write_text(MIXED)
    report = run(wrk, "-t", "1", "-c", "24", "-d", "1s", "-s", str(script), url(server, "/"))
    assert "Socket errors" not in report
    assert "Non-2xx" not in report
    found = re.search(r"(\d+) requests in ", report)
    assert found, report
    assert int(found[1]) > 0
    # What was under way when it ended is counted by the server and not by wrk.
    assert 0 <= count.requests(int(found[1])) - int(found[1]) <= 24
