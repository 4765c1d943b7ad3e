"""curl against the live server: every framing both ways, kept connections, early refusals."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apps.client_wire import WHOLE, digest, pieces
from tests.integration.conftest import Serve
from tests.integration.programs import find_program
from tests.integration.server_process import APPS, PATIENCE_S, ServerProcess

MAX_BODY = 4 << 20


@dataclass(frozen=True)
class Transfer:
    """One of a command's transfers, as curl reports it (its --write-out)."""

    status: int
    opened: int  # connections that were made for it
    sent: int  # bytes of the body
    version: str
    body: Path

    @property
    def content(self) -> bytes:
        """What was received."""
        return self.body.read_bytes() if self.body.exists() else b""

    @property
    def value(self) -> Any:
        """What was received, as JSON."""
        return json.loads(self.content)


class Curl:
    """Runs curl; bodies, heads and everything else that it makes lie in a directory."""

    def __init__(self, program: str, server: ServerProcess, directory: Path) -> None:
        self.directory = directory
        self.heads = directory / "heads"
        self._program = program
        self._base = "http://{}:{}".format(*server.address)

    def __call__(
        self, *arguments: str, targets: int = 1, stdin: bytes = b"", status: int = 0
    ) -> list[Transfer]:
        """Run curl in the directory; what begins with `/` in the arguments is a target.

        targets: how many transfers there will be. status: the exit status that is expected.
        """
        ended = subprocess.run(
            [self._program, "-q", "-sS", *self._expand(arguments)],
            cwd=self.directory,
            input=stdin,
            capture_output=True,
            timeout=2 * PATIENCE_S,
            check=False,
        )
        assert ended.returncode == status, ended
        reports = [json.loads(line) for line in ended.stdout.splitlines()]
        assert len(reports) == targets, ended
        return [
            Transfer(
                report["http_code"],
                report["num_connects"],
                report["size_upload"],
                report["http_version"],
                self.directory / (report["filename_effective"] or "none"),
            )
            for report in reports
        ]

    def one(self, *arguments: str, stdin: bytes = b"") -> Transfer:
        """Run curl for one transfer."""
        return self(*arguments, stdin=stdin)[0]

    def _expand(self, arguments: tuple[str, ...]) -> Iterator[str]:
        """Give every target its address, its output file and a report of its own."""
        number = 0
        for argument in arguments:
            if not argument.startswith("/"):
                yield argument
                continue
            # Globbing makes several transfers of a target: #1 is which.
            name = f"body{number}" + ("-#1" if "[" in argument else "")
            yield from (self._base + argument, "-o", name)
            yield from ("-D", self.heads.name, "-w", r"%{json}\n", "--max-time", str(PATIENCE_S))
            number += 1

    def abandon(self, target: str, count: int) -> bytes:
        """Begin a download, end it after so many bytes, and return these."""
        with subprocess.Popen(
            [self._program, "-q", "-sSN", self._base + target],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # where it complains
        ) as process:
            assert process.stdout is not None
            received = process.stdout.read(count)
            process.stdout.close()
            assert process.wait(PATIENCE_S) == 23, "it cannot write what it received"
        return received


@pytest.fixture(scope="module")
def server(serve_all: Serve, tmp_path_factory: pytest.TempPathFactory) -> ServerProcess:
    """A server on TCP and on a socket file, with a small limit for bodies."""
    find_program("curl")  # no server for tests that will be skipped
    path = tmp_path_factory.mktemp("curl") / "app.sock"
    addresses = ("-b", "127.0.0.1:0", "-b", f"unix:{path}")
    limits = ("--max-workers", "2", "--max-body", str(MAX_BODY))
    return serve_all("client_wire:app", *addresses, *limits, chdir=APPS)


