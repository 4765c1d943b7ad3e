"""The servers that are compared, and the command that starts each.

Equal budgets: one process on one core, the scenario's number of threads where a server has
threads, no access log, every other setting as the server ships it.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.scenarios import Scenario

ROOT: Final = Path(__file__).resolve().parent.parent
OURS: Final = "smart-http"

# port, application as MODULE:CALLABLE, threads -> arguments for the Python interpreter
Command = Callable[[int, str, int], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Server:
    """One server under test."""

    name: str
    needs: str  # the module without which it cannot run
    distribution: str  # the package whose version is reported; "" for files of this project
    command: Command
    has_threads: bool = True
    has_app: bool = True

    def argv(self, port: int, scenario: Scenario) -> list[str]:
        """Return the command that serves `scenario` at 127.0.0.1:`port`."""
        return [sys.executable, *self.command(port, scenario.app, scenario.threads)]

    def missing(self) -> str:
        """Return why this server cannot be started at all; empty if it can."""
        if importlib.util.find_spec(self.needs) is not None:
            return ""
        if not self.distribution:
            return f"{self.needs}.py is not there"
        return f"the package {self.distribution} is not installed"

    def unfit(self, scenario: Scenario) -> str:
        """Return why `scenario` says nothing about this server; empty if it does."""
        if not self.has_threads and scenario.blocks:
            return "one thread only"
        if not self.has_app and not scenario.app.endswith(":hello"):
            return "runs no application"
        return ""

    def version(self) -> str:
        """Return the version that is measured."""
        if self.distribution:
            return importlib.metadata.version(self.distribution)
        metadata = configparser.ConfigParser(interpolation=None)
        metadata.read(ROOT / "setup.cfg", encoding="utf-8")
        return metadata.get("metadata", "version", fallback="unknown")


def _smart_http(port: int, app: str, threads: int) -> tuple[str, ...]:
    workers = ("--min-workers", "1", "--max-workers", "1")
    return ("main.py", *workers, "--max-threads", str(threads), "--bind", _address(port), app)


def _gunicorn(port: int, app: str, threads: int) -> tuple[str, ...]:
    # The control socket is a file in the user's home: two servers would meet there.
    pool = ("-k", "gthread", "-w", "1", "--threads", str(threads), "--no-control-socket")
    return ("-m", "gunicorn", *pool, "-b", _address(port), app)


def _waitress(port: int, app: str, threads: int) -> tuple[str, ...]:
    return ("-m", "waitress", f"--threads={threads}", f"--listen={_address(port)}", app)


def _granian(port: int, app: str, threads: int) -> tuple[str, ...]:
    pool = ("--workers", "1", "--blocking-threads", str(threads), "--no-ws")
    return ("-m", "granian", "--interface", "wsgi", *pool, "--port", str(port), app)


def _bjoern(port: int, app: str, threads: int) -> tuple[str, ...]:
    return ("-m", "benchmarks.serve_bjoern", app, str(port))


def _canned(port: int, app: str, threads: int) -> tuple[str, ...]:
    return ("-m", "benchmarks.canned", str(port))


def _address(port: int) -> str:
    return f"127.0.0.1:{port}"


SERVERS: Final = (
    Server(OURS, "main", "", _smart_http),
    Server("gunicorn", "gunicorn", "gunicorn", _gunicorn),
    Server("waitress", "waitress", "waitress", _waitress),
    Server("granian", "granian", "granian", _granian),
    Server("bjoern", "bjoern", "bjoern", _bjoern, has_threads=False),
    Server("canned", "benchmarks.canned", "", _canned, has_threads=False, has_app=False),
)
