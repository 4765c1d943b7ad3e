"""What goes into decide() and what comes out of it: frozen values."""

from __future__ import annotations

import enum
from math import inf
from typing import NamedTuple


class WorkerState(enum.Enum):
    """A worker as the policy sees it."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"  # as it was told; can be taken back
    EXITING = "exiting"  # on its way out, past taking back
    WEDGED = "wedged"  # ready once, and silent since: neither capacity nor a victim


class WorkerSeen(NamedTuple):
    """One worker at this look.

    cpu: share of a core it used lately; work: share of the time in which it had something to
    do; run_wait: share in which it was ready to run and had no core. worn: why it is to be
    replaced ("": it is not); then it counts as load and not as capacity.
    """

    slot: int
    state: WorkerState
    generation: int = 0
    busy: int = 0
    waiting: int = 0
    connections: int = 0
    spawned_s: float = 0.0
    cpu: float = 0.0
    work: float = 0.0
    run_wait: float = 0.0
    worn: str = ""


class CpuLook(NamedTuple):
    """How the workers used CPU time in the last moments, all together.

    load: cores they used or waited for. appetite: the share of a core that one of them would
    use if it had one for itself.
    """

    load: float
    appetite: float


class Death(NamedTuple):
    """A worker that ended without having been told to."""

    age_s: float
    was_ready: bool
    generation: int = 0


class Memory(NamedTuple):
    """What decide() remembers from look to look.

    samples: (time, arrivals, busy seconds) over the window; recent: (time, requests
    present if any waited) over the persistence time; peaks: (time, workers needed),
    falling, over the hold. appetite: share of a core that a worker would use, known while all
    cores are full, else 0. generation: whose failures are counted.
    """

    samples: tuple[tuple[float, float, float], ...] = ()
    recent: tuple[tuple[float, int], ...] = ()
    peaks: tuple[tuple[float, int], ...] = ()
    ended: int = 0
    service_s: float = 0.0
    mean_service_s: float = 0.0
    hold_s: float = 0.0
    relaxed_s: float = -inf
    spawned_s: float = -inf
    retired_s: float = -inf
    cpu_full_since_s: float = inf
    appetite: float = 0.0
    appetite_s: float = -inf
    generation: int = 0
    failed_starts: int = 0
    failed_s: float = -inf
    young_deaths: int = 0
    retry_s: float = -inf


class Observation(NamedTuple):
    """What the manager saw at this look.

    generation: the one that is to serve; workers of others count as load, not as capacity.
    arrived: requests begun since the start, by the living and the dead, and accept_queue.
    ended, service_s: requests finished since the start and the seconds they took.
    busy_s: the integral of busy threads over time.
    accept_queue: connections that nobody has accepted yet.
    deaths: since the last look.
    machine_cpu: share of the CPU time that may be used. cpu_pressure: share of the time in
        which somebody waited for a core. cpu_look: None while no request waits; then it is
        not measured.
    boot_s: how long a worker takes to start, as last measured; 0: not known.
    can_spawn: False while there is no template to fork from.
    floor: at least so many workers (a reload brings up as many as served before).
    reloading: the new generation is coming up: nothing is retired.
    """

    workers: tuple[WorkerSeen, ...]
    generation: int = 0
    arrived: int = 0
    ended: int = 0
    service_s: float = 0.0
    busy_s: float = 0.0
    accept_queue: int = 0
    deaths: tuple[Death, ...] = ()
    machine_cpu: float = 0.0
    cpu_pressure: float = 0.0
    cpu_look: CpuLook | None = None
    worker_memory_bytes: int = 0
    memory_available_bytes: int = 1 << 62
    boot_s: float = 0.0
    can_spawn: bool = True
    floor: int = 0
    reloading: bool = False
    memory: Memory = Memory()


class Actions(NamedTuple):
    """What to do now. At most one of (spawn and revive), retire and give_up is not empty.

    why: the reason, for the log; empty if there is nothing to do.
    pending: something was wanted that has to wait (a hold, a back-off, a fork under way),
        so look again soon.
    """

    memory: Memory
    spawn: int = 0
    revive: tuple[int, ...] = ()
    retire: tuple[int, ...] = ()
    give_up: bool = False
    wanted: int = 0
    demand: float = 0.0
    why: str = ""
    pending: bool = False
