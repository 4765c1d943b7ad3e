"""Descriptors that come with a message."""

from __future__ import annotations

import os
import socket

import pytest

from spm.passing import receive


def test_a_descriptor_comes_with_its_message_and_is_not_inherited() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe()
    socket.send_fds(ours, [b"take it"], [writer])
    os.close(writer)
    message, fd = receive(theirs, 100)
    assert message == b"take it"
    assert not os.get_inheritable(fd)
    os.write(fd, b"x")
    assert os.read(reader, 1) == b"x"
    for each in (reader, fd):
        os.close(each)
    ours.close()
    theirs.close()


def test_a_message_may_come_without_one_and_the_end_without_a_message() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.send(b"nothing")
    ours.close()
    assert receive(theirs, 100) == (b"nothing", -1)
    assert receive(theirs, 100) == (b"", -1)
    theirs.close()


def test_an_empty_socket_that_does_not_wait_says_so() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        receive(theirs, 100)
    ours.close()
    theirs.close()
