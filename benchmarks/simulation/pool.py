"""Pool: workers and the queue before them, event by event.

One line of requests before all workers, as the shared listener is; a request goes to the
worker that has had a free thread for longest, as fresh registrations with EPOLLEXCLUSIVE
make it. A rule looks when it wants to, and forks and retires through the pool.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Final, Protocol

from benchmarks.simulation.cores import Cores
from benchmarks.simulation.crew import Life, Worker
from benchmarks.simulation.figures import Figures, Notes
from benchmarks.simulation.loads import Limits, Load

# How much boot times vary: half of them lie within a sixth of their middle.
_BOOT_SPREAD: Final = 0.25
_FORK_S: Final = 0.002  # from the order to fork until the manager hears that it was done
_EXIT_S: Final = 0.003  # from the last request to the end of the process
# What is still there so long after the end of the load counts as unserved.
PATIENCE_S: Final = 120.0


class Rule(Protocol):
    """Decides how many workers there are. Every look may return when to look next."""

    name: str
    wanted: int | None

    def first(self, limits: Limits) -> int:
        """Return how many workers there are at the start."""

    def look(self, pool: Pool) -> float:
        """Act; return the time of the next look."""

    def full(self, pool: Pool) -> float | None:
        """A worker's last thread was taken. Return when to look, if earlier."""

    def news(self, pool: Pool) -> float | None:
        """A worker was forked or has left. Return when to look, if earlier."""

    def died(self, pool: Pool, worker: Worker) -> float | None:
        """A worker died. Return when to look, if earlier."""


