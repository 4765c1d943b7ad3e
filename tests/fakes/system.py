"""A machine that the test runs: clock, signals, templates, workers.

It fits `spm.ports.OperatingSystem`. Workers are simulated, but they write to the real
scoreboard through the real `Slot` and read their real inboxes, so what the manager sees
of them is what it would see of processes. Nothing happens by itself except in `wait()`:
there time moves, templates get on with their work, workers look at their orders.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from spm import events
from spm.child import Boot
from spm.exit_status import ExitStatus
from spm.ports import Watched
from spm.relaunch import Command
from spm.scoreboard import Scoreboard
from spm.settings import SPMS
from spm.siblings import Inboxes, Siblings
from spm.slot import ORDER_DRAIN, ORDER_NOW, ORDER_RUN, ORDER_STOP, Slot

NS = 1_000_000_000
KILLED = ExitStatus(signal=9)
FORK_S = 0.002

_E = TypeVar("_E")


@dataclass
class FakeWorker:
    """A worker: obeys its orders, serves as much as the test gives it."""

    pid: int
    index: int
    incarnation: int
    template: int
    generation: int
    slot: Slot
    siblings: Siblings
    capacity: int
    state: str = "starting"
    hung: bool = False  # the GIL is held: no heartbeat, no obedience
    stopped: bool = False  # SIGSTOP: the same, and the kernel says so
    orphaned: bool = False  # its lifeline is at end-of-file
    busy: int = 0
    waiting: int = 0
    connections: int = 0
    streams: int = 0
    written_off: int = 0
    begun: int = 0
    ended: int = 0
    accepted: int = 0
    errors: int = 0
    cpu_ns: int = 0
    cpu_share: float = 0.0
    run_wait_ns: int = 0
    parcels: list[bytes] = field(default_factory=list)
    nudges: int = 0
    incidents: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def begin(self, count: int = 1) -> None:
        """Begin to run requests."""
        self.busy += count
        self.begun += count
        self.publish_counters()

    def end(self, count: int = 1, duration_ns: int = 10_000_000) -> None:
        """Finish requests."""
        self.busy -= count
        self.ended += count
        self.slot.timed([duration_ns] * count)
        self.publish_counters()

    def publish_counters(self) -> None:
        """Write the counters, as the real one does when it answers."""
        self.slot.begun(self.begun)
        self.slot.ended_pooled(self.ended)
        self.slot.busy(self.busy)

    def publish(self, now_ns: int) -> None:
        """Write gauges and heartbeat."""
        self.slot.publish(
            now_ns,
            self.busy,
            self.waiting,
            self.connections,
            self.capacity,
            self.streams,
            self.written_off,
        )

    def read_inbox(self) -> None:
        """Take what siblings and the manager have sent."""
        while (parcel := self.siblings.receive()) is not None:
            message, fd = parcel
            if fd < 0:
                self.nudges += 1
                continue
            os.close(fd)
            self.parcels.append(message)

    def obey(self) -> bool:
        """Do what the order says; False when the worker has left."""
        order = ORDER_STOP if self.orphaned else self.slot.order()
        if order == ORDER_NOW:
            return False
        if order == ORDER_RUN:
            if self.state != "ready":
                self.state = "ready"
                self.slot.ready()
            return True
        if self.state != "draining":
            self.state = "draining"
            self.slot.draining()
        if self.busy or (order == ORDER_DRAIN and self.waiting):
            return True
        self.slot.exiting()
        self.read_inbox()
        return False


@dataclass
class FakeTemplate:
    """A template: loads for a while, then forks what it was asked for."""

    number: int
    ready_ns: int
    broken: tuple[str, int | None] | None
    ready: bool = False
    stopped: bool = False
    stuck: bool = False
    requests: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Successor:
    """A server that was started to replace the one under test; the test plays it."""

    pid: int
    command: Command
    sockets: list[tuple[int, str]]
    bridge: socket.socket
    workers: int
    signals: list[int] = field(default_factory=list)


class FakeSystem:
    """The operating system, in the test's hands.

    load_s: how long an import takes. broken: what the next imports die of.
    """

    def __init__(
        self, boot: Boot, scoreboard: Scoreboard, inboxes: Inboxes, settings: SPMS
    ) -> None:
        self.clock_ns = 1_000 * NS
        self.scoreboard = scoreboard
        self.inboxes = inboxes
        self.settings = settings
        self.usable_cores = 2
        self.load_s = 0.05
        self.start_s = 0.0  # from fork to ready
        self.broken: tuple[str, int | None] | None = None
        self.dying_starts = 0  # so many workers die before they are ready
        self.forks_fail = 0
        self.cpu = 0.1
        self.pressure = 0.0
        self.throttled: float | None = None
        self.memory_available = 1 << 40
        self.killed_for_memory: int | None = 0
        self.memory: dict[str, int] = {"rss": 20 << 20, "pss": 10 << 20, "uss": 8 << 20}
        self.templates: dict[int, FakeTemplate] = {}
        self.workers: dict[int, FakeWorker] = {}  # by slot
        self.lost_without_pid: dict[int, int] = {}  # slot -> incarnation, never forked
        self.pidless: set[int] = set()  # alive, and the manager does not know the pid
        self.gone: list[FakeWorker] = []
        self.pokes: list[int] = []
        self.killed: list[int] = []
        self.waits_s: list[float] = []
        self.watched: dict[int, Callable[[int], None]] = {}
        self._masks: dict[int, int] = {}
        self.during_wait: Callable[[], None] = lambda: None
        self.opened = False
        self.successor: Successor | None = None
        self._events: list[events.Event] = []
        self._next_pid = 1000

    # --- what the test does --------------------------------------------------------

    def send_signal(self, number: int) -> None:
        """Signal the manager."""
        self._events.append(events.SignalCame(number))

    def change_source(self, what: str) -> None:
        """The watcher tells of a change."""
        self._events.append(events.SourceChanged(what))

    def poke_manager(self, worker: FakeWorker) -> None:
        """A worker has become full."""
        self._events.append(events.WorkerPoked(worker.index, worker.incarnation))

    def crash(self, worker: FakeWorker, status: ExitStatus = KILLED) -> None:
        """End a worker's process, whatever it was doing."""
        del self.workers[worker.index]
        self.gone.append(worker)
        if worker.template in self.templates:
            reaped = events.WorkerReaped(worker.index, worker.incarnation, status)
            self._events.append(reaped)
        self._events.append(events.WorkerEnded(worker.index, worker.incarnation))

    def crash_template(self, number: int, status: ExitStatus = KILLED) -> None:
        """End a template's process; what it was asked for and had not done never comes."""
        template = self.templates.pop(number)
        for index, incarnation in template.requests:
            self._events.append(events.WorkerEnded(index, incarnation))
        for worker in self.workers.values():
            if worker.template == number and worker.index in self.pidless:
                worker.orphaned = True
        self._events.append(events.TemplateEnded(number, status))

    def crash_template_in_fork(self, number: int) -> None:
        """End a template that has just forked a worker, before it could report it."""
        template = self.templates[number]
        index, incarnation = template.requests.pop(0)
        self._fork(template, index, incarnation)
        self._events = [
            event
            for event in self._events
            if not (isinstance(event, events.WorkerForked) and event.incarnation == incarnation)
        ]
        if index in self.workers:
            self.pidless.add(index)
        self.crash_template(number)

    def alive(self, state: str | None = None) -> list[FakeWorker]:
        """Return the workers, of one state or all, by slot."""
        workers = [self.workers[index] for index in sorted(self.workers)]
        return [w for w in workers if state is None or w.state == state]

    # --- what the manager does -------------------------------------------------------

    def now_ns(self) -> int:
        return self.clock_ns

    def open(self) -> None:
        self.opened = True

    def close(self) -> None:
        self.opened = False

    def wait(self, timeout_s: float) -> list[events.Event]:
        self.waits_s.append(timeout_s)
        self.during_wait()
        if not self._events:
            limit_s = FORK_S if any(t.requests for t in self.templates.values()) else timeout_s
            self.clock_ns += max(1, round(min(timeout_s, limit_s) * NS))
        self._run_templates()
        self._run_workers()
        self._look_at_descriptors()
        came, self._events = self._events, []
        return came

    def watch(self, watched: Watched, mask: int, callback: Callable[[int], None]) -> None:
        self.watched[watched.fileno()] = callback
        self._masks[watched.fileno()] = mask

    def unwatch(self, watched: Watched) -> None:
        self.watched.pop(watched.fileno(), None)
        self._masks.pop(watched.fileno(), None)

    def start_template(self, number: int) -> None:
        if self.forks_fail:
            self.forks_fail -= 1
            raise OSError("Resource temporarily unavailable")
        ready_ns = self.clock_ns + int(self.load_s * NS)
        broken = self.broken if self.settings.preload else None
        self.templates[number] = FakeTemplate(number, ready_ns, broken)

    def stop_template(self, number: int) -> None:
        if number in self.templates:
            self.templates[number].stopped = True

    def kill_template(self, number: int) -> None:
        if number in self.templates:
            self.crash_template(number)

    def request_worker(self, template: int, slot: int, incarnation: int) -> bool:
        process = self.templates.get(template)
        if process is None or process.stopped:
            return False
        assert slot not in self.workers, "a slot was given out while its worker lives"
        process.requests.append((slot, incarnation))
        return True

    def poke(self, slot: int) -> None:
        self.pokes.append(slot)

    def kill(self, slot: int) -> bool:
        worker = self.workers.get(slot)
        if worker is None or slot in self.pidless:
            return False
        self.killed.append(worker.pid)
        self.crash(worker)
        return True

    def is_stopped(self, slot: int) -> bool:
        return slot in self.workers and self.workers[slot].stopped

    def forget(self, slot: int) -> None:
        self.pidless.discard(slot)

    def start_successor(
        self,
        command: Command,
        sockets: Sequence[tuple[int, str]],
        bridge: socket.socket,
        workers: int,
    ) -> int:
        if self.forks_fail:
            self.forks_fail -= 1
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        self._next_pid += 1
        end = socket.socket(fileno=os.dup(bridge.fileno()))
        self.successor = Successor(self._next_pid, command, list(sockets), end, workers)
        return self._next_pid

    def signal_successor(self, number: int) -> None:
        if self.successor is not None:
            self.successor.signals.append(number)

    def end_successor(self, status: ExitStatus) -> None:
        """End the server that was started to replace this one."""
        assert self.successor is not None
        self.successor.bridge.close()
        self.successor = None
        self._events.append(events.SuccessorEnded(status))

    def reap_strays(self) -> None:
        return

    def machine_cpu(self) -> float:
        return self.cpu

    def process_cpu_ns(self, pid: int) -> int | None:
        return next((w.cpu_ns for w in self.workers.values() if w.pid == pid), None)

    def cpu_pressure(self) -> float:
        return self.pressure

    def cpu_throttled(self) -> float | None:
        return self.throttled

    def process_run_wait_ns(self, pid: int) -> int | None:
        return next((w.run_wait_ns for w in self.workers.values() if w.pid == pid), None)

    def process_resident_bytes(self, pid: int) -> int:
        return self.memory["rss"]

    def process_memory(self, pid: int) -> dict[str, int]:
        return self.memory

    def memory_available_bytes(self) -> int:
        return self.memory_available

    def oom_kills(self) -> int | None:
        return self.killed_for_memory

    # --- what goes on meanwhile -----------------------------------------------------------

    def _look_at_descriptors(self) -> None:
        """What is watched is real: control socket, relay, bridge."""
        poller = select.poll()
        for fd, mask in self._masks.items():
            poller.register(fd, mask)
        for fd, mask in poller.poll(0):
            if fd in self.watched:
                self.watched[fd](mask)

    def _run_templates(self) -> None:
        for template in list(self.templates.values()):
            if template.stuck:
                continue
            if not template.ready and self.clock_ns >= template.ready_ns:
                self._finish_loading(template)
            if template.number not in self.templates or not template.ready:
                continue
            requests, template.requests = template.requests, []
            for index, incarnation in requests:
                self._fork(template, index, incarnation)
            if template.stopped:
                del self.templates[template.number]
                ended = events.TemplateEnded(template.number, ExitStatus())
                self._events.append(ended)

    def _finish_loading(self, template: FakeTemplate) -> None:
        if template.broken is None:
            template.ready = True
            self._events.append(events.TemplateReady(template.number))
            return
        message, status = template.broken
        del self.templates[template.number]
        self._events.append(events.TemplateFailed(template.number, message, status))
        self._events.append(events.TemplateEnded(template.number, ExitStatus(status=1)))

    def _fork(self, template: FakeTemplate, index: int, incarnation: int) -> None:
        if self.forks_fail:
            self.forks_fail -= 1
            self._events.append(events.ForkFailed(index, incarnation, "Cannot allocate memory"))
            return
        self._next_pid += 1
        slot = Slot(self.scoreboard, index, incarnation)
        row = self.scoreboard.row(index)
        assert (row.echo, row.state, row.begun, row.busy) == (0, 0, 0, 0), "the row was not cleared"
        slot.started()
        worker = FakeWorker(
            pid=self._next_pid,
            index=index,
            incarnation=incarnation,
            template=template.number,
            generation=row.generation,
            slot=slot,
            siblings=Siblings(self.inboxes, self.scoreboard, index, clock=self.now_ns),
            capacity=self.settings.max_threads,
        )
        self.workers[index] = worker
        forked = events.WorkerForked(index, incarnation, worker.pid)
        self._events.append(forked)
        if not self.settings.preload and self.broken is not None:
            failed = events.WorkerBootFailed(index, incarnation, *self.broken)
            self._events.append(failed)
            self.crash(worker, ExitStatus(status=1))
        elif self.dying_starts:
            self.dying_starts -= 1
            self.crash(worker, ExitStatus(status=1))

    def _run_workers(self) -> None:
        for worker in list(self.workers.values()):
            worker.cpu_ns = int(worker.cpu_share * self.clock_ns)
            if worker.hung or worker.stopped:
                continue
            born_ns = self.scoreboard.words[self.scoreboard.base(worker.index) + 3]
            if worker.state == "starting" and self.clock_ns < born_ns + self.start_s * NS:
                continue
            if not worker.obey():
                self.crash(worker, ExitStatus())
                continue
            worker.read_inbox()
            worker.publish(self.clock_ns)


def publish(
    slot: Slot,
    beat_ns: int,
    busy: int = 0,
    waiting: int = 0,
    connections: int = 0,
    threads: int = 1,
    streams: int = 0,
    written_off: int = 0,
) -> None:
    """Write gauges and heartbeat; what is not said is zero."""
    slot.publish(beat_ns, busy, waiting, connections, threads, streams, written_off)


def only(things: list[_E] | Iterator[_E]) -> _E:
    """Return the one thing there is."""
    (thing,) = things
    return thing
