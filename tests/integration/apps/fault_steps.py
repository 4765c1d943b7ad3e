"""An application that makes the server's own steps stop, or kill their process, on demand.

A symbolic link in the directory STEPS, named like a step, says what is to happen there (to
read it takes no descriptor, of which there may be none):

    kill PID COUNT    the process dies by SIGKILL when it comes there with the COUNTth connection
    wait PID COUNT    it stands there until STEPS/<step>.go is there; STEPS/<step>.at says
                      which process it is

PID 0 is whoever comes first, -PID anybody but that one. Without such a link nothing happens
but a look for it.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from httpcore_srv.departure import Departure
from httpcore_srv.door import Door
from httpcore_srv.event_loop import EventLoop
from httpcore_srv.server import HTTPServer
from httpcore_srv.stream import Stream
from spm.pidfd import PidFD
from spm.siblings import Inboxes, Siblings
from spm.slot import Slot
from spm.template import Template

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

STEPS = os.environ["STEPS"]
CAP_SYS_ADMIN = 21
CAP_SYS_RESOURCE = 24
_CAPABILITIES_VERSION = 0x20080522

sent = 0  # connections that this process has given away


def at(step: str) -> None:
    """Do what the test wants to happen here."""
    path = os.path.join(STEPS, step)
    try:
        action, pid, count = os.readlink(path).split()
    except FileNotFoundError:
        return
    # An attempt may fail and be made again, so what is counted are those that did not.
    connection = sent if step == "sent" else sent + 1
    meant = int(pid) in (0, os.getpid()) or (pid[0] == "-" and int(pid) != -os.getpid())
    if not meant or connection < int(count):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif not os.path.exists(f"{path}.at"):
        with open(f"{path}.new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(f"{path}.new", f"{path}.at")
        while not os.path.exists(f"{path}.go"):
            time.sleep(0.005)


def count_sent(result: bool) -> bool:
    """Count what a sibling has been given."""
    global sent
    sent += result
    return result


def patch(
    owner: type, name: str, before: str = "", after: str = "", only: Callable[[Any], bool] = bool
) -> None:
    """Put a step before a method, or after it if its result is such a one."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def stepped(*args: Any, **more: Any) -> Any:
        if before:
            at(before)
        result = original(*args, **more)
        if after and only(result):
            at(after)
        return result

    setattr(owner, name, stepped)


def whatever(result: object) -> bool:
    """Whatever the method returns."""
    return True


# In the order in which a connection goes through them. Of the sender:
patch(Departure, "_begin", before="ordered")
patch(Door, "stop_listening", after="unlistened", only=whatever)
patch(Stream, "parcel", after="packed", only=lambda parcel: parcel is not None)
patch(Stream, "unwatch", after="unwatched", only=whatever)
patch(Siblings, "send", before="sending", after="sent", only=count_sent)
patch(Slot, "exiting", after="exiting", only=whatever)
patch(Departure, "_last_look", before="looking", after="looked", only=whatever)
patch(EventLoop, "close", before="closing")
# Of the receiver:
patch(Siblings, "receive", before="receiving", after="received")
patch(HTTPServer, "adopt", after="adopted", only=whatever)
# Of the template:
patch(Template, "_fork", before="forking")
patch(PidFD, "__init__", after="forked", only=whatever)  # before the manager is told


def limit_descriptors_on_their_way() -> None:
    """Give up what lets root have any number of descriptors on their way (unix(7))."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) == 0:
        for capability in (CAP_SYS_ADMIN, CAP_SYS_RESOURCE):
            sets[0] &= ~(1 << capability)
        libc.capset(header, sets)


def shrink_inboxes(size: int) -> None:
    """Let no more than a few parcels fit into an inbox."""
    put = Inboxes.put

    def put_into_little(inboxes: Inboxes, slot: int, message: bytes, fd: int) -> bool:
        sender = inboxes._senders[slot]  # there is no other way
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        return put(inboxes, slot, message, fd)

    Inboxes.put = put_into_little  # type: ignore[method-assign]


if "INBOX_BYTES" in os.environ:
    shrink_inboxes(int(os.environ["INBOX_BYTES"]))
if "FEW_ON_THEIR_WAY" in os.environ:
    limit_descriptors_on_their_way()


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Say who answers and what has come, after what the path says."""
    path = environ["PATH_INFO"]
    body = environ["wsgi.input"].read()
    if path == "/hold":
        with open(os.environ["HOLD"]) as hold:
            hold.read()
    elif path == "/sleep":
        time.sleep(0.02)
    elif path == "/gil":
        time.sleep(0.05)  # until this worker's leader stands in epoll again
        with open(os.path.join(STEPS, "gil"), "w"):
            sum(range(int(environ["QUERY_STRING"])))  # in C, and nobody else has the GIL meanwhile
    elif path == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return stream(str(os.getpid()).encode())
    elif path == "/large":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"%d\n" % os.getpid(), bytes(int(environ["QUERY_STRING"]))]
    content = json.dumps({"pid": os.getpid(), "path": path, "body": body.decode("latin-1")})
    head = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
    status = "403 Forbidden" if environ["REQUEST_METHOD"] == "CONNECT" else "200 OK"
    start_response(status, head)
    return [content.encode()]


def stream(first: bytes) -> Iterator[bytes]:
    """Yield pieces; after the first one, wait to be told to go on."""
    yield first
    with open(os.environ["HOLD"]) as hold:
        hold.read()
    for number in range(5):
        yield b" %d" % number
