"""Options: everything that was decided before the server starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .bind import Bind
from .target import Target


class Options(NamedTuple):
    """Everything that was decided before the server starts. Units stand in the names.

    directory: absolute; where the application is imported from.
    max_body_bytes: 0 for no limit.
    keep_alive_s: 0 for none. metrics_interval_s: 0 for no readout.
    min_rate (bytes per second), request_timeout_s, queue_timeout_s, worker_timeout_s: 0 for none.
    temporary_directory: absolute path; None for the system's.
    access_log: absolute path, `-` for standard error, None for none.
    pid_file: absolute path or None.
    notices: lines to print on standard error before the server starts.
    sources: option name -> where its value came from, in words.
    """

    target: Target
    directory: str
    preload: bool
    after_fork: Target | None
    before_exit: Target | None
    binds: tuple[Bind, ...]
    backlog: int
    min_workers: int
    max_workers: int
    min_threads: int
    max_threads: int
    max_streams: int
    max_requests: int
    max_requests_jitter: int
    max_age_s: float
    max_worker_memory_bytes: int
    memory_limit_bytes: int
    keep_alive_s: float
    header_timeout_s: float
    body_timeout_s: float
    write_timeout_s: float
    linger_timeout_s: float
    min_rate: int
    request_timeout_s: float
    queue_timeout_s: float
    worker_timeout_s: float
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
    reload: bool
    reload_includes: tuple[str, ...]
    log_level: str
    access_log: str | None
    pid_file: str | None
    metrics_interval_s: float
    check: bool
    notices: tuple[str, ...]
    sources: Mapping[str, str]
