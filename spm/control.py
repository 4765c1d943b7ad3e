"""The control socket: how `status` asks a running server, and `upgrade` tells it to.

One line in, one JSON document out, end:

    > status\\n
    < {"total": 2, "busy": 1, ...}

What takes its time is answered when it is done; the client waits.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from . import discovery
from .errors import BootFailed, ControlError
from .pid_file import is_alive, read_pid
from .ports import OperatingSystem

_log = logging.getLogger("smart_http.spm")

_NS: Final = 1_000_000_000
_MAX_CLIENTS: Final = 8
_MAX_REQUEST_BYTES: Final = 64
_PATIENCE_S: Final = 2.0
_BACKLOG: Final = 16
# What an answer may be; 512 workers take about 200 KB.
_MAX_ANSWER_BYTES: Final = 16 << 20


Answer = Callable[[Mapping[str, object]], None]


class _Client:
    def __init__(self, sock: socket.socket, deadline_ns: int) -> None:
        self.sock = sock
        self.deadline_ns = deadline_ns  # 0: it waits for us
        self.request = b""
        self.answer = memoryview(b"")


class ControlServer:
    """The manager's side, inside its loop: never blocks, bounded in everything.

    answers: for each request word, what gives the answer.
    orders: for each word that takes its time, what begins it; it is given what takes the
        answer, once it is there.
    """

    def __init__(
        self,
        system: OperatingSystem,
        answers: Mapping[str, Callable[[], object]],
        orders: Mapping[str, Callable[[Answer], None]] | None = None,
    ) -> None:
        self._system = system
        self._answers = answers
        self._orders = orders or {}
        self._clients: dict[int, _Client] = {}
        self._listener: socket.socket | None = None
        self._file: tuple[Path, int] | None = None  # and its inode

    def open(self, path: str | None, *, replace: bool = False) -> None:
        """Listen at the path, None: at the default one.

        replace: whether a server that listens there is one that we replace.
        Raises: BootFailed if nothing can listen at the path that was asked for. At the
            default one it is only logged: a server without `status` serves all the same.
        """
        try:
            discovery.remove_leftovers()
            place = Path(path).absolute() if path else discovery.default_path()
            if place.is_socket() and (replace or not discovery.is_listening(place)):
                place.unlink(missing_ok=True)
            self._listen(place)
        except (OSError, ControlError) as error:
            if path:
                raise BootFailed(f"control socket {path}: {error}") from error
            _log.warning("no control socket, so no `status`: %s", error)

    def _listen(self, place: Path) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The mode the file is born with: between bind and a chmod anybody could enter.
        before = os.umask(0o177)
        try:
            listener.bind(str(place))
        except OSError:
            listener.close()
            raise
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        self._listener = listener
        self._file = (place, place.stat().st_ino)
        self._system.watch(listener, select.EPOLLIN, lambda _: self._accept(listener))

    def close(self) -> None:
        """Stop listening, drop everybody, remove the socket file if it is still ours."""
        for client in list(self._clients.values()):
            self._drop(client)
        if self._listener is not None:
            self._system.unwatch(self._listener)
            self._listener.close()
            self._listener = None
        if self._file is not None:
            path, inode = self._file
            self._file = None
            try:
                if path.stat().st_ino == inode:
                    path.unlink()
            except FileNotFoundError:
                return

    @property
    def busy(self) -> bool:
        """Whether somebody is being answered, so that drop_late() must be called."""
        return any(client.deadline_ns for client in self._clients.values())

    def drop_late(self) -> None:
        """Drop whoever neither asks nor reads."""
        now_ns = self._system.now_ns()
        for client in list(self._clients.values()):
            if 0 < client.deadline_ns <= now_ns:
                self._drop(client)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError as error:
            _log.debug("control socket: %s", error)
            return
        if len(self._clients) >= _MAX_CLIENTS:
            sock.close()
            return
        sock.setblocking(False)
        client = _Client(sock, self._system.now_ns() + int(_PATIENCE_S * _NS))
        self._clients[sock.fileno()] = client
        self._system.watch(sock, select.EPOLLIN, lambda _: self._advance(client))

    def _advance(self, client: _Client) -> None:
        """Read the request or write the answer, as far as it goes."""
        try:
            if not client.answer and not self._read(client):
                return
            sent = client.sock.send(client.answer)
            client.answer = client.answer[sent:]
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)
            return
        if not client.answer:
            self._drop(client)

    def _read(self, client: _Client) -> bool:
        """Return whether the request is complete and the answer waits to be sent."""
        received = client.sock.recv(_MAX_REQUEST_BYTES)
        client.request += received
        line, newline, _ = client.request.partition(b"\n")
        if not newline and received and len(client.request) < _MAX_REQUEST_BYTES:
            return False
        word = line.decode("ascii", "replace").strip()
        if not client.deadline_ns:
            # It waits for an answer and has nothing to say any more, but that it has gone.
            if not received:
                self._drop(client)
            return False
        if word in self._answers:
            self._give(client, self._answers[word]())
            return True
        if word in self._orders:
            client.deadline_ns = 0
            self._orders[word](lambda answer: self._answer_later(client, answer))
        else:
            self._drop(client)
        return False

    def _give(self, client: _Client, answer: object) -> None:
        client.deadline_ns = self._system.now_ns() + int(_PATIENCE_S * _NS)
        client.answer = memoryview(json.dumps(answer).encode() + b"\n")
        self._system.watch(client.sock, select.EPOLLOUT, lambda _: self._advance(client))

    def _answer_later(self, client: _Client, answer: Mapping[str, object]) -> None:
        """Answer a client whose order is done, if it is still there."""
        if self._clients.get(client.sock.fileno()) is client:
            self._give(client, answer)
            self._advance(client)

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.sock.fileno(), None) is not None:
            self._system.unwatch(client.sock)
            client.sock.close()


# --- the asking side ------------------------------------------------------------------


def ask(
    path: str | os.PathLike[str], request: str = "status", timeout_s: float | None = 5.0
) -> Any:
    """Send one request to a server's control socket and return its answer, parsed.

    timeout_s: None waits for as long as the server lives.
    Raises: ControlError if there is no server, or it does not answer in time.
    """
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(os.fspath(path))
            sock.sendall(f"{request}\n".encode())
            while len(answer) < _MAX_ANSWER_BYTES:
                received = sock.recv(65536)
                if not received:
                    break
                answer += received
    except TimeoutError:
        raise ControlError(f"the server at {path} does not answer") from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise ControlError(f"no server listens at {path}") from None
    except OSError as error:
        raise ControlError(f"{path}: {error.strerror or error}") from error
    try:
        return json.loads(answer)
    except ValueError:
        raise ControlError(
            f"the server at {path} does not know {request!r}, or ended before it answered"
        ) from None


def order_upgrade(path: str | os.PathLike[str]) -> int:
    """Have a running server replaced by a new one; return that one's pid when it serves.

    Raises: ControlError, saying why it is not.
    """
    # The server itself limits how long a new one may take to start.
    answer = ask(path, "upgrade", timeout_s=None)
    if not answer["ok"]:
        raise ControlError(f"no upgrade: {answer['why']}")
    return int(answer["pid"])


def find(
    *,
    pid: int | None = None,
    pid_file: str | None = None,
    control: str | None = None,
    bind: str | None = None,
) -> str:
    """Return the path of a running server's control socket.

    By its path, its pid, its pid file or one of its addresses; with none of them given,
    the one server that this user runs.

    Raises: ControlError, saying what was found instead.
    """
    if control is not None:
        return control
    if pid_file is not None:
        pid = _pid_from(pid_file)
    if pid is not None:
        path = discovery.of_pid(pid)
        if path is None:
            raise ControlError(f"process {pid} is not a server of ours, or it has ended")
        return str(path)
    return _the_one_that_runs(bind)


def _pid_from(pid_file: str) -> int:
    try:
        pid = read_pid(pid_file)
    except OSError as error:
        raise ControlError(f"pid file {pid_file}: {error.strerror or error}") from error
    if pid is None:
        raise ControlError(f"pid file {pid_file}: there is none, or no pid in it")
    if not is_alive(pid):
        raise ControlError(f"pid file {pid_file}: process {pid} has ended")
    return pid


def _the_one_that_runs(bind: str | None) -> str:
    paths = discovery.running(os.getuid())
    if not paths:
        raise ControlError("no server of this user is running")
    if bind is None and len(paths) == 1:
        return str(paths[0])
    readouts = {path: _readout_of(path) for path in paths}
    # One that leaves has been replaced: the other one is meant.
    paths = [path for path in paths if readouts[path].get("upgrade") != "leaving"] or paths
    binds = {path: _binds_of(readouts[path]) for path in paths}
    if bind is None and len(paths) == 1:
        return str(paths[0])
    if bind is not None:
        paths = [path for path in paths if any(_is_meant(bind, b) for b in binds[path])]
        if len(paths) == 1:
            return str(paths[0])
    where = f" at {bind}" if bind is not None else ""
    listed = "".join(f"\n  pid {p.stem}: {', '.join(b) or '?'}" for p, b in binds.items())
    if not paths:
        raise ControlError(f"no server is running{where}; there are:{listed}")
    raise ControlError(
        f"several servers are running{where}; say which one with --bind or --pid:{listed}"
    )


def _readout_of(path: Path) -> dict[str, Any]:
    try:
        answer = ask(path, timeout_s=2.0)
    except ControlError as error:
        _log.debug("%s", error)
        return {}
    return answer if isinstance(answer, dict) else {}


def _binds_of(readout: Mapping[str, Any]) -> list[str]:
    return [str(bind) for bind in readout.get("server", {}).get("binds", [])]


def _is_meant(asked: str, bound: str) -> bool:
    """Whether the address asked for is the bound one; a port alone is enough."""
    asked = asked.removeprefix("http://").rstrip("/")
    bound = bound.removeprefix("http://").rstrip("/")
    return asked == bound or (
        asked.lstrip(":").isdigit() and bound.endswith(f":{asked.lstrip(':')}")
    )
