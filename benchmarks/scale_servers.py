"""The commands of the servers where workers, threads or connections are more than usual."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.servers import OURS, SERVERS, Server

_KEEP_S: Final = 120  # longer than any curve takes
_MORE_CONNECTIONS: Final = 200  # those of the load generator and of the probes


@dataclass(frozen=True, slots=True)
class Budget:
    """What a server may use.

    connections: how many it has to hold; 0: whatever it holds as it is shipped.
    """

    workers: int = 1
    threads: int = 8
    connections: int = 0


def _smart_http(port: int, app: str, budget: Budget) -> tuple[str, ...]:
    count = str(budget.workers)
    pool = ("--min-workers", count, "--max-workers", count, "--max-threads", str(budget.threads))
    room: tuple[str, ...] = ()
    if budget.connections:
        room = ("--max-connections", str(budget.connections + _MORE_CONNECTIONS))
    return ("main.py", *pool, *room, "--bind", _address(port), app)


def _gunicorn(port: int, app: str, budget: Budget) -> tuple[str, ...]:
    pool = ("-k", "gthread", "-w", str(budget.workers), "--threads", str(budget.threads))
    room: tuple[str, ...] = ()
    if budget.connections:
        limit = str(budget.connections + _MORE_CONNECTIONS)
        room = ("--worker-connections", limit, "--keep-alive", str(_KEEP_S))
    return ("-m", "gunicorn", *pool, *room, "--no-control-socket", "-b", _address(port), app)


def _waitress(port: int, app: str, budget: Budget) -> tuple[str, ...]:
    room: tuple[str, ...] = ()
    if budget.connections:
        limit = budget.connections + _MORE_CONNECTIONS
        # select() has no room for descriptors beyond 1024.
        room = (
            f"--connection-limit={limit}",
            f"--channel-timeout={_KEEP_S}",
            "--asyncore-use-poll",
        )
    listen = f"--listen={_address(port)}"
    return ("-m", "waitress", f"--threads={budget.threads}", *room, listen, app)


def _granian(port: int, app: str, budget: Budget) -> tuple[str, ...]:
    pool = ("--workers", str(budget.workers), "--blocking-threads", str(budget.threads))
    room: tuple[str, ...] = ()
    if budget.connections:
        # What it calls requests under backpressure are connections.
        limit = str(budget.connections + _MORE_CONNECTIONS)
        room = ("--http1-header-read-timeout", "60000", "--backpressure", limit)
    return (
        "-m",
        "granian",
        "--interface",
        "wsgi",
        *pool,
        "--no-ws",
        *room,
        "--port",
        str(port),
        app,
    )


def _bjoern(port: int, app: str, budget: Budget) -> tuple[str, ...]:
    return ("-m", "benchmarks.serve_bjoern", app, str(port))


def _address(port: int) -> str:
    return f"127.0.0.1:{port}"


_Command = Callable[[int, str, Budget], tuple[str, ...]]
COMMANDS: Final[Mapping[str, _Command]] = {
    OURS: _smart_http,
    "gunicorn": _gunicorn,
    "waitress": _waitress,
    "granian": _granian,
    "bjoern": _bjoern,
}
ONE_PROCESS: Final = frozenset({"waitress", "bjoern"})


def scalable() -> list[Server]:
    """Return the servers that the curves are made for, as the suite knows them."""
    return [server for server in SERVERS if server.name in COMMANDS]


def with_budget(server: Server, budget: Budget) -> Server:
    """Return the server with a command that keeps to `budget`."""
    command = COMMANDS[server.name]
    return dataclasses.replace(
        server, command=lambda port, app, threads: command(port, app, budget)
    )
