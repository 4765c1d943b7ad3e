"""Listening sockets that are there already: taken once, checked, matched with the addresses."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from httpcore_srv.errors import BindError
from httpcore_srv.inherited import InheritedSocket, name_of, take_inherited
from httpcore_srv.listener import Listeners

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 30

Made = Callable[..., InheritedSocket]

# A process that is started with descriptors in their places, and says what it found.
HEIR = """
import json, os, socket, sys
sys.path.insert(0, sys.argv[1])
from httpcore_srv.errors import BindError
from httpcore_srv.inherited import take_inherited
environ = json.loads(sys.argv[2])
environ = {key: value.replace("OWN", str(os.getpid())) for key, value in environ.items()}
try:
    found = take_inherited(environ)
    again = take_inherited(environ)
except BindError as error:
    print(json.dumps({"error": str(error), "status": error.exit_status}))
else:
    print(json.dumps({
        "names": [each.name for each in found],
        "fds": [each.sock.fileno() for each in found],
        "at": [each.sock.getsockname() for each in found],
        "blocking": [each.sock.getblocking() for each in found],
        "inheritable": [each.sock.get_inheritable() for each in found],
        "no_delay": [
            each.sock.family == socket.AF_UNIX
            or each.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            for each in found
        ],
        "left": environ,
        "again": len(again),
    }))
"""


def heir(environ: dict[str, str], *fds: int) -> dict[str, Any]:
    """Start a process with these descriptors from 3 on; return what it found."""
    # The shell puts them there: `3<&17`, and then becomes the program.
    moved = " ".join(f"{place}<&{fd}" for place, fd in enumerate(fds, 3))
    program = [sys.executable, "-c", HEIR, str(ROOT), json.dumps(environ)]
    done = subprocess.run(
        ["bash", "-c", f'exec "$@" {moved}', "bash", *program],
        pass_fds=fds,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def for_it(count: int, names: str = "") -> dict[str, str]:
    environ = {"LISTEN_PID": "OWN", "LISTEN_FDS": str(count), "OTHER": "stays"}
    return {**environ, "LISTEN_FDNAMES": names} if names else environ


@pytest.fixture
def high() -> Iterator[Callable[[socket.socket], int]]:
    """Give a descriptor a number that is in nobody's way."""
    copies: list[int] = []

    def high(sock: socket.socket) -> int:
        copies.append(os.dup(sock.fileno()))
        while copies[-1] < 20:
            copies.append(os.dup(sock.fileno()))
        return copies[-1]

    yield high
    for fd in copies:
        os.close(fd)


def listening(address: tuple[str, int] | str = ("127.0.0.1", 0)) -> socket.socket:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    sock = socket.socket(family)
    sock.bind(address)
    sock.listen()
    return sock


def test_they_are_taken_in_order_and_announced_once(
    high: Callable[[socket.socket], int], tmp_path: Path
) -> None:
    path = str(tmp_path / "a.sock")
    with listening() as one, listening(path) as two:
        found = heir(for_it(2, "web:local"), high(one), high(two))
        assert found["at"] == [list(one.getsockname()), path]
    assert found["names"] == ["web", "local"]
    assert found["fds"] == [3, 4]
    assert found["blocking"] == [False, False]
    assert found["inheritable"] == [False, False]
    assert all(found["no_delay"])
    assert found["left"] == {"OTHER": "stays"}
    assert found["again"] == 0


def test_names_may_be_missing(high: Callable[[socket.socket], int]) -> None:
    with listening() as one, listening() as two:
        assert heir(for_it(2, "web"), high(one), high(two))["names"] == ["web", ""]


@pytest.mark.parametrize("environ", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "3"}])
def test_what_is_for_another_process_is_left_alone(environ: dict[str, str]) -> None:
    environ = dict(environ)
    assert take_inherited(environ) == []
    assert environ == {}


@pytest.mark.parametrize("count", ["", "two", "-1", "99999", "²"])
def test_a_number_that_is_none_is_refused(count: str) -> None:
    with pytest.raises(BindError, match=r"LISTEN_FDS is .*, not a number of sockets"):
        take_inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})


def refused(found: dict[str, Any]) -> str:
    assert found["status"] == 2
    message: str = found["error"]
    assert "\n" not in message
    return message


def test_what_does_not_listen_is_refused(high: Callable[[socket.socket], int]) -> None:
    with socket.socket() as sock:
        message = refused(heir(for_it(1, "web"), high(sock)))
    assert message == (
        "inherited socket web (descriptor 3) does not listen; with systemd, use Accept=no"
    )


