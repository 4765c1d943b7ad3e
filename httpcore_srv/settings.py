"""Limits and timeouts of HTTP, each with its unit, its status and its source.

Checked once when built; read ever after without doubt.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields


@dataclass(frozen=True, slots=True)
class HTTPLimits:
    """How much of everything a client may send; sizes in bytes.

    Raises: ValueError if a limit is below the smallest value that makes sense.
    """

    max_request_line_bytes: int = 8190
    """Request line without its CRLF; beyond: 414. RFC 9112 section 3 asks for 8000 at
    least; 8190 is Apache's LimitRequestLine."""

    max_header_bytes: int = 65536
    """All field lines with their CRLF, without request line and empty line; beyond:
    431. Node allows 16 KiB, Apache 100 fields of 8190; big cookies and Kerberos
    tickets ask for more than 16."""

    max_headers: int = 100
    """Field lines in a header section (and in a trailer section); beyond: 431. Apache's
    LimitRequestFields, gunicorn's limit_request_fields."""

    max_body_bytes: int = 1 << 30
    """Decoded body; beyond: 413. 0 sets no bound."""

    max_chunk_extension_bytes: int = 1024
    """Chunk extensions of one chunk; beyond: 400. RFC 9112 section 7.1.1 asks for a
    limit; nobody is known to use them."""

    max_chunk_overhead_bytes: int = 65536
    """How far the bytes of a chunked body that carry no data (sizes, extensions, line
    ends) may exceed twice the data; beyond: 400. Honest clients stay far below: a chunk of
    three bytes already pays for itself. It ends bodies in chunks of a single byte, which
    cost us some 150 ns a byte instead of almost none, after the first 21,000."""

    max_trailer_bytes: int = 8192
    """Trailer section of a chunked body (read and dropped); beyond: 431."""

    body_memory_bytes: int = 1 << 19
    """Bodies above it wait in a temporary file. 512 KiB is waitress's
    inbuf_overflow; werkzeug spools forms at 500 KB."""

    max_buffered_bytes: int = 1 << 27
    """What all unfinished bodies and all unsent responses of one worker may take in
    memory; what comes beyond waits in temporary files."""

    max_connections: int = 10_000
    """Open connections of one worker. At the limit those that have been idle longest make
    room for new ones; if none is idle, no more are accepted."""

    max_connections_per_address: int = 0
    """Open connections of one worker from one address; beyond: 503. 0 sets no bound:
    behind a proxy all come from one address."""

    refuse_underscores: bool = False
    """A field name with an underscore: refused with 400, not just left out."""

    pass_connect: bool = False
    """CONNECT: handed to the application, not answered 501."""

    def __post_init__(self) -> None:
        _check(
            self,
            zero_allowed={
                "max_body_bytes",
                "max_chunk_extension_bytes",
                "max_connections_per_address",
                "refuse_underscores",
                "pass_connect",
            },
        )


@dataclass(frozen=True, slots=True)
class HTTPTimeouts:
    """How long the loop waits for a client, in seconds on the monotonic clock.

    Raises: ValueError if a timeout is not above zero (keep_alive_s may be zero: every
        connection is then closed after one response).
    """

    header_s: float = 15.0
    """From the first byte of a head to its last; then 408. mod_wsgi-express: 15."""

    body_s: float = 30.0
    """Without a byte of the body; then 408."""

    write_s: float = 60.0
    """Without the client taking a byte of the response; then the connection is cut.
    Puma and nginx (send_timeout): 60."""

    keep_alive_s: float = 75.0
    """Between requests. nginx: 75; longer than the 60 of common load balancers, for the
    side that closes first loses the race with a request on its way."""

    linger_s: float = 2.0
    """How long we read and drop after an error response and a half-close, so that the
    response is not lost to a reset (RFC 9112 section 9.6). nginx: 5 between reads;
    gunicorn: 2."""

    min_rate: int = 240
    """Bytes per second that a client must send of a body, or take of a response, on the
    average, once `body_s` or `write_s` have passed. 0: any progress will do. Kestrel's
    MinRequestBodyDataRate: 240; Apache's mod_reqtimeout: 500."""

    request_s: float = 0.0
    """From the call of the application to the first byte of its response; then 504, and
    the thread is written off. 0: for ever."""

    queue_s: float = 0.0
    """How long a request may wait for a thread; then 503. 0: for ever."""

    worker_s: float = 0.0
    """How long the loop may be silent; before that its stacks are written, and then the
    manager ends the worker. 0: for ever. gunicorn (timeout): 30."""

    def __post_init__(self) -> None:
        zero_allowed = {"keep_alive_s", "min_rate", "request_s", "queue_s", "worker_s"}
        _check(self, zero_allowed=zero_allowed)


@dataclass(frozen=True, slots=True)
class HTTPSettings:
    """Everything a worker's HTTP side can be told.

    Raises: ValueError if a number makes no sense.
    """

    limits: HTTPLimits = field(default_factory=HTTPLimits)
    timeouts: HTTPTimeouts = field(default_factory=HTTPTimeouts)

    min_threads: int = 1
    """Threads that a worker keeps even when nothing happens."""

    max_threads: int = 16
    """Threads that run the application at the same time in one worker."""

    max_streams: int = 256
    """Threads beside these that wait for the readers of streamed responses."""

    thread_idle_s: float = 10.0
    """A thread above the minimum that had no work for this long ends."""

    temporary_directory: str | None = None
    """Where temporary files go; None: the system's place for them."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_threads <= self.max_threads:
            raise ValueError(
                f"threads: need 1 <= min ({self.min_threads}) <= max ({self.max_threads})"
            )
        if self.max_streams < 0:
            raise ValueError(f"max_streams must not be below 0, but is {self.max_streams}")
        if self.thread_idle_s <= 0:
            raise ValueError(f"thread_idle_s must be above 0, not {self.thread_idle_s}")


def _check(settings: HTTPLimits | HTTPTimeouts, zero_allowed: set[str]) -> None:
    """Hold every number of `settings` against its lower bound."""
    for item in fields(settings):
        value = getattr(settings, item.name)
        # `not (... > 0)` instead of `<= 0`: NaN compares false with everything.
        if not (value > 0 or (value == 0 and item.name in zero_allowed)):
            raise ValueError(f"{item.name} must be above 0, not {value}")
