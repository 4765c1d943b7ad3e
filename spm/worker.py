"""WorkerHandle: a worker as the manager sees it.

                    spawn
                      v
STARTING -> READY <-> WEDGED (silent; comes back when its heart beats again)
              ^ |
       revive | | drain
              | v
           DRAINING -> EXITING -> gone        any of them -> gone (killed, crashed)
"""

from __future__ import annotations

from typing import Final, NamedTuple

from .cpu_rules import share_without_core
from .exit_status import ExitStatus
from .histogram import BUCKETS, add
from .observation import WorkerSeen, WorkerState
from .scoreboard import (
    DRAIN,
    MAX_INCIDENTS,
    NOW,
    RUN,
    STATE_DRAINING,
    STATE_EXITING,
    STATE_NONE,
    STATE_READY,
    Row,
    Scoreboard,
)

# No worker in pure Python serves a tenth of it. A counter that grows faster lies.
_MAX_REQUESTS_PER_S: Final = 1_000_000
# A poke wakes a worker in less than a millisecond; this is for a machine that is full.
_TIME_TO_LOOK_NS: Final = 1_000_000_000
# More requests than this were never inside one worker at once.
_LOST_LIMIT: Final = 10_000


class Totals(NamedTuple):
    """Counters of one worker, or of many together; they only ever grow."""

    begun: int = 0
    ended: int = 0
    service_ns: int = 0
    accepted: int = 0
    handed_out: int = 0
    handed_in: int = 0
    errors: int = 0
    incidents: tuple[int, ...] = (0,) * MAX_INCIDENTS

    def plus(self, other: Totals) -> Totals:
        """Return the sums."""
        return Totals(
            self.begun + other.begun,
            self.ended + other.ended,
            self.service_ns + other.service_ns,
            self.accepted + other.accepted,
            self.handed_out + other.handed_out,
            self.handed_in + other.handed_in,
            self.errors + other.errors,
            tuple(map(sum, zip(self.incidents, other.incidents, strict=True))),
        )

    @property
    def unfinished(self) -> int:
        """Requests that were begun and never ended, of a worker that is dead."""
        return max(0, min(_LOST_LIMIT, self.begun - self.ended))

    def follow(self, row: Row, elapsed_ns: int, age_ns: int, threads: int) -> Totals:
        """Return these totals, moved on to what the row says now, as far as it is credible.

        The row is written by a process that runs somebody's application: a stray write
        must not make the server's totals nonsense for ever. A counter that goes back or
        leaps is ignored until it is credible again.
        """
        most = _MAX_REQUESTS_PER_S * (elapsed_ns + 1_000_000_000) // 1_000_000_000
        # All threads busy since the spawn, and as much again three times for what the
        # worker may count besides (waiting for a slow client, say).
        most_service_ns = 4 * threads * (age_ns + 1_000_000_000)
        credible_service = self.service_ns <= row.service_ns <= most_service_ns
        return Totals(
            begun=_credible(self.begun, row.begun, most),
            ended=_credible(self.ended, row.ended, most),
            service_ns=row.service_ns if credible_service else self.service_ns,
            accepted=_credible(self.accepted, row.accepted, most),
            handed_out=_credible(self.handed_out, row.handed_out, most),
            handed_in=_credible(self.handed_in, row.handed_in, most),
            errors=_credible(self.errors, row.errors, most),
            incidents=tuple(
                _credible(known, said, most)
                for known, said in zip(self.incidents, row.incidents, strict=True)
            ),
        )


def _credible(known: int, said: int, most: int) -> int:
    return said if known <= said <= known + most else known