def test_a_datagram_socket_is_refused(high: Callable[[socket.socket], int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert "is not a stream socket" in refused(heir(for_it(1), high(sock)))


def test_another_family_is_refused(high: Callable[[socket.socket], int]) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as sock:
        assert "neither TCP nor a unix socket" in refused(heir(for_it(1), high(sock)))


def test_a_file_is_refused() -> None:
    with tempfile.TemporaryFile() as file:
        assert "is not a socket" in refused(heir(for_it(1), file.fileno()))


def test_fewer_descriptors_than_were_announced_are_refused() -> None:
    assert "bad file descriptor" in refused(heir(for_it(1)))


# --- matched with the addresses ----------------------------------------------------------------


@pytest.fixture
def made() -> Iterator[Made]:
    """Make an inherited socket."""
    all_made: list[InheritedSocket] = []

    def made(address: tuple[str, int] | str = ("127.0.0.1", 0), name: str = "") -> InheritedSocket:
        all_made.append(InheritedSocket(listening(address), name))
        return all_made[-1]

    yield made
    for each in all_made:
        each.sock.close()


def test_without_a_bind_of_its_own_it_serves_what_is_there(made: Made) -> None:
    one, two = made(), made()
    listeners = Listeners([("127.0.0.1", 8080)], 16, [one, two], explicit=False)
    listeners.listen()
    assert listeners.sockets == [one.sock, two.sock]
    listeners.release()


def test_a_default_address_is_bound_if_nothing_is_inherited() -> None:
    listeners = Listeners([("127.0.0.1", 0)], 16, [], explicit=False)
    listeners.listen()
    assert len(listeners.names()) == 1
    listeners.release()


def test_each_takes_the_place_of_its_address_and_the_others_are_bound(
    made: Made, tmp_path: Path
) -> None:
    path = str(tmp_path / "a.sock")
    unix, tcp = made(path, "systemd"), made()
    port = tcp.sock.getsockname()[1]
    addresses: list[Any] = [("127.0.0.1", 0), ("localhost", port), path]
    listeners = Listeners(addresses, 16, [unix, tcp])
    listeners.listen()
    assert listeners.sockets[1:] == [tcp.sock, unix.sock]
    assert listeners.sockets[0].getsockname()[1] not in (0, port)
    listeners.release()
    assert Path(path).exists()  # whoever made it removes it


def test_a_name_stands_for_port_0_and_each_is_used_once(made: Made) -> None:
    name = name_of("127.0.0.1:0")
    assert ":" not in name
    one, two = made(name=name), made(name=name)
    listeners = Listeners([("127.0.0.1", 0), ("127.0.0.1", 0)], 16, [one, two])
    assert listeners.sockets == [one.sock, two.sock]
    assert listeners.to_pass_on() == [(one.sock.fileno(), name), (two.sock.fileno(), name)]
    listeners.release()


def test_what_systemd_makes_of_a_port_alone_is_all_interfaces() -> None:
    with socket.socket(socket.AF_INET6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", 0))
        sock.listen()
        port = sock.getsockname()[1]
        listeners = Listeners([("0.0.0.0", port)], 16, [InheritedSocket(sock, "web")])
        assert listeners.sockets == [sock]
        listeners.release()


def test_one_that_nobody_asked_for_is_an_error_that_names_both(made: Made) -> None:
    stranger = made()
    port = stranger.sock.getsockname()[1]
    with pytest.raises(BindError) as caught:
        Listeners([("127.0.0.1", port + 1 if port < 65535 else 1)], 16, [stranger])
    assert f"inherited socket at http://127.0.0.1:{port}, but --bind says" in str(caught.value)
    assert caught.value.exit_status == 2
    assert stranger.sock.fileno() == -1


def test_a_socket_file_is_left_to_the_next_and_removed_by_the_last(tmp_path: Path) -> None:
    path = str(tmp_path / "a.sock")
    old = Listeners([path], 16)
    old.listen()
    ((fd, name),) = old.to_pass_on()
    heir = InheritedSocket(socket.socket(fileno=os.dup(fd)), name)
    new = Listeners([path], 16, [heir])
    new.listen()
    old.disown()
    old.release()
    assert Path(path).exists()
    new.own()
    new.release()
    assert not Path(path).exists()


def test_a_successor_that_fails_leaves_the_file_to_its_predecessor(tmp_path: Path) -> None:
    path = str(tmp_path / "a.sock")
    old = Listeners([path], 16)
    old.listen()
    ((fd, name),) = old.to_pass_on()
    new = Listeners([path], 16, [InheritedSocket(socket.socket(fileno=os.dup(fd)), name)])
    new.release()
    assert Path(path).exists()
    old.release()
    assert not Path(path).exists()
