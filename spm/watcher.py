"""The watcher: a process that tells when the application's source has changed.

    manager --fork--> watcher: watch(tell), for ever
       ^                 |
       '---- "app.py" ---'        one packet a change; end-of-file ends the watcher

A process and not a thread of the manager, which forks and must never wait for anybody. It
has nothing but its socket, and it never imports the application. When it dies, another
takes its place after a pause.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
from collections.abc import Callable
from typing import Final, NoReturn, Protocol

from . import child
from .events import SourceChanged
from .pidfd import PidFD
from .ports import Watched

Tell = Callable[[str], None]
Watch = Callable[[Tell], None]
"""Blocks, and tells what has changed, in words, each time something has."""

_log = logging.getLogger("smart_http.spm")

_MESSAGE_LIMIT: Final = 4096
_PAUSE_S: Final = 0.5
_PAUSE_MAX_S: Final = 30.0
_LONG_LIFE_NS: Final = 10_000_000_000
# For the kernel to end a process that got SIGKILL.
_END_PATIENCE_MS: Final = 2000


class Host(Protocol):
    """What the watcher needs of the manager's system (see system.System)."""

    def now_ns(self) -> int:
        """Return the monotonic time."""

    def watch(self, watched: Watched, mask: int, callback: Callable[[int], None]) -> None:
        """Call back when the descriptor is ready."""

    def unwatch(self, watched: Watched) -> None:
        """Forget the descriptor."""

    def abandon(self) -> None:
        """In a forked process: close all that is the manager's."""


class Watcher:
    """The watcher as the manager's system sees it.

    watch: what it does, in its own process; None: there is no watcher.
    """

    def __init__(self, host: Host, watch: Watch | None) -> None:
        self._host = host
        self._watch = watch
        self._control: socket.socket | None = None
        self._pidfd: PidFD | None = None
        self._changed: list[SourceChanged] = []
        self._started_ns = 0
        self._retry_ns = 0
        self._deaths = 0  # in a row, each after a short life

    def start(self) -> None:
        """Fork it, if there is to be one and there is none."""
        if self._watch is None or self._pidfd is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        child.flush_stdio()
        try:
            with child.signals_held():
                pid = os.fork()
                if pid == 0:
                    ours.close()
                    self._become(theirs, self._watch)
        except OSError as error:
            _log.error("no watcher could be forked: %s", error)
            ours.close()
            self._back_off()
            return
        finally:
            theirs.close()
        ours.setblocking(False)
        self._started_ns = self._host.now_ns()
        self._control, self._pidfd = ours, PidFD(os.pidfd_open(pid))
        self._host.watch(ours, select.EPOLLIN, lambda _: self._read())
        self._host.watch(self._pidfd, select.EPOLLIN, lambda _: self._ended())

    def news(self) -> list[SourceChanged]:
        """Return what has changed since the last call; see that there is a watcher."""
        if self._pidfd is None and self._host.now_ns() >= self._retry_ns:
            self.start()
        changed, self._changed = self._changed, []
        return changed

    def stop(self) -> None:
        """End it. It has nothing to finish."""
        pidfd = self._pidfd
        if pidfd is not None:
            pidfd.kill()
            end = select.poll()
            end.register(pidfd, select.POLLIN)
            end.poll(_END_PATIENCE_MS)
            pidfd.collect()
            self._forget()
        self._watch = None

    def is_process(self, pid: int) -> bool:
        """Whether this is the watcher's process id."""
        return self._pidfd is not None and self._pidfd.pid() == pid

    def _read(self) -> None:
        if self._control is None:
            return
        try:
            message = self._control.recv(_MESSAGE_LIMIT)
        except (BlockingIOError, ConnectionResetError):
            return
        if message:
            self._changed.append(SourceChanged(message.decode(errors="replace")))
        else:
            self._host.unwatch(self._control)  # it ends; its pidfd tells when it has

    def _ended(self) -> None:
        assert self._pidfd is not None
        self._read()  # what it said with its last breath
        status = self._pidfd.collect()
        self._forget()
        self._back_off()
        pause_s = (self._retry_ns - self._host.now_ns()) / 1e9
        _log.warning("the watcher died (%s); the next one comes in %.1f s", status, pause_s)

    def _back_off(self) -> None:
        now_ns = self._host.now_ns()
        self._deaths = 0 if now_ns - self._started_ns >= _LONG_LIFE_NS else self._deaths + 1
        pause_s = min(_PAUSE_MAX_S, _PAUSE_S * 2.0 ** min(self._deaths, 16))
        self._retry_ns = now_ns + int(pause_s * 1e9)

    def _forget(self) -> None:
        for watched in (self._control, self._pidfd):
            if watched is not None:
                self._host.unwatch(watched)
                watched.close()
        self._control = self._pidfd = None

    def _become(self, control: socket.socket, watch: Watch) -> NoReturn:
        """Be the watcher."""
        status = 1
        try:
            self._host.abandon()
            child.reset_signals()
            threading.Thread(target=_end_with_the_manager, args=(control,), daemon=True).start()
            watch(lambda what: _tell(control, what))
            _log.error("the watcher has nothing to watch any more")
        except BrokenPipeError:
            status = 0  # the manager died while we spoke
        except BaseException:  # noqa: BLE001 - the edge of the process
            _log.exception("the watcher failed")
        finally:
            child.leave(status)


def _tell(control: socket.socket, what: str) -> None:
    control.send(what.encode(errors="backslashreplace")[:_MESSAGE_LIMIT])


def _end_with_the_manager(control: socket.socket) -> None:
    # Nobody sends anything: what comes is end-of-file.
    with contextlib.suppress(ConnectionError):  # the same: it died with our news unread
        control.recv(1)
    os._exit(0)
