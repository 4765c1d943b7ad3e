"""What clients send can forge nothing in the logs, and what is secret does not get there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.integration.conftest import Serve
from tests.integration.fault_target import CHUNKED, Target
from tests.integration.server_process import APPS, eventually
from tests.unit.httpcore_srv.worker_in_thread import get

SECRET = "hunter2-correct-horse"
FORGED = "2026-01-01T00:00:00.000+00:00 [1] info: FORGED"

# Combined format; in the quoted parts a quote and a backslash are escaped.
QUOTED = r'"([^"\\]|\\x[0-9a-f]{2})*"'
ACCESS_LINE = re.compile(
    r"127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "
    rf"{QUOTED} (\d{{3}}|-) \d+ {QUOTED} {QUOTED}"
)


class Logged(Target):
    """A server that logs all it can."""

    def __init__(self, serve: Serve, access_log: Path) -> None:
        self.access_log = access_log
        options = ("--log-level", "debug", "--access-log", str(access_log), "--max-workers", "1")
        super().__init__(serve("fault_wire:app", *options, chdir=APPS))
        self._requests = 1  # the constructor of Target asks one

    def send(self, request: bytes) -> bytes:
        """Send a request, or what is none, and return all that comes until the end."""
        self._requests += 1
        return super().send(request)

    def access_lines(self) -> list[str]:
        """Wait for the lines of all requests and return them; there must be one to each."""

        def lines() -> list[bytes]:
            return self.access_log.read_bytes().splitlines(keepends=True)

        eventually(lambda: len(lines()) >= self._requests, hint=self.server.report)
        found = lines()
        assert len(found) == self._requests
        return [line.decode("ascii").removesuffix("\n") for line in found]

    def raw_log(self) -> str:
        """Return the server's log with whatever ends its lines."""
        return self.server.log_file.read_bytes().decode(errors="replace")

    def log(self) -> str:
        """Return the server's log, when it has said what it has to say of all requests."""
        marker = f"/fail?{quote('the last one')}&{len(self.server.log())}"
        self.send(get(marker, "Connection: close"))
        return self.server.wait_for_log(marker)


