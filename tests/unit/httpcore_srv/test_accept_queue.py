"""Accept queues: as many as have connected, whatever the socket; nothing where nobody tells."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from httpcore_srv import accept_queue
from httpcore_srv.accept_queue import AcceptQueue, AcceptQueues

BOUND_S = 10.0
LIMIT = 16

Listen = Callable[[str], socket.socket]


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    sockets: list[socket.socket] = []
    yield sockets
    for sock in sockets:
        sock.close()


@pytest.fixture
def listen(sockets: list[socket.socket], tmp_path: Path) -> Listen:
    """Make a listening socket: `listen("unix")`."""

    def listen(kind: str) -> socket.socket:
        name = f"{tmp_path}/{len(sockets)}.sock"
        family, address = {
            "unix": (socket.AF_UNIX, name),
            "abstract": (socket.AF_UNIX, f"\0{name}"),
            "ipv4": (socket.AF_INET, ("127.0.0.1", 0)),
            "ipv6": (socket.AF_INET6, ("::1", 0)),
        }[kind]
        sock = socket.socket(family, socket.SOCK_STREAM)
        sockets.append(sock)
        try:
            sock.bind(address)
        except OSError as error:
            if kind == "ipv6" and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                pytest.skip("no IPv6 here")
            raise
        sock.listen(LIMIT)
        if sock.family == socket.AF_UNIX and netlink_is_refused():
            pytest.skip("NETLINK_SOCK_DIAG is refused here")
        return sock

    return listen


def netlink_is_refused() -> bool:
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4).close()
    except OSError:
        return True
    return False


@pytest.fixture
def connect(sockets: list[socket.socket]) -> Callable[[socket.socket], None]:
    """Connect to a listening socket; nobody accepts."""

    def connect(listener: socket.socket) -> None:
        client = socket.socket(listener.family, socket.SOCK_STREAM)
        sockets.append(client)
        client.settimeout(BOUND_S)
        client.connect(listener.getsockname())

    return connect


def wait_for(listeners: list[socket.socket], depths: list[int]) -> None:
    """TCP's last step towards the queue is the kernel's alone, and it sends no event."""
    queues = AcceptQueues()
    end_s = time.monotonic() + BOUND_S
    while (seen := [queue.waiting for queue in queues.look(listeners)]) != depths:
        assert time.monotonic() < end_s, f"{seen}, not {depths}"
        os.sched_yield()
    assert queues.waiting(listeners) == sum(depths)


@pytest.mark.parametrize("kind", ["unix", "abstract", "ipv4", "ipv6"])
def test_it_is_as_long_as_many_have_connected(
    kind: str, listen: Listen, connect: Callable[[socket.socket], None]
) -> None:
    listener = listen(kind)
    wait_for([listener], [0])
    for depth in range(1, 6):
        connect(listener)
        wait_for([listener], [depth])
    for depth in range(4, -1, -1):
        assert select.select([listener], [], [], BOUND_S)[0]
        listener.accept()[0].close()
        wait_for([listener], [depth])


@pytest.mark.parametrize("kind", ["unix", "abstract", "ipv4", "ipv6"])
def test_it_has_the_limit_that_the_socket_was_given(kind: str, listen: Listen) -> None:
    listener = listen(kind)
    assert AcceptQueues().look([listener]) == [AcceptQueue(0, LIMIT)]
    listener.listen(3)
    assert AcceptQueues().look([listener]) == [AcceptQueue(0, 3)]


def test_each_of_several_has_its_own(
    listen: Listen, connect: Callable[[socket.socket], None]
) -> None:
    listeners = [listen(kind) for kind in ("unix", "ipv4", "abstract", "unix")]
    for index in (0, 1, 1, 2, 2, 2):
        connect(listeners[index])
    wait_for(listeners, [1, 2, 3, 0])


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_before_listening_it_is_empty(family: int, sockets: list[socket.socket]) -> None:
    sockets.append(socket.socket(family, socket.SOCK_STREAM))
    assert AcceptQueues().waiting(sockets) == 0


def test_nothing_is_left_open(listen: Listen) -> None:
    listener = listen("unix")
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        AcceptQueues().look([listener])
    assert os.listdir("/proc/self/fd") == before


# -- where the kernel does not tell ----------------------------------------------------------


def refusing(number: int) -> Callable[[], socket.socket]:
    def refuse() -> socket.socket:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.EPROTONOSUPPORT])
def test_where_netlink_is_refused_tcp_still_counts_and_it_is_said_once(
    number: int,
    listen: Listen,
    connect: Callable[[socket.socket], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    unix, tcp = listen("unix"), listen("ipv4")
    connect(unix)
    connect(tcp)
    wait_for([tcp], [1])
    monkeypatch.setattr(accept_queue, "_netlink", refusing(number))
    queues = AcceptQueues()
    for _ in range(3):
        assert queues.look([unix, tcp]) == [AcceptQueue(0, None), AcceptQueue(1, LIMIT)]
    (record,) = caplog.records
    assert os.strerror(number) in record.getMessage()


def test_want_of_a_descriptor_is_no_refusal(
    listen: Listen, connect: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    unix = listen("unix")
    connect(unix)
    queues = AcceptQueues()
    with monkeypatch.context() as patch:
        patch.setattr(accept_queue, "_netlink", refusing(errno.EMFILE))
        assert queues.waiting([unix]) == 0
    assert queues.waiting([unix]) == 1


def test_a_kernel_that_does_not_know_the_socket_says_so(sockets: list[socket.socket]) -> None:
    pair = socket.socketpair()
    sockets.extend(pair)
    if netlink_is_refused():
        pytest.skip("NETLINK_SOCK_DIAG is refused here")
    number = os.fstat(pair[0].fileno()).st_ino
    pair[0].close()
    with accept_queue._netlink() as netlink, pytest.raises(FileNotFoundError):
        accept_queue._unix(netlink, number)


def test_a_reply_without_a_queue_is_an_error() -> None:
    reply = accept_queue._HEADER.pack(40, 20, 0, 0, 0) + bytes(16) + b"\x08\0\1\0ABCD"
    with pytest.raises(OSError, match="does not tell"):
        accept_queue._read_reply(reply)
