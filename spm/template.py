"""The template: imports the application once and forks workers from it.

It is the parent of the workers, so it reaps them and reports how they ended. The
manager talks to it over a SOCK_SEQPACKET pair, one JSON object a message:

    manager -> template   {"slot": i, "incarnation": n}               + lifeline
    template -> manager   {"news": "ready"}
                          {"news": "failed", "message": ..., "exit_status": n}; it ends
                          {"news": "forked", "slot": i, "incarnation": n, "pid": p}  + pidfd
                          {"news": "fork_failed", "slot": i, "incarnation": n, "reason": ...}
                          {"news": "reaped", "slot": i, "incarnation": n, "status": s, "signal": g}

End-of-file on the control socket means that the manager has no more use for it, or is
dead: the template ends. Its workers do not depend on it.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import threading
from typing import Any, Final, NoReturn

from . import child, heap
from .lifeline import Lifeline
from .passing import receive
from .pidfd import PidFD
from .scoreboard import Scoreboard
from .siblings import Inboxes

_log = logging.getLogger("smart_http.spm")

CONTROL_LIMIT: Final = 65536


def control_pair() -> tuple[socket.socket, socket.socket]:
    """Return the manager's end (never blocks) and the template's end (blocks)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


class Template:
    """The template, in its own process.

    control: the template's end of the control socket.
    boot: imports the application and returns what serves it.
    preload: False leaves boot() to each worker.
    """

    def __init__(
        self,
        control: socket.socket,
        boot: child.Boot,
        scoreboard: Scoreboard,
        inboxes: Inboxes,
        *,
        preload: bool,
        stale_ns: int,
    ) -> None:
        self._control = control
        self._boot = boot
        self._scoreboard = scoreboard
        self._inboxes = inboxes
        self._preload = preload
        self._stale_ns = stale_ns
        # by descriptor: the process, its slot, its incarnation
        self._workers: dict[int, tuple[PidFD, int, int]] = {}
        self._epoll = select.epoll()

    def run(self) -> NoReturn:
        """Be the template until the manager closes the control socket."""
        status = 1
        try:
            if not self._preload or self._load():
                self._serve()
                status = 0
        except BrokenPipeError:
            # The manager died between two messages: the same as end-of-file.
            status = 0
        except BaseException:  # noqa: BLE001 - the edge of the process
            _log.exception("the template failed")
        finally:
            child.leave(status)

    def _load(self) -> bool:
        """Import the application; on failure tell the manager why."""
        try:
            serve = self._boot()
        except BaseException as error:  # noqa: BLE001 - imports may raise anything
            message, exit_status = child.describe_failure(error)
            self._tell({"news": "failed", "message": message, "exit_status": exit_status})
            return False
        self._boot = lambda: serve
        if threading.active_count() > 1:
            _log.warning(
                "the application started threads while it was imported; they do not "
                "exist in the workers (--no-preload imports it in each of them)"
            )
        return True

    def _serve(self) -> None:
        heap.settle()
        control_fd = self._control.fileno()
        self._epoll.register(control_fd, select.EPOLLIN)
        self._tell({"news": "ready"})
        while True:
            for fd, _ in self._epoll.poll():
                if fd != control_fd:
                    self._reap(fd)
                elif not self._answer():
                    self._reap_the_last(control_fd)
                    return

    def _reap_the_last(self, control_fd: int) -> None:
        """Report who is dead by now; whoever dies later is buried by process 1."""
        self._epoll.unregister(control_fd)
        for fd, _ in self._epoll.poll(0):
            self._reap(fd)

    def _answer(self) -> bool:
        """Handle one message of the manager; False at end-of-file."""
        try:
            message, fd = receive(self._control, CONTROL_LIMIT)
        except ConnectionResetError:
            return True  # the end-of-file comes with the next look
        if not message:
            return False
        request = json.loads(message)
        slot, incarnation = request["slot"], request["incarnation"]
        if fd < 0:
            self._tell_fork_failed(slot, incarnation, "out of descriptors")
            return True
        lifeline = Lifeline(socket.socket(fileno=fd))
        try:
            self._fork(slot, incarnation, lifeline)
        finally:
            lifeline.close()
        return True

    def _fork(self, slot: int, incarnation: int, lifeline: Lifeline) -> None:
        child.flush_stdio()  # what lies in the buffers would be printed twice
        try:
            with child.signals_held():
                pid = os.fork()
                if pid == 0:
                    self._become_worker(slot, incarnation, lifeline)
        except OSError as error:
            self._tell_fork_failed(slot, incarnation, str(error))
            return
        # Before anybody can have reaped it, so this cannot be a stranger's pid.
        pidfd = PidFD(os.pidfd_open(pid))
        self._workers[pidfd.fileno()] = (pidfd, slot, incarnation)
        self._epoll.register(pidfd, select.EPOLLIN)
        news = {"news": "forked", "slot": slot, "incarnation": incarnation, "pid": pid}
        self._tell(news, pidfd.fileno())

    def _become_worker(self, slot: int, incarnation: int, lifeline: Lifeline) -> NoReturn:
        try:
            self._close_private()
            child.reset_signals()
        except BaseException:  # noqa: BLE001 - the edge of the process
            _log.exception("worker %d could not start", os.getpid())
            child.leave(1)
        child.run_worker(
            self._boot if self._preload else self._boot_here,
            self._scoreboard,
            self._inboxes,
            lifeline,
            slot,
            incarnation,
            self._stale_ns,
        )

    def _boot_here(self) -> child.Serve:
        """Import the application in the worker itself."""
        serve = self._boot()
        # No fork follows, but what is frozen costs the collector nothing from now on.
        heap.settle()
        return serve

    def _close_private(self) -> None:
        """Close what only the template may hold."""
        self._epoll.close()
        self._control.close()
        for pidfd, _, _ in self._workers.values():
            pidfd.close()
        self._workers.clear()

    def _reap(self, fd: int) -> None:
        pidfd, slot, incarnation = self._workers.pop(fd)
        status = pidfd.collect()
        self._epoll.unregister(pidfd)
        pidfd.close()
        if status is not None:
            news = {"news": "reaped", "slot": slot, "incarnation": incarnation}
            self._tell({**news, "status": status.status, "signal": status.signal})

    def _tell_fork_failed(self, slot: int, incarnation: int, reason: str) -> None:
        news = {"news": "fork_failed", "slot": slot, "incarnation": incarnation}
        self._tell({**news, "reason": reason})

    def _tell(self, news: dict[str, Any], fd: int = -1) -> None:
        # Blocks when the manager is behind, and so limits how far ahead we fork.
        message = child.packed(news)
        if fd < 0:
            self._control.send(message)
        else:
            socket.send_fds(self._control, [message], [fd])
