"""An application that writes down what is called in which process, and in which thread."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

connected = 0  # the process that after_fork was called in

not_callable = "no hook"


def note(what: str) -> None:
    """Write a line: process, what, and whether its main thread did it."""
    where = "main" if threading.current_thread() is threading.main_thread() else "other"
    fd = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{os.getpid()} {what} {where}\n".encode())
    os.close(fd)


def after_fork() -> None:
    """Connect, unless a file says that the database is away."""
    global connected
    if Path(os.environ["JOURNAL"]).with_name("away").exists():
        raise LookupError("the database is away")
    note("after_fork")
    connected = os.getpid()


def before_exit() -> None:
    """Say goodbye."""
    note("before_exit")


def failing() -> None:
    """Fall over while saying goodbye."""
    note("before_exit")
    raise LookupError("nobody to say goodbye to")


def stuck() -> None:
    """Never end."""
    note("before_exit")
    time.sleep(3600)


def wants(database: str) -> None:
    """Be no hook: it cannot be called."""


async def waits() -> None:
    """Be no hook: nobody would await it."""


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the process and the one that has connected."""
    if environ["PATH_INFO"] == "/hold":
        with open(os.environ["HOLD"]) as hold:
            hold.read()
    note("request")
    content = f"{os.getpid()} {connected}".encode()
    start_response("200 OK", [("Content-Length", str(len(content)))])
    return [content]
