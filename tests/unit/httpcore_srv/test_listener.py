"""Listeners: bound late, refused in one line, and gone without a trace."""

from __future__ import annotations

import errno
import gc
import os
import select
import socket
import stat
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from httpcore_srv.errors import BindError
from httpcore_srv.listener import Address, Listeners

BOUND_S = 10.0
MakeListeners = Callable[..., Listeners]


@pytest.fixture
def make() -> Iterator[MakeListeners]:
    made: list[Listeners] = []

    def make(*addresses: Address, backlog: int = 16) -> Listeners:
        made.append(Listeners(addresses, backlog))
        return made[-1]

    yield make
    for listeners in made:
        listeners.release()


@pytest.fixture
def clients() -> Iterator[list[socket.socket]]:
    clients: list[socket.socket] = []
    yield clients
    for client in clients:
        client.close()


def listening(make: MakeListeners, *addresses: Address, backlog: int = 16) -> Listeners:
    listeners = make(*addresses, backlog=backlog)
    listeners.listen()
    return listeners


def port_of(listeners: Listeners, index: int = 0) -> int:
    port: int = listeners.sockets[index].getsockname()[1]
    return port


def accept(sock: socket.socket) -> socket.socket:
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    assert poller.poll(BOUND_S * 1000), "nobody came"
    return sock.accept()[0]


def refusal(listeners: Listeners) -> str:
    with pytest.raises(BindError) as caught:
        listeners.listen()
    message = str(caught.value)
    assert caught.value.exit_status == 2
    assert "\n" not in message
    assert message.startswith("cannot listen on ")
    return message


# -- TCP -----------------------------------------------------------------------------------


def test_port_0_takes_a_free_one_and_says_which(make: MakeListeners) -> None:
    listeners = listening(make, ("127.0.0.1", 0))
    port = port_of(listeners)
    assert port > 0
    assert listeners.names() == [f"http://127.0.0.1:{port}"]
    with socket.create_connection(("127.0.0.1", port), BOUND_S):
        accept(listeners.sockets[0]).close()


def test_nobody_can_connect_before_listen(make: MakeListeners) -> None:
    free = listening(make, ("127.0.0.1", 0))
    port = port_of(free)
    free.release()
    listeners = make(("127.0.0.1", port))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), BOUND_S)
    listeners.listen()
    socket.create_connection(("127.0.0.1", port), BOUND_S).close()


def test_several_addresses_are_listened_on_in_their_order(
    make: MakeListeners, tmp_path: Path
) -> None:
    path = str(tmp_path / "s")
    listeners = listening(make, ("127.0.0.1", 0), path, ("127.0.0.1", 0))
    first, second, third = listeners.names()
    assert second == f"unix:{path}"
    assert first.startswith("http://127.0.0.1:")
    assert third.startswith("http://127.0.0.1:")
    assert first != third


def test_a_name_may_be_given(make: MakeListeners) -> None:
    listeners = listening(make, ("localhost", 0))
    with socket.create_connection(("localhost", port_of(listeners)), BOUND_S):
        accept(listeners.sockets[0]).close()


def test_an_empty_host_is_every_interface(make: MakeListeners) -> None:
    listeners = listening(make, ("", 0))
    with socket.create_connection(("127.0.0.1", port_of(listeners)), BOUND_S):
        accept(listeners.sockets[0]).close()


def test_accepting_never_blocks(make: MakeListeners, tmp_path: Path) -> None:
    # The siblings share the queue: the one who was woken may find it empty.
    for sock in listening(make, ("127.0.0.1", 0), str(tmp_path / "s")).sockets:
        with pytest.raises(BlockingIOError):
            sock.accept()


