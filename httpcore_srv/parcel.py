"""What travels with a connection that is handed to another worker.

The message stands beside the descriptor in one SEQPACKET datagram. Siblings are
forks of one program; a server that replaces another may be of another version, so
whoever changes the message changes FORMAT as well.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

FORMAT: Final = 1
MAX_UNPARSED_BYTES: Final = 65536  # more than that, and the connection finishes where it is
MAX_HOPS: Final = 3  # handed on so often without a request served: it stays

_HEADER: Final = struct.Struct("=QHQ")


class Parcel(NamedTuple):
    """A connection on its way: all that is not in its socket."""

    hops: int
    listener: int  # index of the listener that accepted it
    deadline_ns: int  # CLOCK_MONOTONIC, the same clock in all processes
    unparsed: bytes  # received by the sender and not used: the receiver parses it first

    def encode(self) -> bytes:
        """Return the message."""
        return _HEADER.pack(self.hops, self.listener, self.deadline_ns) + self.unparsed


def decode(message: bytes) -> Parcel:
    """Read a message that `Parcel.encode` wrote."""
    hops, listener, deadline_ns = _HEADER.unpack_from(message)
    return Parcel(hops, listener, deadline_ns, message[_HEADER.size :])