class Pool:
    """One load on one rule. Times in seconds from 0; the same seed gives the same load."""

    def __init__(self, load: Load, limits: Limits, rule: Rule, seed: int = 1) -> None:
        self.load = load
        self.limits = limits
        self.rule = rule
        self.now_s = 0.0
        self.boot_s = 0.0  # how long the last worker took to start
        self.workers: dict[int, Worker] = {}  # in whatever state, by slot
        self.live = 0  # starting and ready ones
        self.ready = 0
        self.queue: deque[tuple[float, float]] = deque()  # (arrived, takes)
        self.arrived = self.begun = self.ended = 0
        self.running = 0
        self.service_s = 0.0  # of the ended ones
        self.cores = Cores(limits.cores)
        self.notes = Notes(load, limits)
        # Each matter has its own numbers: a rule that forks more sees the same requests.
        self._requests = load.requests(Random(f"{seed} requests"))
        self._boots = Random(f"{seed} boots")
        self._kills = Random(f"{seed} kills")
        self._clients = Random(f"{seed} clients")
        self._events: list[tuple[float, int, Callable[[object], None], object]] = []
        self._sequence = 0
        self._free: deque[Worker] = deque()
        self._free_slots: list[int] = []
        self._next_slot = 0
        self._incarnations = 1
        self._look_s = -1.0  # none is planned
        self._cores_s: float | None = None
        self._threads = limits.threads
        self._io_share = 1.0 - load.cpu_share

    # --- for rules ------------------------------------------------------------------

    def spawn(self, count: int) -> None:
        """Fork workers; they are ready when they have booted."""
        for _ in range(count):
            self._start(self._boot_time())
            self._after(_FORK_S, self._heard, None)
        self._counted()
        self.notes.spawned(self.now_s, count, self.live)

    def retire(self, worker: Worker) -> None:
        """Tell a ready worker to finish what it has and leave."""
        worker.become(Life.DRAINING)
        self.live -= 1
        self.ready -= 1
        self.notes.retired(self.now_s, self.live)
        if not worker.busy:
            self._exit(worker)

    def revive(self, worker: Worker) -> None:
        """Take back a worker that is still draining."""
        worker.become(Life.READY)
        self.live += 1
        self.ready += 1
        self.notes.spawned(self.now_s, 1, self.live)
        self._offer(worker)

    # --- the run --------------------------------------------------------------------

    def run(self) -> Figures:
        """Let the whole load pass; return what came out."""
        for _ in range(self.rule.first(self.limits)):
            self._make_ready(self._start(None))
        self._counted()
        self.notes.most = self.live
        self._look_by(0.0)
        self._after(0.0, self._sample, None)
        self._next_arrival()
        for client in range(self.load.clients):
            self._after(client * 0.01 / self.load.clients, self._ask, None)
        if self.load.kill_every_s:
            self._after(self.load.kills[0], self._kill, None)
        events, length_s = self._events, self.load.length_s
        while events:
            at_s, _, handle, what = heappop(events)
            over = at_s > length_s and not self.running and not self.queue
            if over or at_s > length_s + PATIENCE_S:
                break
            self.now_s = at_s
            handle(what)
        return self.notes.figures(self.rule.name, self.now_s, self.arrived, self.ended)

    def _after(self, delay_s: float, handle: Callable[[object], None], what: object) -> None:
        self._sequence += 1
        heappush(self._events, (self.now_s + delay_s, self._sequence, handle, what))

    def _look_by(self, at_s: float | None) -> None:
        """Look at that time at the latest."""
        if at_s is not None and not self.now_s <= self._look_s <= at_s:
            self._look_s = at_s = max(at_s, self.now_s)
            self._after(at_s - self.now_s, self._look, at_s)

    def _look(self, planned_s: object) -> None:
        if planned_s != self._look_s:
            return  # another look has come before this one
        self._look_s = -1.0
        self._look_by(self.rule.look(self))

    def _heard(self, _: object) -> None:
        self._look_by(self.rule.news(self))

    def _sample(self, _: object) -> None:
        self._note()
        self._after(self.notes.sample_gap_s, self._sample, None)

    def _note(self) -> None:
        self.notes.look(self.now_s, self.live, self.ready, self.rule.wanted, len(self.queue))

    def _counted(self) -> None:
        self.notes.counted(self.now_s, len(self.workers))

    # --- requests -------------------------------------------------------------------

    def _next_arrival(self) -> None:
        request = next(self._requests, None)
        if request is not None:
            at_s, service_s = request
            self._after(at_s - self.now_s, self._arrive, service_s)

    def _arrive(self, service_s: object) -> None:
        assert isinstance(service_s, float)
        self._admit(service_s)
        self._next_arrival()

    def _ask(self, _: object) -> None:
        """One client of a closed loop asks."""
        if self.now_s < self.load.length_s:
            self._admit(self.load.service(self._clients))

    def _admit(self, service_s: float) -> None:
        self.arrived += 1
        while self._free:
            worker = self._free.popleft()
            worker.listed = False
            if worker.life is Life.READY:
                self._begin(worker, self.now_s, service_s)
                return
        self.queue.append((self.now_s, service_s))

    def _begin(self, worker: Worker, arrived_s: float, service_s: float) -> None:
        worker.busy += 1
        self.begun += 1
        self.running += 1
        self.notes.waited(arrived_s, self.now_s - arrived_s)
        if self._io_share > 0.0:
            what = (worker, arrived_s, self.now_s, service_s)
            self._after(service_s * self._io_share, self._has_waited, what)
        else:
            self._compute(worker, arrived_s, self.now_s, service_s)
        if worker.busy < self._threads:
            worker.listed = True
            self._free.append(worker)
        else:
            self._look_by(self.rule.full(self))

    def _has_waited(self, what: object) -> None:
        assert isinstance(what, tuple)
        worker, arrived_s, began_s, service_s = what
        if worker.life is Life.GONE:
            return  # it was killed, and the request with it
        if self.load.cpu_share > 0.0:
            self._compute(worker, arrived_s, began_s, service_s * self.load.cpu_share)
        else:
            self._end(worker, arrived_s, began_s)

    def _compute(self, worker: Worker, arrived_s: float, began_s: float, cpu_s: float) -> None:
        finished = self.cores.advance(self.now_s)
        self.cores.begin(worker, cpu_s, arrived_s, began_s)
        self._finish(finished)

    def _cores_turn(self, planned_s: object) -> None:
        if planned_s == self._cores_s:
            self._cores_s = None
            self._finish(self.cores.advance(self.now_s))

    def _finish(self, finished: list[tuple[Worker, float, float]]) -> None:
        for worker, arrived_s, began_s in finished:
            self._end(worker, arrived_s, began_s)
        next_s = self.cores.next_end_s()
        if next_s is not None and next_s != self._cores_s:
            self._cores_s = next_s
            self._sequence += 1
            heappush(self._events, (next_s, self._sequence, self._cores_turn, next_s))

    def _end(self, worker: Worker, arrived_s: float, began_s: float) -> None:
        took_s = self.now_s - began_s
        worker.busy -= 1
        worker.running_s += took_s
        self.running -= 1
        self.ended += 1
        self.service_s += took_s
        self.notes.answered(arrived_s, self.now_s - arrived_s)
        if self.load.clients:
            self._after(0.0, self._ask, None)
        if worker.life is Life.READY:
            self._offer(worker)
        elif not worker.busy:
            self._exit(worker)

    def _offer(self, worker: Worker) -> None:
        """Let a ready worker take what waits, as far as it has threads."""
        while self.queue and worker.busy < self._threads and not worker.listed:
            self._begin(worker, *self.queue.popleft())
        if not worker.listed and worker.busy < self._threads:
            worker.listed = True
            self._free.append(worker)

    # --- workers --------------------------------------------------------------------

    def _boot_time(self) -> float:
        # Lognormal: never negative, now and then much longer. Corrected for its mean.
        factor = self._boots.lognormvariate(-(_BOOT_SPREAD**2) / 2, _BOOT_SPREAD)
        return self.load.boot_s * factor

    def _start(self, boot_s: float | None) -> Worker:
        """Make a worker; None: it is somebody else who makes it ready."""
        if self._free_slots:
            slot = heappop(self._free_slots)
        else:
            slot, self._next_slot = self._next_slot, self._next_slot + 1
        worker = self.workers[slot] = Worker(slot, self._incarnations, self.now_s, self._threads)
        self._incarnations += 1
        self.live += 1
        if boot_s is not None:
            fails = self._boots.random() < self.load.boot_failures
            self._after(boot_s, self._fail if fails else self._ready, worker)
        return worker

    def _ready(self, worker: object) -> None:
        assert isinstance(worker, Worker)
        self._make_ready(worker)
        self._note()

    def _make_ready(self, worker: Worker) -> None:
        worker.ready_s = self.now_s
        self.boot_s = self.now_s - worker.spawned_s
        worker.become(Life.READY)
        self.ready += 1
        self._offer(worker)

    def _fail(self, worker: object) -> None:
        assert isinstance(worker, Worker)
        self._die(worker)

    def _kill(self, _: object) -> None:
        """SIGKILL for a random ready worker."""
        victims = [worker for worker in self.workers.values() if worker.life is Life.READY]
        if victims:
            self._die(self._kills.choice(victims))
        if self.now_s + self.load.kill_every_s < self.load.kills[1]:
            self._after(self.load.kill_every_s, self._kill, None)

    def _die(self, worker: Worker) -> None:
        finished = self.cores.advance(self.now_s)
        self._finish(finished)
        self.cores.drop(worker)
        self.live -= 1
        self.ready -= worker.life is Life.READY
        self.running -= worker.busy
        self.notes.died(worker.busy)
        for _ in range(worker.busy if self.load.clients else 0):
            self._after(0.0, self._ask, None)
        self._bury(worker)
        self._note()
        self._look_by(self.rule.died(self, worker))

    def _exit(self, worker: Worker) -> None:
        worker.become(Life.EXITING)
        self._after(_EXIT_S, self._leave, worker)

    def _leave(self, worker: object) -> None:
        assert isinstance(worker, Worker)
        self._bury(worker)
        self._look_by(self.rule.news(self))

    def _bury(self, worker: Worker) -> None:
        worker.become(Life.GONE)
        del self.workers[worker.slot]
        heappush(self._free_slots, worker.slot)
        self._counted()
