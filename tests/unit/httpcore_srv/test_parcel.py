"""Parcel: what travels with a connection arrives as it was."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpcore_srv.parcel import MAX_HOPS, MAX_UNPARSED_BYTES, Parcel, decode

words = st.integers(0, (1 << 64) - 1)


@given(st.integers(0, 255), st.integers(0, 65535), words, st.binary(max_size=300))
def test_a_parcel_is_read_as_it_was_written(
    hops: int, listener: int, deadline_ns: int, unparsed: bytes
) -> None:
    parcel = Parcel(hops, listener, deadline_ns, unparsed)
    assert decode(parcel.encode()) == parcel


def test_the_largest_parcel_fits_into_one_datagram_beside_its_descriptor() -> None:
    parcel = Parcel(MAX_HOPS, 3, 1 << 60, b"\xff" * MAX_UNPARSED_BYTES)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        socket.send_fds(ours, [parcel.encode()], [ours.fileno()])
        message, fds, flags, _ = socket.recv_fds(theirs, 2 * MAX_UNPARSED_BYTES, 1)
        for fd in fds:
            socket.close(fd)
    assert len(fds) == 1
    assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
    assert decode(message) == parcel


def test_nothing_unparsed_is_nothing_unparsed() -> None:
    assert decode(Parcel(0, 0, 0, b"").encode()).unparsed == b""


def test_what_is_no_parcel_is_a_bug_and_is_let_be_seen() -> None:
    with pytest.raises(struct.error):
        decode(b"short")
