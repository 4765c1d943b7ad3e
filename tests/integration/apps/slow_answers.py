"""Responses that come late or never, hints before them, and whether their client is there."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

TEXT = ("Content-Type", "text/plain")
LOCK = threading.Lock()
LOCK.acquire()
HALT = threading.Event()
MEETINGS: dict[int, threading.Barrier] = {}
LATE = b"late" * 2000


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer as the path says."""
    return VIEWS[environ["PATH_INFO"].strip("/")](environ, start_response)


def asked(environ: WSGIEnvironment, name: str, default: str = "0") -> str:
    """Return a parameter of the query."""
    values = parse_qs(environ["QUERY_STRING"]).get(name)
    return values[0] if values else default


def whole(start_response: StartResponse, content: bytes) -> Iterable[bytes]:
    """A response in one piece."""
    start_response("200 OK", [TEXT, ("Content-Length", str(len(content)))])
    return [content]


def ready(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """An ordinary response."""
    return whole(start_response, b"ready\n")


def whoami(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The process that answers."""
    return whole(start_response, json.dumps({"pid": os.getpid()}).encode())


def mark(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """What was asked for, and nothing else."""
    return whole(start_response, asked(environ, "token").encode() * 100)


def meet(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Wait for others: `count` requests run at once, or none of them ends."""
    count = int(asked(environ, "count"))
    meeting = MEETINGS.setdefault(count, threading.Barrier(count))
    try:
        meeting.wait(20)
    except threading.BrokenBarrierError:
        return whole(start_response, b"alone\n")
    return whole(start_response, b"met\n")


def hold(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Stand still until the test lets go of a FIFO, then say which process that was."""
    with open(asked(environ, "fifo")) as fifo:
        fifo.read()
    return whoami(environ, start_response)


# --- too late, or never ---------------------------------------------------------------


def sleeps_for_long(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Sleep."""
    time.sleep(60)
    return whole(start_response, LATE)


def waits_for_a_lock(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Wait for what nobody will release."""
    with LOCK:
        return whole(start_response, LATE)


def computes_for_ever(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Compute until /halt."""
    while not HALT.is_set():
        sum(range(1000))
    return whole(start_response, LATE)


def halt(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """End computes_for_ever."""
    HALT.set()
    return ready(environ, start_response)


def late(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer after `ms`, in one of the ways there are."""
    kind = asked(environ, "kind", "list")
    if kind == "generator":
        return _late(environ, start_response)
    time.sleep(int(asked(environ, "ms")) / 1000)
    if kind == "error":
        raise LookupError("too late to find anything")
    if kind == "hints":
        environ["wsgi.early_hints"]([("Link", "</late>")])
    if kind == "write":
        start_response("200 OK", [TEXT])(LATE)
        return []
    if kind == "file":
        start_response("200 OK", [TEXT])
        content = tempfile.TemporaryFile()  # noqa: SIM115 - the server closes it
        content.write(LATE)
        content.seek(0)
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](content)
        return wrapped
    return whole(start_response, LATE)


def _late(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    time.sleep(int(asked(environ, "ms")) / 1000)
    yield LATE[:4000]
    yield LATE[4000:]


def begun(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """A piece at once, and another after `ms` or when a FIFO is let go of."""
    start_response("200 OK", [TEXT])
    yield b"begun, "
    if fifo := asked(environ, "fifo", ""):
        hold({**environ, "QUERY_STRING": f"fifo={fifo}"}, lambda *_: lambda _: None)
    else:
        time.sleep(int(asked(environ, "ms")) / 1000)
    yield b"ended by %d" % os.getpid()


# --- hints ------------------------------------------------------------------------------


def hints(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """`count` hints, then a response; with `ms` between."""
    for number in range(int(asked(environ, "count", "1"))):
        environ["wsgi.early_hints"]([("Link", f"</style{number}.css>; rel=preload")])
    if asked(environ, "bad") != "0":
        environ["wsgi.early_hints"]([("Link", "two\r\nlines")])
    time.sleep(int(asked(environ, "ms")) / 1000)
    return whole(start_response, b"hinted\n")


def hints_too_late(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Hints when the response has begun: nobody wants them any more."""
    start_response("200 OK", [TEXT])
    yield b"one "
    environ["wsgi.early_hints"]([("Link", "</style.css>")])
    yield b"two\n"


# --- is anybody there? ---------------------------------------------------------------


def gone(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Wait until the client is gone, and write down what was seen."""
    seen = [_is_gone(environ)]
    started = ready(environ, start_response)
    _wait(environ, seen)
    return started


def gone_streaming(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """The same from a generator, between two pieces."""
    start_response("200 OK", [TEXT])
    yield b"piece"
    seen = [_is_gone(environ)]
    _wait(environ, seen)


def there(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Whether the client is gone."""
    return whole(start_response, json.dumps(_is_gone(environ)).encode())


def _is_gone(environ: WSGIEnvironment) -> bool:
    gone = environ["smart_http.client_gone"]()
    assert isinstance(gone, bool)
    assert environ["waitress.client_disconnected"]() in (gone, True)
    return gone


def _wait(environ: WSGIEnvironment, seen: list[bool]) -> None:
    name = asked(environ, "note")
    os.close(os.open(f"{name}.begun", os.O_WRONLY | os.O_CREAT))
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s and not seen[-1]:
        if asked(environ, "busy") == "0":
            time.sleep(0.01)
        seen.append(_is_gone(environ))
    with open(f"{name}.new", "w") as file:
        json.dump({"first": seen[0], "last": seen[-1]}, file)
    os.rename(f"{name}.new", name)


VIEWS = {
    view.__name__: view
    for view in (
        ready,
        whoami,
        mark,
        meet,
        hold,
        sleeps_for_long,
        waits_for_a_lock,
        computes_for_ever,
        halt,
        late,
        begun,
        hints,
        hints_too_late,
        gone,
        gone_streaming,
        there,
    )
}