@pytest.fixture
def curl(server: ServerProcess, tmp_path: Path) -> Curl:
    """Curl, in a directory of the test."""
    return Curl(find_program("curl"), server, tmp_path)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file below the limit for bodies, but above what curl sends without asking."""
    path = tmp_path / "large"
    path.write_bytes(b"".join(pieces(3 << 20)))
    return path


@pytest.fixture
def too_large(tmp_path: Path) -> Path:
    """A file far above the limit for bodies."""
    path = tmp_path / "too_large"
    with path.open("wb") as file:
        file.truncate(10 * MAX_BODY)
    return path


def test_get_and_head_have_the_same_fields(curl: Curl) -> None:
    got = curl.one("/whole")
    fields = curl.heads.read_text()
    assert (got.status, got.version, got.content) == (200, "1.1", WHOLE)
    head = curl.one("-I", "/whole")
    assert head.status == 200
    assert curl.heads.read_text().split("Date:")[0] == fields.split("Date:")[0]
    assert f"Content-Length: {len(WHOLE)}\n" in fields


def test_a_form_arrives(curl: Curl) -> None:
    sent = curl.one("-d", "a=1", "-d", "a=2", "--data-urlencode", "b=é & ü", "/form")
    assert sent.value == {"fields": {"a": ["1", "2"], "b": ["é & ü"]}, "files": {}}


def test_a_file_in_a_form_arrives(curl: Curl, large: Path) -> None:
    file = f"up=@{large.name};type=image/x-test;filename=a b.bin"
    sent = curl.one("-F", "note=here", "-F", file, "/form")
    expected = ["a b.bin", "image/x-test", digest(pieces(3 << 20))]
    assert sent.value == {"fields": {"note": ["here"]}, "files": {"up": expected}}


@pytest.mark.parametrize("count", [0, 1, 100_000, 3 << 20])
def test_an_upload_from_a_pipe_is_chunked_and_arrives(curl: Curl, count: int) -> None:
    sent = curl.one("-T", "-", "/upload", stdin=b"".join(pieces(count)))
    seen = sent.value
    assert (seen["method"], seen["bytes"]) == ("PUT", count)
    assert seen["digest"] == digest(pieces(count))


def test_a_large_body_is_asked_for_before_it_is_sent(curl: Curl, large: Path) -> None:
    # Without the 100 curl would wait until it gives up itself, far too late.
    wait = ("-H", "Expect: 100-continue", "--expect100-timeout", str(2 * PATIENCE_S))
    sent = curl.one(*wait, "--data-binary", f"@{large.name}", "/upload")
    assert curl.heads.read_text().startswith("HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\n")
    assert sent.value["digest"] == digest(pieces(3 << 20))
    assert sent.value["length"] == str(3 << 20)


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(curl: Curl, too_large: Path) -> None:
    wait = ("-H", "Expect: 100-continue", "--expect100-timeout", str(2 * PATIENCE_S))
    refused = curl.one(*wait, "-T", too_large.name, "/upload")
    assert (refused.status, refused.sent) == (413, 0)
    assert "100 Continue" not in curl.heads.read_text()


@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_a_refusal_is_read_by_a_client_that_still_sends(
    curl: Curl, too_large: Path, framing: str
) -> None:
    # A declared length is judged before a byte of the body has come, chunks as they come.
    chunked, least = [], 0
    if framing == "chunked":
        chunked, least = ["-H", "Transfer-Encoding: chunked"], MAX_BODY
    for _ in range(5):
        refused = curl.one("-H", "Expect:", *chunked, "-T", too_large.name, "/upload")
        assert refused.status == 413
        assert b"413" in refused.content
        assert least <= refused.sent < 10 * MAX_BODY
        assert "Connection: close\n" in curl.heads.read_text()


def test_a_connection_is_used_for_every_kind_of_request(curl: Curl, large: Path) -> None:
    transfers = curl(
        *("/whole", "/stream?bytes=100000", "/sized?bytes=100000", "/file?bytes=100000"),
        *("/missing", "/empty", "/moved", "/sized?bytes=0", "/stream?bytes=0"),
        *("--next", "-sS", "-I", "/stream?bytes=100000", "/missing", "/sized?bytes=7", "/empty"),
        *("--next", "-sS", "-H", 'If-None-Match: "one"', "/tagged", "/whole"),
        *("--next", "-sS", "-d", "a=1", "/form", "/upload"),
        *("--next", "-sS", "-T", large.name, "/upload"),
        *("--next", "-sS", "-X", "OPTIONS", "/any"),
        *("--next", "-sS", "-X", "DELETE", "/whole"),
        targets=20,
    )
    assert [each.opened for each in transfers] == [1] + 19 * [0]
    found = [200, 200, 200, 200, 404, 204, 303, 200, 200]
    assert [each.status for each in transfers[:9]] == found
    assert [each.status for each in transfers[9:15]] == [200, 404, 200, 204, 304, 200]
    assert [each.status for each in transfers[15:]] == 5 * [200]
    for each in transfers[1:4]:
        assert each.content == b"".join(pieces(100_000))
    assert transfers[17].value["digest"] == digest(pieces(3 << 20))


def test_a_hundred_requests_need_one_connection(curl: Curl) -> None:
    transfers = curl("/any?[1-100]", targets=100)
    assert sum(each.opened for each in transfers) == 1
    assert [each.value["QUERY_STRING"] for each in transfers] == [str(n) for n in range(1, 101)]


def test_many_transfers_at_once_do_not_mix(curl: Curl) -> None:
    transfers = curl("-Z", "--parallel-max", "10", "/stream?bytes=[200000-200039]", targets=40)
    assert {each.status for each in transfers} == {200}
    bodies = sorted((each.content for each in transfers), key=len)
    assert bodies == [b"".join(pieces(count)) for count in range(200_000, 200_040)]


def test_a_1_0_client_gets_its_answer_and_a_closed_connection(curl: Curl) -> None:
    transfers = curl("--http1.0", "/whole", "/stream?bytes=100000", targets=2)
    assert [each.opened for each in transfers] == [1, 1]
    assert transfers[0].content == WHOLE
    # Ended by the end of the connection: 1.0 knows no chunks.
    assert transfers[1].content == b"".join(pieces(100_000))
    assert "Transfer-Encoding" not in curl.heads.read_text()


def test_a_1_0_client_that_asks_may_keep_its_connection(curl: Curl) -> None:
    keep = ("--http1.0", "-H", "Connection: keep-alive")
    transfers = curl(*keep, "/whole", "/sized?bytes=100000", "/whole", targets=3)
    assert [each.opened for each in transfers] == [1, 0, 0]
    assert transfers[1].content == b"".join(pieces(100_000))


@pytest.mark.parametrize("view", ["sized", "stream", "file"])
def test_a_big_download_is_whole(curl: Curl, view: str) -> None:
    count = (20 << 20) + 12345
    got = curl.one(f"/{view}?bytes={count}")
    assert got.status == 200
    assert digest([got.content]) == digest(pieces(count))


def test_a_closing_response_is_followed_by_another_connection(curl: Curl) -> None:
    transfers = curl("/whole", "/last", "/whole", targets=3)
    assert [(each.status, each.opened) for each in transfers] == [(200, 1), (200, 0), (200, 1)]


def test_a_redirect_is_followed_on_the_same_connection(curl: Curl) -> None:
    followed = curl.one("-L", "-d", "a=1", "/moved")
    assert (followed.content, followed.opened) == (WHOLE, 1)


def test_dots_in_a_path_are_left_to_the_application(curl: Curl) -> None:
    target = "/a/../../b/./%2e%2e/c//d%2f?e=/../f"
    seen = curl.one("--path-as-is", target).value
    assert seen["REQUEST_URI"] == seen["RAW_URI"] == target
    assert seen["PATH_INFO"] == "/a/../../b/./../c//d/"
    assert seen["QUERY_STRING"] == "e=/../f"


def test_a_socket_file_serves_the_same(server: ServerProcess, curl: Curl, large: Path) -> None:
    bind = next(bind for bind in server.binds if bind.startswith("unix:"))
    path = os.path.relpath(bind.removeprefix("unix:"), curl.directory)
    transfers = curl(
        *("--unix-socket", path, "/whole", "/stream?bytes=1000000", "/file?bytes=1000000"),
        *("--next", "-sS", "--unix-socket", path, "-T", large.name, "/upload"),
        targets=4,
    )
    assert [each.opened for each in transfers] == [1, 0, 0, 0]
    assert transfers[1].content == transfers[2].content == b"".join(pieces(1_000_000))
    assert transfers[3].value["digest"] == digest(pieces(3 << 20))


@pytest.mark.parametrize("view", ["sized", "stream", "file"])
def test_a_client_that_gives_up_in_the_middle_harms_nobody(
    server: ServerProcess, curl: Curl, view: str
) -> None:
    begun = curl.abandon(f"/{view}?bytes=50000000", 100_000)
    assert begun == b"".join(pieces(50_000_000))[:100_000]
    server.eventually(lambda s: s["connections"] == 0 and s["busy_threads"] == 0)
    assert curl.one("/whole").content == WHOLE
    assert server.status()["errors"] == 0
