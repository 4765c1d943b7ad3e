"""System: the few calls to the operating system, behind one small class.

Everything the manager waits for arrives through one epoll: signals (by the wake-up
descriptor), templates (control socket and pidfd), workers (lifeline and pidfd), and
whatever else is given to `watch`. Out of it come values (see events). A test puts a fake
with the same methods in this place.

What ends where: the manager holds all ends that are private to it here, so that a
template, forked in the middle of things, can close every one of them. Otherwise it would
keep other workers' lifelines open, and end-of-file would never come.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from . import child, heap, machine, process_facts
from .events import (
    Event,
    ForkFailed,
    SignalCame,
    SuccessorEnded,
    TemplateEnded,
    TemplateFailed,
    TemplateReady,
    WorkerBootFailed,
    WorkerEnded,
    WorkerForked,
    WorkerPoked,
    WorkerReaped,
)
from .exit_status import ExitStatus
from .lifeline import Lifeline
from .passing import receive
from .pidfd import PidFD
from .ports import Watched
from .relaunch import Command, become
from .scoreboard import Scoreboard
from .siblings import Inboxes
from .signals import SignalPipe
from .template import CONTROL_LIMIT, Template, control_pair
from .watcher import Watch, Watcher

_log = logging.getLogger("smart_http.spm")

_MESSAGES_PER_LOOK: Final = 64

Callback = Callable[[int], None]


class _TemplateProcess(NamedTuple):
    number: int
    control: socket.socket
    pidfd: PidFD


class _WorkerProcess:
    def __init__(self, slot: int, incarnation: int, template: int, lifeline: Lifeline) -> None:
        self.slot = slot
        self.incarnation = incarnation
        self.template = template
        self.lifeline = lifeline
        self.pidfd: PidFD | None = None  # None until the template has reported it
        self.heard = True  # whether the lifeline is still watched


class System:
    """The real one.

    boot: imports the application, in the template or (without preload) in each worker.
    scoreboard, inboxes: made before anything is forked.
    stale_ns: siblings pass over a worker whose heartbeat is older.
    watch: tells of changed sources, in a process of its own; None: nothing does.
    """

    def __init__(
        self,
        boot: child.Boot,
        scoreboard: Scoreboard,
        inboxes: Inboxes,
        *,
        preload: bool,
        stale_ns: int,
        watch: Watch | None = None,
    ) -> None:
        self._boot = boot
        self._scoreboard = scoreboard
        self._inboxes = inboxes
        self._preload = preload
        self._stale_ns = stale_ns
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[Watched, Callback]] = {}
        self._templates: dict[int, _TemplateProcess] = {}
        self._workers: dict[int, _WorkerProcess] = {}  # by slot
        self._events: list[Event] = []
        self._signals = SignalPipe()
        self._successor: PidFD | None = None
        self._watcher = Watcher(self, watch)
        self._machine = machine.Machine()
        self.usable_cores = self._machine.usable_cores()

    # --- clock, signals, waiting ------------------------------------------------

    def now_ns(self) -> int:
        """Return CLOCK_MONOTONIC, the same for all processes."""
        return time.monotonic_ns()

    def open(self) -> None:
        """Begin to listen to signals. Only in the main thread."""
        self._signals.open()
        self.watch(self._signals, select.EPOLLIN, lambda _: self._read_signals())
        self._watcher.start()

    def close(self) -> None:
        """Give signals back to whoever had them, and close everything."""
        self._watcher.stop()
        self._signals.restore()
        for watched, _ in list(self._watched.values()):
            self.unwatch(watched)
            watched.close()
        self._close_own()

    def wait(self, timeout_s: float) -> list[Event]:
        """Wait until something happens, at most timeout_s, and return what did."""
        ready = self._epoll.poll(max(0.0, timeout_s))
        # The templates' news first: "forked" and the end of the very same worker may
        # come in one batch, and the end makes sense only after the beginning.
        controls = {process.control.fileno() for process in self._templates.values()}
        ready.sort(key=lambda item: item[0] not in controls)
        for fd, mask in ready:
            entry = self._watched.get(fd)
            if entry is not None:  # else closed by an earlier one of this batch
                entry[1](mask)
        events, self._events = self._events, []
        if self._workers:  # else there is nothing to reload yet, and the news wait
            events += self._watcher.news()
        return events

    def watch(self, watched: Watched, mask: int, callback: Callback) -> None:
        """Call back, from within wait(), when the descriptor is ready.

        It is private to this process from now on: a template closes it. A descriptor
        that is watched already gets the new mask and callback.
        """
        fd = watched.fileno()
        if fd in self._watched:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)
        self._watched[fd] = (watched, callback)

    def unwatch(self, watched: Watched) -> None:
        """Forget the descriptor; to be called before it is closed."""
        # Closing alone would do for the epoll set only if no other process had a copy;
        # a template that was forked a moment ago may have one (epoll(7), Q6).
        fd = watched.fileno()
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    # --- templates --------------------------------------------------------------

    def start_template(self, number: int) -> None:
        """Fork a template; it reports by events.

        Raises: OSError if there cannot be another process.
        """
        ours, theirs = control_pair()
        child.flush_stdio()
        heap.settle()
        try:
            with child.signals_held():
                pid = os.fork()
                if pid == 0:
                    self._become_template(ours, theirs)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        process = _TemplateProcess(number, ours, PidFD(os.pidfd_open(pid)))
        self._templates[number] = process
        self.watch(ours, select.EPOLLIN, lambda _: self._read_template(process))
        self.watch(process.pidfd, select.EPOLLIN, lambda _: self._template_ended(process))

    def stop_template(self, number: int) -> None:
        """Let a template end: its control socket is at end-of-file.

        Our end stays open for its last words, how its last workers ended.
        """
        process = self._templates.get(number)
        if process is not None and process.control.fileno() >= 0:
            try:
                process.control.shutdown(socket.SHUT_WR)
            except OSError:
                return  # it is gone already; its pidfd says so

    def kill_template(self, number: int) -> None:
        """End a template that does not end (its import hangs)."""
        process = self._templates.get(number)
        if process is not None:
            process.pidfd.kill()

    # --- workers ----------------------------------------------------------------

    def request_worker(self, template: int, slot: int, incarnation: int) -> bool:
        """Ask a template for a worker in a free slot; False if it cannot be asked now."""
        process = self._templates.get(template)
        if process is None or process.control.fileno() < 0:
            return False
        ours, theirs = Lifeline.pair()
        message = json.dumps({"slot": slot, "incarnation": incarnation}).encode()
        try:
            socket.send_fds(process.control, [message], [theirs.fileno()])
        except OSError:
            # Full (it is still forking for us) or broken (it is dying, and its pidfd will
            # say so). Asked again at the next look.
            ours.close()
            return False
        finally:
            theirs.close()
        worker = _WorkerProcess(slot, incarnation, template, ours)
        self._workers[slot] = worker
        self.watch(ours, select.EPOLLIN, lambda _: self._read_lifeline(worker))
        return True

    def poke(self, slot: int) -> None:
        """Make the slot's worker look at its order."""
        worker = self._workers.get(slot)
        if worker is not None:
            worker.lifeline.poke()

    def kill(self, slot: int) -> bool:
        """Send SIGKILL to the slot's worker; False if its pidfd has not come yet."""
        worker = self._workers.get(slot)
        if worker is None or worker.pidfd is None:
            return False
        worker.pidfd.kill()
        return True

    def is_stopped(self, slot: int) -> bool:
        """Whether the slot's worker was stopped (SIGSTOP, a debugger) and may go on."""
        worker = self._workers.get(slot)
        if worker is None or worker.pidfd is None:
            return False
        return process_facts.is_stopped(worker.pidfd.pid())

    def forget(self, slot: int) -> None:
        """Close what belongs to a worker that is dead."""
        worker = self._workers.pop(slot, None)
        if worker is None:
            return
        self._stop_hearing(worker)
        worker.lifeline.close()
        if worker.pidfd is not None:
            self.unwatch(worker.pidfd)
            worker.pidfd.close()

    def start_successor(
        self,
        command: Command,
        sockets: Sequence[tuple[int, str]],
        bridge: socket.socket,
        workers: int,
    ) -> int:
        """Start the server that is to replace this one and return its pid.

        It reports over its end of the bridge; its end is an event.
        Raises: OSError if there cannot be another process.
        """
        child.flush_stdio()
        with child.signals_held():
            pid = os.fork()
            if pid == 0:
                become(command, sockets, bridge.fileno(), workers)
        pidfd = self._successor = PidFD(os.pidfd_open(pid))
        self.watch(pidfd, select.EPOLLIN, lambda _: self._successor_ended(pidfd))
        return pid

    def signal_successor(self, number: int) -> None:
        """Send a signal to the server that is to replace this one, if it is there."""
        if self._successor is not None:
            self._successor.send(number)

    def reap_strays(self) -> None:
        """As process 1 of a container: bury orphans that the kernel gave to us."""
        if os.getpid() != 1:
            return
        while True:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if dead is None or self._is_watched(dead.si_pid):
                return  # its own pidfd event collects it
            os.waitid(os.P_PID, dead.si_pid, os.WEXITED | os.WNOHANG)

    # --- measuring --------------------------------------------------------------

    def machine_cpu(self) -> float:
        """Return the share of the CPU time that we may use which was used since the last call."""
        return self._machine.machine_cpu()

    def cpu_pressure(self) -> float:
        """Return the share of the time in which somebody waited for a core; 0: not known."""
        return self._machine.cpu_pressure() or 0.0

    def cpu_throttled(self) -> float | None:
        """Return the share of its periods in which our CPU quota was used up; None: no quota."""
        return self._machine.cpu_throttled()

    def process_cpu_ns(self, pid: int) -> int | None:
        """Return the CPU time of a process; None if it is gone."""
        return machine.process_cpu_ns(pid)

    def process_run_wait_ns(self, pid: int) -> int | None:
        """Return how long its threads were ready to run and had no core; None: not known."""
        return process_facts.run_wait_ns(pid)

    def process_resident_bytes(self, pid: int) -> int:
        """Return the resident memory of a process; 0 if it is gone."""
        return process_facts.resident_bytes(pid)

    def process_memory(self, pid: int) -> dict[str, int]:
        """Return rss, pss, uss in bytes as far as they can be read."""
        return machine.process_memory(pid)

    def memory_available_bytes(self) -> int:
        """Return how much memory can still be taken."""
        return self._machine.memory_available_bytes()

    def oom_kills(self) -> int | None:
        """Return how many processes were killed for want of memory; None: not known."""
        return self._machine.oom_kills()

    # --- what becomes ready -------------------------------------------------------

    def _read_signals(self) -> None:
        self._events += [SignalCame(number) for number in self._signals.read()]

    def _read_template(self, process: _TemplateProcess) -> None:
        for _ in range(_MESSAGES_PER_LOOK):
            try:
                message, fd = receive(process.control, CONTROL_LIMIT)
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # it died with requests of ours unread; what it said comes first
            if not message:
                self.unwatch(process.control)
                process.control.close()
                return
            pidfd = PidFD(fd) if fd >= 0 else None
            try:
                self._note_news(process, json.loads(message), pidfd)
            except (ValueError, TypeError, KeyError) as error:
                # The application runs in that process and may have written there.
                _log.warning("unreadable message of the template: %r", error)

    def _note_news(self, process: _TemplateProcess, news: dict[str, Any], fd: PidFD | None) -> None:
        kind = news["news"]
        if kind == "ready":
            self._events.append(TemplateReady(process.number))
            return
        if kind == "failed":
            failed = TemplateFailed(process.number, news["message"], news["exit_status"])
            self._events.append(failed)
            return
        slot, incarnation = news["slot"], news["incarnation"]
        if kind == "forked":
            self._note_forked(slot, incarnation, news["pid"], fd)
        elif kind == "fork_failed":
            self._events.append(ForkFailed(slot, incarnation, news["reason"]))
        else:
            status = ExitStatus(news["status"], news["signal"])
            self._events.append(WorkerReaped(slot, incarnation, status))

    def _note_forked(self, slot: int, incarnation: int, pid: int, pidfd: PidFD | None) -> None:
        worker = self._workers.get(slot)
        if worker is None or worker.incarnation != incarnation:
            # Taken for dead already, by the end of its lifeline.
            if pidfd is not None:
                pidfd.close()
            return
        self._events.append(WorkerForked(slot, incarnation, pid))
        if pidfd is None:
            return  # we are out of descriptors: its lifeline will tell when it ends
        worker.pidfd = pidfd
        self.watch(pidfd, select.EPOLLIN, lambda _: self._worker_ended(worker))

    def _read_lifeline(self, worker: _WorkerProcess) -> None:
        messages, alive = worker.lifeline.messages()
        for message in messages:
            self._note_boot_failure(worker, message)
        if alive:
            self._events.append(WorkerPoked(worker.slot, worker.incarnation))
            return
        self._stop_hearing(worker)
        if worker.pidfd is None:
            # Nobody has reported its pidfd, and nobody holds the other end any more: it
            # is dead, or the template died before forking it.
            self._worker_ended(worker)

    def _note_boot_failure(self, worker: _WorkerProcess, message: bytes) -> None:
        try:
            news = json.loads(message)
            text, status = str(news["boot_failed"]), news["exit_status"]
        except (ValueError, TypeError, KeyError):
            _log.warning("slot %d: unreadable message on the lifeline", worker.slot)
            return
        status = status if isinstance(status, int) else None
        self._events.append(WorkerBootFailed(worker.slot, worker.incarnation, text, status))

    def _worker_ended(self, worker: _WorkerProcess) -> None:
        status = None
        if worker.pidfd is not None:
            # Its parent reaps it. If the parent is dead and we are process 1 of a
            # container, its parent is us now.
            status = worker.pidfd.collect()
            self.unwatch(worker.pidfd)
        if worker.heard:
            self._read_lifeline(worker)  # what it said with its last breath
        self._events.append(WorkerEnded(worker.slot, worker.incarnation, status))

    def _template_ended(self, process: _TemplateProcess) -> None:
        if process.control.fileno() >= 0:
            self._read_template(process)
        status = process.pidfd.collect()
        self.unwatch(process.pidfd)
        process.pidfd.close()
        if process.control.fileno() >= 0:
            self.unwatch(process.control)
            process.control.close()
        del self._templates[process.number]
        for worker in self._workers.values():
            if worker.template == process.number and worker.pidfd is None:
                # Asked for and not reported. It may live, forked in the template's last
                # moment: end-of-file makes it leave, and its own end tells when it has.
                worker.lifeline.hang_up()
        self._events.append(TemplateEnded(process.number, status))

    def _successor_ended(self, pidfd: PidFD) -> None:
        self._successor = None
        status = pidfd.collect()
        self.unwatch(pidfd)
        pidfd.close()
        self._events.append(SuccessorEnded(status))

    # --- in other processes, and at the end ----------------------------------------

    def _become_template(self, ours: socket.socket, theirs: socket.socket) -> NoReturn:
        try:
            ours.close()
            self._close_private()
            child.reset_signals()
            self._scoreboard.protect(None)
            template = Template(
                theirs,
                self._boot,
                self._scoreboard,
                self._inboxes,
                preload=self._preload,
                stale_ns=self._stale_ns,
            )
        except BaseException:  # noqa: BLE001 - the edge of the process
            _log.exception("the template could not start")
            child.leave(1)
        template.run()

    def abandon(self) -> None:
        """In a forked process that has no use for anything of the manager's: close it all."""
        self._close_private()
        self._inboxes.close()

    def _close_private(self) -> None:
        # The files, not only the numbers: an object that is left open would close its
        # number again when it is collected, and the number may be another's by then.
        for watched, _ in self._watched.values():
            watched.close()
        self._close_own()

    def _close_own(self) -> None:
        for worker in self._workers.values():
            worker.lifeline.close()
            if worker.pidfd is not None:
                worker.pidfd.close()
        self._workers.clear()
        for process in self._templates.values():
            process.control.close()
            process.pidfd.close()
        self._templates.clear()
        self._signals.close()
        self._watched.clear()
        self._epoll.close()

    def _stop_hearing(self, worker: _WorkerProcess) -> None:
        if worker.heard:
            worker.heard = False
            self.unwatch(worker.lifeline)

    def _is_watched(self, pid: int) -> bool:
        """Whether a dead child of ours is a template or a worker that we know."""
        pidfds = [process.pidfd for process in self._templates.values()]
        pidfds += [w.pidfd for w in self._workers.values() if w.pidfd is not None]
        return self._watcher.is_process(pid) or any(pidfd.pid() == pid for pidfd in pidfds)
