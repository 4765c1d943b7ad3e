"""`fault_wire:app` with an appetite: for address space, and for memory when it is asked."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fault_wire import app as wire

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

# So that a process whose address space is bounded can get memory, but no thread.
STACK_BYTES = 256 << 20
threading.stack_size(STACK_BYTES)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Take as many megabytes as the query says, if the path is /eat, and give them back."""
    if environ["PATH_INFO"] == "/eat":
        bytearray(int(environ["QUERY_STRING"].partition("&")[0]) << 20)
    return wire(environ, start_response)
