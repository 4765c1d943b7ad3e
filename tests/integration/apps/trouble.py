"""An application that stands still, or falls, when it is asked to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Do what the path says, then answer with the pid."""
    path = environ["PATH_INFO"]
    if path == "/hold":
        # Opening a FIFO waits for somebody who opens its other end, reading for the end-of-file.
        with open(os.environ["HOLD"]) as hold:
            hold.read()
    elif path == "/sleep":
        time.sleep(int(environ["QUERY_STRING"].partition("=")[2]) / 1000)
    elif path == "/exit":
        os._exit(7)
    elif path == "/segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif path == "/spawn":
        # A program that outlives the request, and the server if nobody ends it.
        subprocess.Popen(["cat", os.environ["HOLD"]], stdout=subprocess.DEVNULL)
    content = json.dumps({"pid": os.getpid(), "path": path}).encode()
    head = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
    start_response("200 OK", head)
    return [content]
