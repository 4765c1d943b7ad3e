"""What is asked of a server, and with how many connections and threads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.apps import (
    FILE_BYTES,
    HELLO_BODY,
    JSON_BODY,
    LARGE_BYTES,
    SLEEP_S,
    SLEPT_BODY,
    UPLOAD_BYTES,
)

# How many different requests take turns where requests differ from one to the next.
VARIANTS: Final = 1000
PIPELINE_DEPTH: Final = 16

# What a browser sends on a first visit to a site that has set a few cookies: 14 fields beside Host.
BROWSER_HEADERS: Final = (
    (
        "User-Agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"
        " Chrome/130.0.0.0 Safari/537.36",
    ),
    (
        "Accept",
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    ),
    ("Accept-Language", "en-GB,en;q=0.9,de;q=0.8"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Cache-Control", "max-age=0"),
    ("Referer", "http://example.org/some/page?with=a&query=string"),
    ("Upgrade-Insecure-Requests", "1"),
    ("Sec-Fetch-Dest", "document"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Site", "same-origin"),
    ("Sec-Ch-Ua", '"Chromium";v="130", "Not?A_Brand";v="99"'),
    ("Sec-Ch-Ua-Mobile", "?0"),
    ("Sec-Ch-Ua-Platform", '"Linux"'),
    (
        "Cookie",
        "session=eyJfZnJlc2giOmZhbHNlfQ.Zx0a1w.k8jC2l0xkZb3qk0yM1Q; theme=dark; seen=1,2,3",
    ),
)

# As Flask's jsonify() writes it, so that what comes back is what was sent: 1 KB.
POSTED: Final = (
    json.dumps(
        {
            "id": 4711,
            "items": [{"count": n, "name": f"item {n}", "price": n + 0.5} for n in range(16)],
            "text": "x" * 334,
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode()
    + b"\n"
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load; every server gets the same."""

    name: str
    summary: str
    app: str  # MODULE:CALLABLE
    body: bytes  # what the probe expects to be answered
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    connections: int = 32
    # The budget of every server that has threads. 8 is where the quickest threaded peer stops
    # gaining on one core (granian, hello: 1 thread 70 k/s, 4: 92 k, 8: 113 k, 64: 109 k), so
    # that no peer is held below its best.
    threads: int = 8
    blocks: bool = False  # the application waits: a server without threads has no chance
    kind: str = "rate"  # the module of this package that measures it
    merit: str = "rate"  # the figure by which servers are compared
    method: str = "GET"
    content: bytes = b""  # of the request
    upload_bytes: int = 0  # of a request's content that is too large to be kept here
    download_bytes: int = 0  # of an answer that is too large to be kept here, instead of `body`
    pipeline: int = 1  # requests that are sent together
    changing_path: bool = False  # with each request
    changing_cookie: bool = False
    needs: tuple[str, ...] = ()  # what some servers want an option for: see Server.options
    ideal_rate: float = 0.0  # what the application's waiting alone would allow
    least_seconds: float = 0.0  # a turn shorter than this would count too few requests

    @property
    def closes(self) -> bool:
        """True if each request comes on a connection of its own."""
        return ("Connection", "close") in self.headers

    def requests(self) -> Sequence[Request]:
        """Return the requests that a connection sends in turn, over and over."""
        changes = self.changing_path or self.changing_cookie
        return [self._request(number) for number in range(VARIANTS if changes else 1)]

    def _request(self, number: int) -> Request:
        path, headers = self.path, self.headers
        if self.changing_path:
            path = f"{path}page/{number:04}?item={number * 7919 % 100_000:05}"
        if self.changing_cookie:
            headers = tuple(
                (name, f"{value}; visit={number * 104_729 % 1_000_000:06}")
                if name == "Cookie"
                else (name, value)
                for name, value in headers
            )
        return Request(self.method, path, headers, self.content)


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it is sent, but for the fields that every one has."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    content: bytes = b""

    def as_bytes(self, host: str) -> bytes:
        """Return the request as it goes over the wire."""
        fields = [("Host", host), *self.headers]
        if self.content:
            fields.append(("Content-Length", str(len(self.content))))
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{n}: {v}" for n, v in fields), "", ""]
        return "\r\n".join(lines).encode("latin-1") + self.content


_HELLO_APP: Final = "benchmarks.apps:hello"

SCENARIOS: Final = (
    Scenario("hello", "plain callable, keep-alive", _HELLO_APP, HELLO_BODY),
    Scenario(
        "browser",
        "plain callable, 14 browser headers, path and cookie change each time",
        _HELLO_APP,
        HELLO_BODY,
        headers=BROWSER_HEADERS,
        changing_path=True,
        changing_cookie=True,
    ),
    Scenario(
        "flask",
        "Flask route, JSON, 14 browser headers, the cookie changes each time",
        "benchmarks.flask_app:app",
        JSON_BODY,
        path="/json",
        headers=BROWSER_HEADERS,
        changing_cookie=True,
    ),
    Scenario(
        "post",
        "Flask parses and echoes 1 KB of JSON",
        "benchmarks.flask_app:app",
        POSTED,
        path="/echo",
        headers=(("Content-Type", "application/json"),),
        method="POST",
        content=POSTED,
    ),
    Scenario(
        "connect",
        "plain callable, a new connection for each request",
        _HELLO_APP,
        HELLO_BODY,
        headers=(("Connection", "close"),),
    ),
    Scenario(
        "pipelined",
        f"plain callable, requests come {PIPELINE_DEPTH} at a time",
        _HELLO_APP,
        HELLO_BODY,
        pipeline=PIPELINE_DEPTH,
        needs=("pipelined",),
    ),
    Scenario(
        "large",
        "1 MB from memory",
        "benchmarks.apps:large",
        b"",
        connections=8,
        kind="transfer",
        merit="mb_s",
        download_bytes=LARGE_BYTES,
    ),
    Scenario(
        "file",
        "100 MB file by wsgi.file_wrapper",
        "benchmarks.apps:file",
        b"",
        connections=2,
        kind="transfer",
        merit="mb_s",
        download_bytes=FILE_BYTES,
        needs=("file",),
        least_seconds=3.0,
    ),
    Scenario(
        "upload",
        "100 MB upload, read in pieces of 64 KiB",
        "benchmarks.apps:upload",
        str(UPLOAD_BYTES).encode(),
        connections=2,
        kind="transfer",
        merit="mb_s",
        method="POST",
        upload_bytes=UPLOAD_BYTES,
        needs=("upload",),
        least_seconds=3.0,
    ),
    Scenario(
        "sleep",
        f"application waits {SLEEP_S * 1000:.0f} ms",
        "benchmarks.apps:sleep",
        SLEPT_BODY,
        connections=64,
        threads=64,
        blocks=True,
        ideal_rate=64 / SLEEP_S,
    ),
    Scenario(
        "mixed",
        "every 100th request waits 100 ms",
        "benchmarks.mixed_app:app",
        HELLO_BODY,
        connections=64,
        threads=64,
        blocks=True,
        kind="mixed",
        merit="tail",
    ),
    Scenario(
        "idle",
        "hello beside 10,000 idle keep-alive connections",
        _HELLO_APP,
        HELLO_BODY,
        kind="idle",
        merit="kept",
        needs=("crowd",),
    ),
    Scenario(
        "start",
        "start to first answer, Flask demo",
        "app:app",
        b"",
        connections=1,
        kind="start",
        merit="start_ms",
    ),
)
