"""Access log: the combined format, whole lines, and nothing that a client could forge."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpcore_srv.access_log import AccessLog, open_access_log
from httpcore_srv.errors import BindError
from httpcore_srv.messages import FieldBlock, RequestHead
from httpcore_srv.wsgi import Exchange, WSGIHandler

COMBINED = re.compile(
    r'(?P<peer>\S+) - - \[(?P<time>[^]]+)\] "(?P<request>[^"]*)" (?P<status>\S+) (?P<sent>\d+)'
    r' "(?P<referer>[^"]*)" "(?P<agent>[^"]*)"\n'
)


def request(
    method: str = "GET", target: str = "/a?b", minor: int = 1, **environ: str
) -> RequestHead:
    fields = FieldBlock(environ, None, False, False, False, False, False)
    return RequestHead(method, target, "/a", "b", minor, None, fields, True, False)


class Sink:
    """Takes all and keeps nothing."""

    def send(self, data: bytes) -> None:
        pass

    def hint(self, data: bytes) -> None:
        pass

    def finish(self, data: bytes, content: bytes = b"") -> None:
        pass

    def finish_file(self, data: bytes, fd: int, offset: int, count: int) -> None:
        os.close(fd)


class Conditions:
    """Those of a server that serves."""

    date = b""
    keeps_alive = True
    leaving = False
    has_unread = False


def answered(head: RequestHead, status: str = "200 OK", content: bytes = b"hello") -> Exchange:
    exchange = Exchange(head, Conditions(), Sink(), Conditions())
    WSGIHandler(lambda environ, start_response: (start_response(status, []), [content])[1]).handle(
        {"REQUEST_METHOD": "GET", "RAW_URI": "/"}, exchange
    )
    return exchange


class Written:
    """A log in a file, and what stands there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        fd = open_access_log(str(path))
        assert fd is not None
        self.fd = fd
        self.log = AccessLog(fd)

    def record(self, head: RequestHead, peer: str = "192.0.2.7", status: str = "200 OK") -> None:
        exchange = answered(head, status)
        self.log.record(peer, head, exchange.status, exchange.sent)

    def lines(self) -> list[re.Match[str]]:
        self.log.flush()
        text = self.path.read_bytes().decode("ascii")
        matches = [COMBINED.fullmatch(line) for line in text.splitlines(keepends=True)]
        assert all(matches), text
        return [match for match in matches if match]

    def line(self) -> re.Match[str]:
        (line,) = self.lines()
        return line


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    written = Written(tmp_path / "access.log")
    yield written
    os.close(written.fd)


# -- format --------------------------------------------------------------------------------


def test_a_line_has_the_combined_format(written: Written) -> None:
    head = request(HTTP_REFERER="http://example.com/", HTTP_USER_AGENT="curl/8.5 (x; y)")
    written.record(head)
    line = written.line()
    assert line["peer"] == "192.0.2.7"
    assert line["request"] == "GET /a?b HTTP/1.1"
    assert (line["status"], line["sent"]) == ("200", "5")
    assert line["referer"] == "http://example.com/"
    assert line["agent"] == "curl/8.5 (x; y)"


def test_what_is_not_known_is_a_dash(written: Written) -> None:
    written.record(request(minor=0), peer="")
    line = written.line()
    assert line["peer"] == line["referer"] == line["agent"] == "-"
    assert line["request"] == "GET /a?b HTTP/1.0"


def test_the_time_is_local_and_says_its_offset(written: Written) -> None:
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    written.record(request())
    after = datetime.datetime.now(datetime.UTC)
    logged = datetime.datetime.strptime(written.line()["time"], "%d/%b/%Y:%H:%M:%S %z")
    assert before <= logged <= after