@pytest.fixture(scope="module")
def logged(serve_all: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    logged = Logged(serve_all, tmp_path_factory.mktemp("logs") / "access.log")
    yield logged
    # Whatever the tests have sent.
    assert SECRET not in logged.server.log()
    assert SECRET not in logged.access_log.read_text("latin-1")


# -- forging -----------------------------------------------------------------------------------

NASTY = [
    '"quoted"',
    'a" 200 0 "-" "-"',
    "back\\slash \\",
    "\\x22 already escaped",
    "\xe9\xff\x80 not ASCII",
    "\x85 next line \xa0",
    "\u2028 line separator".encode().decode("latin-1"),
    "tab\there",
    "%0d%0aFORGED",
    "%1b[31mred",
    "%s %(name)s {0} ${x}",
]


@pytest.mark.parametrize("text", NASTY)
def test_what_a_client_says_of_itself_stays_in_its_place(logged: Logged, text: str) -> None:
    fields = f"User-Agent: {text}\r\nReferer: {text}\r\nConnection: close\r\n"
    raw = logged.send(f"GET /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode("latin-1"))
    assert raw.startswith(b"HTTP/1.1 200 ")
    line = logged.access_lines()[-1]
    assert ACCESS_LINE.fullmatch(line)
    assert line.isprintable()
    _, *agents = re.findall(r'"[^"]*"', line)
    assert [unescaped(agent) for agent in agents] == [f'"{text}"'] * 2


def unescaped(text: str) -> str:
    """Undo the escapes of the access log."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), text)


@pytest.mark.parametrize(
    "target",
    ["/a%0d%0aFORGED", "/%1b%5b31m", "/%22%20200", "/?a=%0a", "/?\\", "/?\\n"],
)
@pytest.mark.parametrize("method", ["GET", "A'B`C|D%0aE"])
def test_targets_and_methods_are_logged_as_they_came(
    logged: Logged, method: str, target: str
) -> None:
    logged.send(f"{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    line = logged.access_lines()[-1]
    assert ACCESS_LINE.fullmatch(line)
    assert f'"{method} {target} HTTP/1.1" 200' in unescaped(line)


CONTROLS = [b"\r", b"\n", b"\r\n", b"\0", b"\x1b[31m", b"\x07", b"\x7f", b"\x85\r"]


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize(
    "place",
    [
        b"G%sT /forged HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /%sforged HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /forged%s HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /forged HTTP/1.1%s\r\nHost: a\r\n\r\n",
        b"GET /forged HTTP/1.1\r\nHost: a%sb\r\n\r\n",
        b"GET /forged HTTP/1.1\r\nHost: a\r\nUser-Agent: a%sb\r\n\r\n",
        b"GET /forged HTTP/1.1\r\nHost: a\r\nReferer: a%sb\r\n\r\n",
        b"GET /forged HTTP/1.1\r\nHost: a\r\nX%sY: a\r\n\r\n",
    ],
)
def test_a_control_character_gets_into_no_log(logged: Logged, place: bytes, control: bytes) -> None:
    raw = logged.send(place.replace(b"%s", control + b"INJECTED"))
    assert raw.startswith(b"HTTP/1.1 400 ")
    last = logged.access_lines()[-1]
    assert ACCESS_LINE.fullmatch(last)
    assert last.endswith('] "-" 400 0 "-" "-"')
    assert "INJECTED" not in logged.log()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n", "\x0b", "\x0c", "\x1c", "\x85"])
def test_an_exception_that_quotes_the_client_forges_no_record(logged: Logged, end: str) -> None:
    before = len(logged.raw_log())
    text = f"bad input: x{end}{FORGED}{end}\x1b[2J\x07\x9b2J"
    raw = logged.send(get(f"/fail?{quote(text, encoding='latin-1')}", "Connection: close"))
    assert raw.startswith(b"HTTP/1.1 500 ")
    logged.log()
    said = logged.raw_log()[before:]
    assert "FORGED" in said, "what the application said is worth to be read"
    assert not any(line.startswith(FORGED) for line in re.split(r"[\r\n]", said))
    assert re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", said) == []


# -- secrets -----------------------------------------------------------------------------------

SECRETS = (
    f"Authorization: Basic {SECRET}",
    f"Proxy-Authorization: Bearer {SECRET}",
    f"Cookie: session={SECRET}; other={SECRET}",
    f"X-Api-Key: {SECRET}",
    f"X-Forwarded-For: {SECRET}",
)


@pytest.mark.parametrize("path", ["/x?y=z", "/fail?oops", "/value?a%0ab", "/ignore"])
def test_what_fields_say_is_not_logged(logged: Logged, path: str) -> None:
    logged.send(get(path, *SECRETS, "Referer: http://a/", "User-Agent: me", "Connection: close"))
    last = logged.access_lines()[-1]
    assert f'"GET {path} HTTP/1.1"' in last
    assert last.endswith('"http://a/" "me"')
    assert SECRET not in last
    assert SECRET not in logged.log()


@pytest.mark.parametrize(
    "lines",
    [
        f"GET / HTTP/1.1\r\nHost: a\r\nCookie: {SECRET}\0\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: a\r\nCookie : {SECRET}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: a\r\nCookie {SECRET}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n {SECRET}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: a\r\n{SECRET}\xe9: y\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: {SECRET}@a\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: a\r\nHost: {SECRET}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {SECRET}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {SECRET}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: a\r\nExpect: {SECRET}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: a\r\nCookie: {SECRET * 4000}\r\n\r\n",
        f"GET http://me:{SECRET}@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        f"GET /?token={SECRET} HTTP/9.9\r\nHost: a\r\n\r\n",
        f"GET /?token={SECRET}\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
        f"GET /?token={SECRET * 1000} HTTP/1.1\r\nHost: a\r\n\r\n",
        f"{SECRET} \r\n\r\n",
        f"{CHUNKED.decode()}5;a={SECRET}\0\r\n",
        f"{CHUNKED.decode()}0\r\nCookie {SECRET}\r\n\r\n",
        f"{CHUNKED.decode()}5\r\nhello{SECRET}\r\n",
    ],
)
def test_a_refusal_quotes_nothing(logged: Logged, lines: str) -> None:
    raw = logged.send(lines.encode("latin-1"))
    assert re.match(rb"HTTP/1\.1 (4\d\d|501|505) ", raw)
    assert SECRET.encode() not in raw
    assert SECRET not in logged.access_lines()[-1]
    assert SECRET not in logged.log()


SET_COOKIE = "session=abcdef\n"


def test_a_cookie_that_cannot_be_sent_is_not_logged_either(logged: Logged) -> None:
    raw = logged.send(get(f"/cookie?{quote(SET_COOKIE)}", "Connection: close"))
    assert raw.startswith(b"HTTP/1.1 500 ")
    record = next(line for line in logged.log().splitlines() if "Set-Cookie" in line)
    assert "abcdef" not in record
    assert "control character" in record