class WorkerHandle:
    """One worker, from the request to fork it until its process is known to be gone."""

    command: int = RUN  # what it was told last; the row's word may have been overwritten
    pid: int = 0
    looked_ns: int = 0
    totals: Totals = Totals()
    state: WorkerState = WorkerState.STARTING
    ready_ns: int = 0  # when it was first seen ready
    revived_ns: int = 0  # when it was last taken back from draining
    now_deadline_ns: int = 0  # when it is told to leave at once; 0: never
    kill_deadline_ns: int = 0  # when it gets SIGKILL; 0: never
    wedged_ns: int = 0  # when it was last found silent
    stopped_ns: int = 0  # when it was last seen stopped by a signal or a debugger
    killed: bool = False
    hopeless: bool = False  # it never came up, or went silent for good
    memory_bytes: int = 0  # resident, at the last look; 0: not looked at
    cpu: float = 0.0
    cpu_ns: int = 0
    cpu_looked_ns: int = 0
    work: float = 0.0  # share of the time in which it had something to do
    work_ns: int = 0  # so long since `work` was reckoned
    run_wait: float = 0.0
    run_wait_ns: int = 0
    run_wait_looked_ns: int = 0
    exit_status: ExitStatus | None = None

    def __init__(
        self,
        slot: int,
        incarnation: int,
        generation: int,
        template: int,
        spawned_ns: int,
        row: Row,
        request_limit: int = 0,
    ) -> None:
        """request_limit: it is to be replaced after so many; 0: never."""
        self.slot = slot
        self.incarnation = incarnation
        self.generation = generation
        self.template = template
        self.spawned_ns = spawned_ns
        self.row = row
        self.request_limit = request_limit

    @property
    def was_ready(self) -> bool:
        """Whether it ever served."""
        return self.ready_ns > 0

    @property
    def told_to_leave(self) -> bool:
        """Whether its end is what the manager wanted, or what it said it was about to do.

        A worker that was taken back in the very moment it left says EXITING.
        """
        if self.hopeless:
            return False
        return self.state in (WorkerState.DRAINING, WorkerState.EXITING)

    def look(self, scoreboard: Scoreboard, now_ns: int, stale_before_ns: int, threads: int) -> None:
        """Read the worker's row.

        stale_before_ns: a ready worker whose last heartbeat is older is wedged.
        threads: how many it may have; bounds what it can claim to have worked.
        """
        # The manager's words as the manager knows them: the worker could have written there.
        row = scoreboard.row(self.slot)._replace(
            command=self.command,
            incarnation=self.incarnation,
            generation=self.generation,
        )
        if not row.started:
            # Nobody has written there yet: what stands there is nothing.
            self.row = self.row._replace(command=self.command)
            self.state = self._state(self.row, now_ns, stale_before_ns)
            return
        self.row = row
        elapsed_ns = now_ns - (self.looked_ns or self.spawned_ns)
        age_ns = now_ns - self.spawned_ns
        self.totals = self.totals.follow(row, elapsed_ns, age_ns, threads)
        self.looked_ns = now_ns
        if row.state == STATE_READY and not self.ready_ns:
            self.ready_ns = now_ns
        self.state = self._state(row, now_ns, stale_before_ns)

    def _state(self, row: Row, now_ns: int, stale_before_ns: int) -> WorkerState:
        if row.command == DRAIN and row.state != STATE_EXITING:
            return WorkerState.DRAINING
        if row.state == STATE_EXITING or row.command == NOW:
            return WorkerState.EXITING
        if row.state == STATE_DRAINING:
            # Taken back a moment ago, it has not looked yet and will be capacity again; or
            # nobody told it to drain, it leaves of its own accord and cannot be taken back.
            taken_back = now_ns - self.revived_ns < _TIME_TO_LOOK_NS
            return WorkerState.READY if taken_back else WorkerState.EXITING
        if row.state == STATE_NONE:
            return WorkerState.STARTING
        if self.last_beat_ns < stale_before_ns:
            return WorkerState.WEDGED
        return WorkerState.READY

    @property
    def last_beat_ns(self) -> int:
        """When it was last known to be alive inside."""
        # A time in the future is a lie, but a harmless one: SIGKILL comes later.
        return max(self.row.beat_ns, self.ready_ns, self.spawned_ns)

    def histogram(self, scoreboard: Scoreboard) -> list[int]:
        """Return the worker's histogram, no bucket fuller than its requests are many."""
        if scoreboard.row(self.slot).echo != self.incarnation:
            return [0] * BUCKETS
        # Between bucket and total a few requests may lie that are being accounted for.
        limit = self.totals.ended + 4096
        return [min(count, limit) for count in scoreboard.histogram(self.slot)]

    def measure_cpu(self, cpu_ns: int | None, now_ns: int) -> None:
        """Note the process's CPU time; `cpu` is the share of a core since the last time."""
        if cpu_ns is None:
            return
        elapsed_ns = now_ns - self.cpu_looked_ns
        if self.cpu_looked_ns and elapsed_ns > 0:
            self.cpu = max(0.0, (cpu_ns - self.cpu_ns) / elapsed_ns)
            self.work, self.work_ns = min(1.0, self.work_ns / elapsed_ns), 0
        self.cpu_ns, self.cpu_looked_ns = cpu_ns, now_ns

    def measure_run_wait(self, run_wait_ns: int | None, now_ns: int) -> None:
        """Note how long its threads were ready to run and had no core.

        `run_wait` is the share of the time since the last look. After measure_cpu().
        """
        if run_wait_ns is None:
            return
        elapsed_ns = now_ns - self.run_wait_looked_ns
        if self.run_wait_looked_ns and elapsed_ns > 0:
            # Less than before: threads have ended, and took their share with them.
            waits = max(0.0, (run_wait_ns - self.run_wait_ns) / elapsed_ns)
            self.run_wait = share_without_core(self.cpu, waits)
        self.run_wait_ns, self.run_wait_looked_ns = run_wait_ns, now_ns

    def forget_run_wait(self) -> None:
        """There are cores enough, so nobody waits for one."""
        self.run_wait, self.run_wait_looked_ns = 0.0, 0

    def seen(self, worn: str) -> WorkerSeen:
        """Return what the policy is to know of it; worn: why it is to be replaced, or ""."""
        return WorkerSeen(
            slot=self.slot,
            state=self.state,
            generation=self.generation,
            busy=self.row.busy,
            waiting=self.row.waiting,
            connections=self.row.connections,
            spawned_s=self.spawned_ns / 1e9,
            cpu=self.cpu,
            work=self.work,
            run_wait=self.run_wait,
            worn=worn,
        )


class Departed:
    """What is left of the workers that are gone: their totals."""

    def __init__(self) -> None:
        self.totals = Totals()
        self.histogram = [0] * BUCKETS
        self.lost = 0
        self.restarts = 0

    def bury(self, handle: WorkerHandle, scoreboard: Scoreboard, *, expected: bool) -> int:
        """Add a dead worker's numbers; return how many requests died with it."""
        self.totals = self.totals.plus(handle.totals)
        self.histogram = add(self.histogram, handle.histogram(scoreboard))
        lost = handle.totals.unfinished
        self.lost += lost
        self.restarts += not expected
        return lost