def test_accepted_connections_send_without_delay(make: MakeListeners) -> None:
    listeners = listening(make, ("127.0.0.1", 0))
    with (
        socket.create_connection(("127.0.0.1", port_of(listeners)), BOUND_S),
        accept(listeners.sockets[0]) as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_listeners_are_not_inherited_by_programs_that_are_started(make: MakeListeners) -> None:
    assert not listening(make, ("127.0.0.1", 0)).sockets[0].get_inheritable()


def test_a_port_can_be_taken_again_at_once(make: MakeListeners) -> None:
    # A connection in TIME_WAIT does not keep a server from being started again.
    listeners = listening(make, ("127.0.0.1", 0))
    port = port_of(listeners)
    with socket.create_connection(("127.0.0.1", port), BOUND_S) as client:
        accept(listeners.sockets[0]).close()  # the side that closes first waits
        assert client.recv(1) == b""
    listeners.release()
    listening(make, ("127.0.0.1", port))


def test_a_port_in_use_is_refused_in_one_line(make: MakeListeners) -> None:
    port = port_of(listening(make, ("127.0.0.1", 0)))
    message = refusal(make(("127.0.0.1", port)))
    assert f"127.0.0.1:{port}" in message
    assert "address already in use" in message
    assert "--bind" in message


class Rivalled(socket.socket):
    """Between our bind(2) and our listen(2) another server listens on the same port."""

    rival: socket.socket

    def listen(self, backlog: int = 16) -> None:  # type: ignore[override]
        self.rival.listen(backlog)
        super().listen(backlog)


def test_a_port_that_another_server_takes_at_the_same_time_is_refused(make: MakeListeners) -> None:
    with socket.socket() as rival, Rivalled() as ours:
        for sock in (rival, ours):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rival.bind(("127.0.0.1", 0))
        late = make(("127.0.0.1", rival.getsockname()[1]))
        ours.rival = rival
        late.sockets[0].close()
        late.sockets[0] = ours
        assert "in use" in refusal(late)


def test_an_address_of_another_machine_is_refused(make: MakeListeners) -> None:
    message = refusal(make(("192.0.2.1", 0)))
    assert "192.0.2.1:0" in message
    assert "cannot assign requested address" in message


def test_a_host_that_nobody_knows_is_refused_before_anything_is_bound() -> None:
    with pytest.raises(BindError, match=r"^cannot listen on not a host:80: [^\n]*$"):
        Listeners([("not a host", 80)], 16)


def test_a_host_that_cannot_be_a_name_is_refused() -> None:
    with pytest.raises(BindError):
        Listeners([("x" * 64, 80)], 16)


def leaked(call: Callable[[], object]) -> list[str]:
    """Return what Python says about sockets that were thrown away unclosed."""
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        call()
        gc.collect()
    return [str(warning.message) for warning in caught]


def test_an_address_that_fails_leaves_no_socket_of_the_others() -> None:
    def make_one_good_one_bad() -> None:
        with pytest.raises(BindError):
            Listeners([("127.0.0.1", 0), ("not a host", 80)], 16)

    assert leaked(make_one_good_one_bad) == []


def test_an_address_that_is_refused_releases_all_the_others(
    make: MakeListeners, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    port = port_of(listening(make, ("127.0.0.1", 0)))
    free = listening(make, ("127.0.0.1", 0))
    free_port = port_of(free)
    free.release()
    refusal(make(str(path), ("127.0.0.1", free_port), ("127.0.0.1", port)))
    assert not path.exists()
    listening(make, ("127.0.0.1", free_port))


# -- IPv6 ----------------------------------------------------------------------------------


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")


@ipv6
def test_an_ipv6_address_is_named_in_brackets(make: MakeListeners) -> None:
    listeners = listening(make, ("::1", 0))
    port = port_of(listeners)
    assert listeners.names() == [f"http://[::1]:{port}"]
    assert f"[::1]:{port}" in refusal(make(("::1", port)))
    with socket.create_connection(("::1", port), BOUND_S):
        accept(listeners.sockets[0]).close()


@ipv6
def test_all_ipv6_interfaces_are_those_of_ipv4_too(make: MakeListeners) -> None:
    listeners = listening(make, ("::", 0))
    with socket.create_connection(("127.0.0.1", port_of(listeners)), BOUND_S):
        accept(listeners.sockets[0]).close()


@ipv6
def test_one_ipv6_address_leaves_ipv4_alone(make: MakeListeners) -> None:
    port = port_of(listening(make, ("::1", 0)))
    listening(make, ("127.0.0.1", port))


# -- socket files --------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "server.sock")


def connect(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(BOUND_S)
    client.connect(path)
    return client


def test_a_socket_file_is_there_while_it_is_listened_on(make: MakeListeners, path: str) -> None:
    listeners = make(path)
    assert not os.path.exists(path)
    listeners.listen()
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    with connect(path):
        accept(listeners.sockets[0]).close()
    listeners.release()
    assert not os.path.exists(path)


def test_the_file_of_a_server_that_is_gone_is_replaced(make: MakeListeners, path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(path)
        dead.listen()
    listeners = listening(make, path)
    with connect(path):
        accept(listeners.sockets[0]).close()


def test_the_file_of_a_living_server_is_left_alone(make: MakeListeners, path: str) -> None:
    living = listening(make, path)
    inode = os.stat(path).st_ino
    second = make(path)
    assert "in use" in refusal(second)
    assert os.stat(path).st_ino == inode
    second.release()
    assert os.stat(path).st_ino == inode
    with connect(path):
        accept(living.sockets[0]).close()


def test_a_server_whose_queue_is_full_is_living_too(
    make: MakeListeners, path: str, clients: list[socket.socket]
) -> None:
    listening(make, path, backlog=0)
    while True:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        clients.append(client)
        client.setblocking(False)
        try:
            client.connect(path)
        except BlockingIOError:
            break
        assert len(clients) < 100
    assert "in use" in refusal(make(path))
    assert os.path.exists(path)


def test_a_file_that_is_no_socket_is_left_alone(make: MakeListeners, path: str) -> None:
    Path(path).write_text("precious")
    message = refusal(make(path))
    assert f"unix:{path}" in message
    assert "no socket" in message
    assert Path(path).read_text() == "precious"


def test_a_directory_is_left_alone(make: MakeListeners, path: str) -> None:
    os.mkdir(path)
    assert "no socket" in refusal(make(path))
    assert os.path.isdir(path)


def test_a_socket_of_another_kind_is_left_alone(make: MakeListeners, path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        refusal(make(path))
        assert os.path.exists(path)


def test_a_directory_that_is_not_there_is_said(make: MakeListeners, tmp_path: Path) -> None:
    message = refusal(make(str(tmp_path / "no" / "where")))
    assert "no such file or directory" in message
    assert "create the directory" in message


def test_a_path_that_is_too_long_is_said(make: MakeListeners, tmp_path: Path) -> None:
    assert "path too long" in refusal(make(str(tmp_path / ("x" * 120))))


def test_the_file_that_another_server_has_put_there_since_is_left_alone(
    make: MakeListeners, path: str
) -> None:
    ours = listening(make, path)
    os.unlink(path)
    theirs = listening(make, path)
    ours.release()
    with connect(path):
        accept(theirs.sockets[0]).close()


def test_a_file_that_somebody_has_removed_is_no_error(make: MakeListeners, path: str) -> None:
    listeners = listening(make, path)
    os.unlink(path)
    listeners.release()


def test_a_file_is_removed_wherever_the_process_has_gone(
    make: MakeListeners, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listeners = listening(make, "relative.sock")
    monkeypatch.chdir("/")
    listeners.release()
    assert list(tmp_path.iterdir()) == []


def test_releasing_twice_does_nothing(make: MakeListeners, path: str) -> None:
    listeners = listening(make, path, ("127.0.0.1", 0))
    for _ in range(2):
        listeners.release()
    assert all(sock.fileno() < 0 for sock in listeners.sockets)


# -- the accept queue ----------------------------------------------------------------------


def wait_for_queue(listeners: Listeners, depth: int) -> None:
    """The kernel says how deep the queue is, but sends no event when that changes."""
    end_s = time.monotonic() + BOUND_S
    while (seen := listeners.accept_queue()) != depth:
        assert time.monotonic() < end_s, f"the queue holds {seen}, not {depth}"
        os.sched_yield()


def test_the_accept_queue_holds_who_has_connected_and_was_not_accepted(
    make: MakeListeners, clients: list[socket.socket]
) -> None:
    listeners = listening(make, ("127.0.0.1", 0))
    assert listeners.accept_queue() == 0
    for depth in range(1, 6):
        clients.append(socket.create_connection(("127.0.0.1", port_of(listeners)), BOUND_S))
        wait_for_queue(listeners, depth)
    for depth in range(4, -1, -1):
        clients.append(accept(listeners.sockets[0]))
        wait_for_queue(listeners, depth)


def test_the_accept_queues_of_all_listeners_add_up(
    make: MakeListeners, clients: list[socket.socket], path: str
) -> None:
    listeners = listening(make, ("127.0.0.1", 0), path, ("127.0.0.1", 0))
    for index in (0, 2, 2):
        port = port_of(listeners, index)
        clients.append(socket.create_connection(("127.0.0.1", port), BOUND_S))
    clients.append(connect(path))
    wait_for_queue(listeners, 4)


def test_the_backlog_bounds_the_queue(make: MakeListeners, clients: list[socket.socket]) -> None:
    listeners = listening(make, ("127.0.0.1", 0), backlog=2)
    for _ in range(8):
        client = socket.socket()
        clients.append(client)
        client.setblocking(False)
        with pytest.raises(BlockingIOError) as caught:
            client.connect(("127.0.0.1", port_of(listeners)))
        assert caught.value.errno == errno.EINPROGRESS
    wait_for_queue(listeners, 3)  # listen(2): one more than asked for
