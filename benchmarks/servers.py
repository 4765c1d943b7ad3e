"""The servers that are compared, and the command that starts each.

Equal budgets: one process on one core, the scenario's number of threads where a server has
threads, no access log, every other setting as the server ships it, but where its defaults
refuse what a scenario asks (`Server.options`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.apache import APACHE
from benchmarks.server import ROOT, Command, Server

__all__ = ["CANNED", "OURS", "ROOT", "SERVERS", "Command", "Server", "ours"]

OURS: Final = "smart-http"
CANNED: Final = "canned"
_CROWD: Final = "20000"  # beyond the connections of any scenario


def ours(directory: Path = ROOT, name: str = OURS) -> Server:
    """Return this project's server as `main.py` in `directory` starts it.

    The applications under test are those of this tree in any case.
    """
    main = "main.py" if directory == ROOT else str(directory / "main.py")

    def command(port: int, app: str, threads: int) -> tuple[str, ...]:
        workers = ("--min-workers", "1", "--max-workers", "1", "--max-threads", str(threads))
        return (main, "--chdir", str(ROOT), *workers, "--bind", _address(port), app)

    crowd = {"crowd": ("--max-connections", _CROWD)}
    return Server(name, "main", "", command, options=crowd, root=directory)


def _gunicorn(port: int, app: str, threads: int) -> tuple[str, ...]:
    # The control socket is a file in the user's home: two servers would meet there.
    pool = ("-k", "gthread", "-w", "1", "--threads", str(threads), "--no-control-socket")
    return ("-m", "gunicorn", *pool, "-b", _address(port), app)


def _waitress(port: int, app: str, threads: int) -> tuple[str, ...]:
    return ("-m", "waitress", f"--threads={threads}", f"--listen={_address(port)}", app)


def _cheroot(port: int, app: str, threads: int) -> tuple[str, ...]:
    pool = ("--threads", str(threads), "--max-threads", str(threads))
    return ("-m", "cheroot", app, "--bind", _address(port), *pool)


def _uwsgi(port: int, app: str, threads: int) -> tuple[str, ...]:
    # Without its router (--http11-socket) a thread belongs to a connection for as long as it is
    # open: 32 connections would need 32 threads, and with fewer some never get an answer.
    pool = ("--threads", str(threads), "--http", _address(port), "--http-keepalive")
    return ("-m", "benchmarks.serve_uwsgi", *pool, "--wsgi", app)


def _granian(port: int, app: str, threads: int) -> tuple[str, ...]:
    pool = ("--workers", "1", "--blocking-threads", str(threads), "--no-ws")
    return ("-m", "granian", "--interface", "wsgi", *pool, "--port", str(port), app)


def _bjoern(port: int, app: str, threads: int) -> tuple[str, ...]:
    return ("-m", "benchmarks.serve_bjoern", app, str(port))


def _fastpysgi(port: int, app: str, threads: int) -> tuple[str, ...]:
    return ("-m", "benchmarks.serve_fastpysgi", app, str(port))


def _canned(port: int, app: str, threads: int) -> tuple[str, ...]:
    return ("-m", "benchmarks.canned", str(port))


def _address(port: int) -> str:
    return f"127.0.0.1:{port}"


_ONE_OF_A_BATCH: Final = {"pipelined": "answers the first only of requests sent together"}

SERVERS: Final = (
    ours(),
    Server(
        "gunicorn",
        "gunicorn",
        "gunicorn",
        _gunicorn,
        options={"crowd": ("--worker-connections", _CROWD)},
    ),
    Server(
        "waitress",
        "waitress",
        "waitress",
        _waitress,
        # select(2) cannot see a descriptor above 1,023
        options={"crowd": (f"--connection-limit={_CROWD}", "--asyncore-use-poll")},
    ),
    Server(
        "cheroot",
        "cheroot",
        "cheroot",
        _cheroot,
        cannot={"crowd": "keeps no more than ten connections open that are idle"},
    ),
    Server("uwsgi", "pyuwsgi", "pyuwsgi", _uwsgi, cannot=_ONE_OF_A_BATCH),
    Server("granian", "granian", "granian", _granian),
    Server("bjoern", "bjoern", "bjoern", _bjoern, has_threads=False, cannot=_ONE_OF_A_BATCH),
    Server(
        "fastpysgi",
        "fastpysgi",
        "fastpysgi",
        _fastpysgi,
        has_threads=False,
        options={"upload": ("--max-content-length", "1000000000")},
    ),
    APACHE,
    Server(
        CANNED,
        "benchmarks.canned",
        "",
        _canned,
        has_threads=False,
        has_app=False,
        options={"pipelined": ("--pipelined",)},
    ),
)