def test_the_time_goes_on(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    for now_s in (1_000_000_000.9, 1_000_000_001.0, 1_000_000_001.5, 1_000_086_400.0):
        monkeypatch.setattr(time, "time", lambda now_s=now_s: now_s)
        written.record(request())
    monkeypatch.undo()
    format_ = "%d/%b/%Y:%H:%M:%S %z"
    times = [datetime.datetime.strptime(line["time"], format_) for line in written.lines()]
    assert [t.timestamp() - 1e9 for t in times] == [0, 1, 1, 86400]


@pytest.mark.parametrize(
    ("status", "logged"), [("404 Not Found", "404"), ("299", "299"), ("bad", "500")]
)
def test_the_status_is_the_one_that_was_sent(written: Written, status: str, logged: str) -> None:
    written.record(request(), status=status)
    assert written.line()["status"] == logged


def test_a_request_that_got_no_answer_has_a_dash_for_its_status(written: Written) -> None:
    head = request()
    exchange = Exchange(head, Conditions(), Sink(), Conditions())
    written.log.record("192.0.2.7", head, exchange.status, exchange.sent)
    assert (written.line()["status"], written.line()["sent"]) == ("-", "0")


@pytest.mark.parametrize("peer", ["192.0.2.7", ""])
def test_a_refusal_has_no_request(written: Written, peer: str) -> None:
    written.log.refused(peer, 400)
    line = written.line()
    assert line["peer"] == (peer or "-")
    assert (line["request"], line["status"], line["sent"]) == ("-", "400", "0")


def test_a_request_that_the_server_answered_itself_is_logged_with_what_was_sent(
    written: Written,
) -> None:
    written.log.record("192.0.2.7", request(), "504", 0)
    line = written.line()
    assert (line["request"], line["status"], line["sent"]) == ("GET /a?b HTTP/1.1", "504", "0")


# -- forging -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "logged"),
    [
        ('a"b', r"a\x22b"),
        ("a\\b", r"a\x5cb"),
        ("a\nb", r"a\x0ab"),
        ("a\r\nb", r"a\x0d\x0ab"),
        ("a\tb", r"a\x09b"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x00\x7f", r"\x00\x7f"),
        ("caf\xe9\x85", r"caf\xe9\x85"),
        ("a b'~!#[]", "a b'~!#[]"),
        ("\\x22", r"\x5cx22"),
    ],
)
def test_what_could_forge_is_escaped(written: Written, value: str, logged: str) -> None:
    written.record(request(method=value, target=value, HTTP_REFERER=value, HTTP_USER_AGENT=value))
    line = written.line()
    assert line["referer"] == line["agent"] == logged
    assert line["request"] == f"{logged} {logged} HTTP/1.1"


octets = st.text(st.characters(max_codepoint=255), max_size=60)


@given(octets, octets, octets, octets)
def test_one_request_is_one_line_whatever_it_says(
    method: str, target: str, referer: str, agent: str
) -> None:
    reading, writing = os.pipe()
    log = AccessLog(writing)
    head = request(method, target, HTTP_REFERER=referer, HTTP_USER_AGENT=agent)
    log.record("192.0.2.7", head, "200 OK", 5)
    log.flush()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        line = COMBINED.fullmatch(pipe.read().decode("ascii"))
    assert line is not None
    # And nothing is lost: what was escaped can be read back.
    for logged, meant in ((line["referer"], referer), (line["agent"], agent)):
        assert re.sub(r"\\x(..)", lambda m: chr(int(m[1], 16)), logged) == meant


# -- writing -------------------------------------------------------------------------------


def test_nothing_is_written_before_flush_and_all_of_it_then(written: Written) -> None:
    for number in range(100):
        written.record(request(target=f"/{number}"))
    assert written.path.read_bytes() == b""
    targets = [line["request"].split()[1] for line in written.lines()]
    assert targets == [f"/{number}" for number in range(100)]


def test_flushing_nothing_writes_nothing() -> None:
    AccessLog(-1).flush()


def test_several_threads_write_whole_lines_and_each_once(written: Written) -> None:
    threads, count = 8, 300
    gate = threading.Barrier(threads, timeout=10)

    def work(number: int) -> None:
        gate.wait()
        for i in range(count):
            written.record(request(target=f"/{number}/{i}"))
            if i % 7 == 0:
                written.log.flush()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert not worker.is_alive()
    targets = [line["request"].split()[1] for line in written.lines()]
    assert len(targets) == len(set(targets)) == threads * count


def test_two_workers_may_share_a_file(written: Written) -> None:
    # Each process has its own AccessLog over one open file description in append mode.
    other = AccessLog(written.fd)
    head = request(target="/" + "x" * 500)
    for _ in range(50):
        written.record(head)
        other.record("192.0.2.8", head, "200 OK", 5)
        other.flush()
        written.log.flush()
    assert len(written.lines()) == 100


@pytest.mark.parametrize("where", ["full disk", "full pipe"])
def test_a_log_that_cannot_be_written_does_not_stop_the_server(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    if where == "full disk":
        fd = os.open("/dev/full", os.O_WRONLY)
        reading = os.dup(fd)
    else:
        reading, fd = os.pipe2(os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(fd, b"x" * 65536)
    try:
        log = AccessLog(fd)
        for _ in range(5):
            log.refused("192.0.2.7", 400)
            log.flush()
    finally:
        os.close(reading)
        os.close(fd)
    (record,) = caplog.records  # said once, not with every line
    assert "access log" in record.getMessage()


def test_a_log_that_can_be_written_again_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    log = AccessLog(writing)
    log.refused("192.0.2.7", 400)
    log.flush()
    with contextlib.suppress(BlockingIOError):
        while True:
            os.read(reading, 1 << 20)
    log.refused("192.0.2.8", 400)
    log.flush()
    line = COMBINED.fullmatch(os.read(reading, 4096).decode())
    assert line is not None
    assert line["peer"] == "192.0.2.8"
    assert len(caplog.records) == 1
    os.close(reading)
    os.close(writing)


# -- opening -------------------------------------------------------------------------------


def test_no_path_is_no_log() -> None:
    assert open_access_log(None) is None


def test_a_dash_is_standard_error() -> None:
    assert open_access_log("-") == 2


def test_a_log_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text("before\n")
    for _ in range(2):
        fd = open_access_log(str(path))
        assert fd is not None
        assert not os.get_inheritable(fd)
        log = AccessLog(fd)
        log.refused("192.0.2.7", 400)
        log.flush()
        os.close(fd)
    assert path.read_text().startswith("before\n")
    assert path.read_text().count("\n") == 3


@pytest.mark.parametrize("name", ["no/where", "."])
def test_a_log_that_cannot_be_opened_is_said_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(BindError) as caught:
        open_access_log(str(tmp_path / name))
    assert caught.value.exit_status == 2
    assert re.fullmatch("cannot write the access log .*--access-log", str(caught.value))
