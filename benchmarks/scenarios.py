"""What is asked of a server, and with how many connections and threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.apps import HELLO_BODY, JSON_BODY, SLEEP_S, SLEPT_BODY

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

    @property
    def closes(self) -> bool:
        """True if each request comes on a connection of its own."""
        return ("Connection", "close") in self.headers


SCENARIOS: Final = (
    Scenario("hello", "plain callable, keep-alive", "benchmarks.apps:hello", HELLO_BODY),
    Scenario(
        "browser",
        "plain callable, 14 browser headers",
        "benchmarks.apps:hello",
        HELLO_BODY,
        headers=BROWSER_HEADERS,
    ),
    Scenario("flask", "Flask route, JSON", "benchmarks.flask_app:app", JSON_BODY, path="/json"),
    Scenario(
        "sleep",
        f"application waits {SLEEP_S * 1000:.0f} ms",
        "benchmarks.apps:sleep",
        SLEPT_BODY,
        connections=64,
        threads=64,
        blocks=True,
    ),
    Scenario(
        "connect",
        "plain callable, a new connection for each request",
        "benchmarks.apps:hello",
        HELLO_BODY,
        headers=(("Connection", "close"),),
    ),
)
