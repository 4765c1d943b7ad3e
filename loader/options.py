"""Every option, once: click's parameters, the environment, `--check` and the README's table
are all made from `OPTIONS`. What comes out is one frozen `Options`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from . import values
from .bind import Bind, parse_bind, parse_binds, parse_port
from .option_spec import OptionSpec
from .target import Target, parse_target

# The manager's own bounds (spm/settings.py): a slot costs two descriptors in every process.
MOST_WORKERS: Final = 512
_MOST_THREADS: Final = 1024
_DAY_S: Final = 86_400.0
DEFAULT_MAX_THREADS: Final = 16
DEFAULT_MAX_STREAMS: Final = 256


APPLICATION: Final = "Application"
LISTENING: Final = "Listening"
WORKERS: Final = "Workers and threads"
TIMEOUTS: Final = "Timeouts"
LIMITS: Final = "Limits"
OPERATIONS: Final = "Logging and operations"
SECTIONS: Final = (APPLICATION, LISTENING, WORKERS, TIMEOUTS, LIMITS, OPERATIONS)

OPTIONS: Final[tuple[OptionSpec, ...]] = (
    OptionSpec(
        "lode",
        "target",
        APPLICATION,
        "TARGET",
        parse_target,
        "",
        "The application: '--lode:MODULE->CALLABLE', --lode MODULE:CALLABLE, or MODULE:CALLABLE"
        " alone. MODULE:make() calls a factory.",
        default_text="required",
    ),
    OptionSpec(
        "chdir",
        "directory",
        APPLICATION,
        "DIR",
        values.directory,
        ".",
        "The directory to go to and to import the application from.",
        default_text="the current one",
    ),
    OptionSpec(
        "no-preload",
        "preload",
        APPLICATION,
        "",
        values.switch_off,
        "no",
        "Import the application in every worker, not once in a template that they share.",
        opposite="preload",
    ),
    OptionSpec(
        "bind",
        "binds",
        LISTENING,
        "ADDRESS",
        parse_bind,
        "127.0.0.1:8080",
        "Where to listen: HOST:PORT, [IPV6]:PORT, :PORT for all interfaces, unix:PATH; port 0"
        " takes a free one. May be repeated (in the environment: separated by commas).",
        short="b",
        read_list=parse_binds,
    ),
    OptionSpec(
        "port",
        "",
        LISTENING,
        "N",
        parse_port,
        "",
        "Short for --bind 127.0.0.1:N.",
    ),
    OptionSpec(
        "backlog",
        "backlog",
        LISTENING,
        "N",
        values.count(1, 65_535),
        "2048",
        "Connections that the kernel may hold until a worker accepts them"
        " (net.core.somaxconn caps it).",
    ),
    OptionSpec(
        "min-workers",
        "min_workers",
        WORKERS,
        "N",
        values.count(1, MOST_WORKERS),
        "1",
        "Worker processes that stay when there is nothing to do.",
    ),
    OptionSpec(
        "max-workers",
        "max_workers",
        WORKERS,
        "N",
        values.count(1, MOST_WORKERS),
        "",
        "Worker processes at the most.",
        default_text="2 x cores, at least 4",
    ),
    OptionSpec(
        "min-threads",
        "min_threads",
        WORKERS,
        "N",
        values.count(1, _MOST_THREADS),
        "1",
        "Threads of each worker that stay when there is nothing to do.",
    ),
    OptionSpec(
        "max-threads",
        "max_threads",
        WORKERS,
        "N",
        values.count(1, _MOST_THREADS),
        "",
        "Threads of each worker at the most; 1 for an application that is not thread-safe.",
        default_text=str(DEFAULT_MAX_THREADS),
    ),
    OptionSpec(
        "max-streams",
        "max_streams",
        WORKERS,
        "N",
        values.count(0, _MOST_THREADS),
        "",
        "Threads of each worker beside these, for responses that are streamed to slow readers or"
        " for long; beyond, such a response takes one of --max-threads.",
        default_text=f"{DEFAULT_MAX_STREAMS}; 0 with --max-threads 1",
    ),
    OptionSpec(
        "keep-alive",
        "keep_alive_s",
        TIMEOUTS,
        "SECONDS",
        values.seconds(0.1, _DAY_S, zero="off"),
        "75",
        "How long an idle connection is kept open for its next request; 0 closes after each.",
    ),
    OptionSpec(
        "header-timeout",
        "header_timeout_s",
        TIMEOUTS,
        "SECONDS",
        values.seconds(0.1, _DAY_S),
        "15",
        "How long a request's head may take to arrive, from its first byte.",
    ),
    OptionSpec(
        "body-timeout",
        "body_timeout_s",
        TIMEOUTS,
        "SECONDS",
        values.seconds(0.1, _DAY_S),
        "30",
        "How long to wait between two pieces of a request's body.",
    ),
    OptionSpec(
        "write-timeout",
        "write_timeout_s",
        TIMEOUTS,
        "SECONDS",
        values.seconds(0.1, _DAY_S),
        "60",
        "How long a client may take nothing of its response.",
    ),
    OptionSpec(
        "linger-timeout",
        "linger_timeout_s",
        TIMEOUTS,
        "SECONDS",
        values.seconds(0.1, _DAY_S),
        "2",
        "How long to go on reading after a last response, so that the client can read it.",
    ),
    OptionSpec(
        "min-rate",
        "min_rate",
        TIMEOUTS,
        "BYTES",
        values.size(1, 1 << 30, zero="off"),
        "240",
        "What a client must send of a body, or take of a response, per second on the average,"
        " once --body-timeout or --write-timeout have passed; 0 for any progress.",
    ),
    OptionSpec(
        "request-timeout",
        "request_timeout_s",
        TIMEOUTS,
        "SECONDS",
        values.seconds(0.1, _DAY_S, zero="off"),
        "0",
        "How long the application may take to begin its response (504 beyond; the thread is"
        " written off and replaced, its stack is logged).",
        default_text="off",
    ),
    OptionSpec(
        "queue-timeout",
        "queue_timeout_s",
        TIMEOUTS,
        "SECONDS",
        values.seconds(0.1, _DAY_S, zero="off"),
        "0",
        "How long a request may wait for a free thread (503 with Retry-After beyond).",
        default_text="off",
    ),
    OptionSpec(
        "graceful-timeout",
        "graceful_timeout_s",
        TIMEOUTS,
        "SECONDS",
        values.seconds(0.1, _DAY_S),
        "30",
        "How long running requests may take to finish after SIGTERM, or in a worker that leaves.",
    ),
    OptionSpec(
        "max-body",
        "max_body_bytes",
        LIMITS,
        "BYTES",
        values.size(1, 1 << 50, zero="no limit"),
        "1g",
        "The largest request body (413 beyond); k, m, g are understood; 0 for no limit.",
    ),
    OptionSpec(
        "body-buffer",
        "body_buffer_bytes",
        LIMITS,
        "BYTES",
        values.size(1, 1 << 30),
        "512k",
        "Request bodies above it wait in a temporary file.",
    ),
    OptionSpec(
        "max-buffered",
        "max_buffered_bytes",
        LIMITS,
        "BYTES",
        values.size(1 << 16, 1 << 40),
        "128m",
        "Unfinished bodies and unsent responses of each worker in memory; beyond, they wait"
        " in temporary files.",
    ),
    OptionSpec(
        "temp-dir",
        "temporary_directory",
        LIMITS,
        "DIR",
        values.writable_directory,
        "",
        "Where temporary files go; they have no name there.",
        default_text="the system's",
    ),
    OptionSpec(
        "max-request-line",
        "max_request_line_bytes",
        LIMITS,
        "BYTES",
        values.size(64, 1 << 20),
        "8190",
        "The request line (414 beyond).",
    ),
    OptionSpec(
        "max-header-bytes",
        "max_header_bytes",
        LIMITS,
        "BYTES",
        values.size(256, 16 << 20),
        "64k",
        "All header lines of one request together (431 beyond).",
    ),
    OptionSpec(
        "max-headers",
        "max_headers",
        LIMITS,
        "N",
        values.count(1, 10_000),
        "100",
        "The most header fields in one request (431 beyond).",
    ),
    OptionSpec(
        "max-trailer-bytes",
        "max_trailer_bytes",
        LIMITS,
        "BYTES",
        values.size(64, 1 << 20),
        "8k",
        "The trailer section of a chunked body (431 beyond).",
    ),
    OptionSpec(
        "max-chunk-extension",
        "max_chunk_extension_bytes",
        LIMITS,
        "BYTES",
        values.size(1, 1 << 16, zero="none"),
        "1k",
        "The extensions of one chunk (400 beyond).",
    ),
    OptionSpec(
        "max-chunk-overhead",
        "max_chunk_overhead_bytes",
        LIMITS,
        "BYTES",
        values.size(64, 1 << 30),
        "64k",
        "How much of a chunked body may be sizes and line ends, beyond twice its data (400).",
    ),
    OptionSpec(
        "max-connections",
        "max_connections",
        LIMITS,
        "N",
        values.count(1, 1_000_000),
        "10000",
        "Open connections of each worker; at the limit idle ones are closed, else none is"
        " accepted.",
    ),
    OptionSpec(
        "max-connections-per-address",
        "max_connections_per_address",
        LIMITS,
        "N",
        values.count(0, 1_000_000),
        "0",
        "Open connections of each worker from one address (503 beyond); not for use behind a"
        " proxy.",
        default_text="off",
    ),
    OptionSpec(
        "underscore-headers",
        "refuse_underscores",
        LIMITS,
        "drop|refuse",
        values.choice({"drop": False, "refuse": True}),
        "drop",
        "Header fields whose names have an underscore, which a proxy may take for others:"
        " left out, or the request refused (400).",
    ),
    OptionSpec(
        "connect",
        "pass_connect",
        LIMITS,
        "refuse|pass",
        values.choice({"refuse": False, "pass": True}),
        "refuse",
        "CONNECT requests: refused (501), or passed to the application.",
    ),
    OptionSpec(
        "log-level",
        "log_level",
        OPERATIONS,
        "LEVEL",
        values.log_level,
        "info",
        "How much to say on standard error: debug, info, warning, error or critical.",
    ),
    OptionSpec(
        "access-log",
        "access_log",
        OPERATIONS,
        "FILE",
        values.output_file_or_stderr,
        "",
        "A line for every request; - is standard error.",
        default_text="off",
    ),
    OptionSpec(
        "pid",
        "pid_file",
        OPERATIONS,
        "FILE",
        values.output_file,
        "",
        "Write the manager's process id here; removed at the end.",
        default_text="none",
    ),
    OptionSpec(
        "metrics-interval",
        "metrics_interval_s",
        OPERATIONS,
        "SECONDS",
        values.seconds(0.1, _DAY_S, zero="off"),
        "0",
        "Print the readout (Total, Busy, Idle, KillPending ...) on standard error this often.",
        default_text="off",
    ),
    OptionSpec(
        "check",
        "check",
        OPERATIONS,
        "",
        values.switch,
        "no",
        "Load the application, print the settings in force, and end.",
        default_text="no",
    ),
)

BY_NAME: Final[Mapping[str, OptionSpec]] = {spec.name: spec for spec in OPTIONS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything that was decided before the server starts. Units stand in the names.

    directory: absolute; where the application is imported from.
    max_body_bytes: 0 for no limit.
    keep_alive_s: 0 for none. metrics_interval_s: 0 for no readout.
    min_rate (bytes per second), request_timeout_s, queue_timeout_s: 0 for none.
    temporary_directory: absolute path; None for the system's.
    access_log: absolute path, `-` for standard error, None for none.
    pid_file: absolute path or None.
    notices: lines to print on standard error before the server starts.
    sources: option name -> where its value came from, in words.
    """

    target: Target
    directory: str
    preload: bool
    binds: tuple[Bind, ...]
    backlog: int
    min_workers: int
    max_workers: int
    min_threads: int
    max_threads: int
    max_streams: int
    keep_alive_s: float
    header_timeout_s: float
    body_timeout_s: float
    write_timeout_s: float
    linger_timeout_s: float
    min_rate: int
    request_timeout_s: float
    queue_timeout_s: float
    graceful_timeout_s: float
    max_body_bytes: int
    body_buffer_bytes: int
    max_buffered_bytes: int
    temporary_directory: str | None
    max_request_line_bytes: int
    max_header_bytes: int
    max_headers: int
    max_trailer_bytes: int
    max_chunk_extension_bytes: int
    max_chunk_overhead_bytes: int
    max_connections: int
    max_connections_per_address: int
    refuse_underscores: bool
    pass_connect: bool
    log_level: str
    access_log: str | None
    pid_file: str | None
    metrics_interval_s: float
    check: bool
    notices: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
