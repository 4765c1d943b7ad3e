"""decide(): how many workers there should be. No clock, no system, no fork.

Demand is what Little's law says: requests in progress = arrivals per second x the time
each takes; arrivals count what lies in the accept queue, so load is seen before anybody
has accepted it. What waits already must be worked off in `drain_s`. From demand to
threads by square-root staffing, from threads to workers by division. On top of that:

* persistence: if something waited at every look of the last 50 ms, at least as many
  threads as requests were there; requests stuck behind slow ones do not show in the mean;
* CPU: one process more when every worker's core is full and the machine has another; none
  beyond what can be of use when all cores are full (see cpu_rules);
* up the whole difference at once, down only below what the *peak* of the last `hold_s`
  seconds needs, a quarter per half second; a retirement that is soon regretted doubles
  the hold.

Everything remembered travels in `Observation.memory` and comes back in `Actions.memory`.
"""

from __future__ import annotations

from math import ceil, inf, sqrt
from typing import Final, NamedTuple

from .cpu_rules import judge
from .observation import Actions, Memory, Observation, WorkerSeen, WorkerState
from .settings import SPMS

# Rounding noise must not cost a worker: 4.000000001 threads are 4.
_EPSILON: Final = 1e-9


class Policy(NamedTuple):
    """The constants of the rules. Times in seconds, shares from 0 to 1.

    spare: how many square roots of the demand are kept as reserve. 0 / 0.5 / 1 / 1.5 gave
        a p99 of 153 / 133 / 123 / 125 ms in a burst.
    slack: how many square roots of the workers needed are not worth retiring. In a steady
        load (60/s of 100 ms, Poisson, 4 minutes) 18 to 21 changes became 1 to 6.
    starting_limit: forks under way at once, of workers that start within boot_s; more only
        make each other slow.
    persist_s, moment_s: so long requests must have waited, and so much longer if the threads
        that there are would work them off in such a moment. Without the second a knot of
        arrivals in a quiet time brought workers that were not needed.
    hold_s, hold_max_s: how long the peak is remembered. 4 s gave one more oscillation.
        At most 16 s, so that a quiet server is small again within 20 s even after regret.
    cpu_persist_s: how long every worker's core must be full before another is asked for.
    """

    min_workers: int
    max_workers: int
    threads: int
    usable_cores: int = 1
    starting_limit: int = 4
    boot_s: float = 0.1
    spare: float = 1.0
    slack: float = 0.8
    drain_s: float = 0.5
    window_s: float = 0.5
    persist_s: float = 0.05
    moment_s: float = 0.05
    hold_s: float = 8.0
    hold_max_s: float = 16.0
    step_s: float = 0.5
    step_share: float = 0.25
    cpu_persist_s: float = 0.5
    memory_limit_bytes: int = 0
    memory_reserve_bytes: int = 0
    young_s: float = 5.0
    backoff_s: float = 0.1
    backoff_max_s: float = 30.0
    young_backoff_max_s: float = 1.0
    give_up_after: int = 5

    @classmethod
    def of(cls, settings: SPMS, usable_cores: int) -> Policy:
        """Return the policy for these settings on a machine with so many cores."""
        # A worker that imports the application itself is slow to come up, and importing
        # waits for the disk as much as for a core: more of them at once pay off.
        limit = max(4, 2 * usable_cores) if settings.preload else max(8, 4 * usable_cores)
        return cls(
            min_workers=settings.min_workers,
            max_workers=settings.max_workers,
            threads=settings.max_threads,
            usable_cores=usable_cores,
            starting_limit=limit,
            memory_limit_bytes=settings.memory_limit_bytes,
            memory_reserve_bytes=settings.memory_reserve_bytes,
        )


class _Crew(NamedTuple):
    """The workers of an observation, sorted out once."""

    live: int  # starting and ready ones of the generation that is to serve
    starting: int
    ready: tuple[WorkerSeen, ...]
    revivable: tuple[int, ...]
    worn: tuple[WorkerSeen, ...]
    waiting: int
    busy: int

    @classmethod
    def of(cls, seen: Observation) -> _Crew:
        current = [w for w in seen.workers if w.generation == seen.generation and not w.worn]
        worn = [w for w in seen.workers if w.worn and w.state is WorkerState.READY]
        ready = tuple(w for w in current if w.state is WorkerState.READY)
        # A starting worker counts as capacity: it was spawned for the very load we see
        # now. Otherwise every look would spawn again until it is up.
        starting = sum(w.state is WorkerState.STARTING for w in current)
        return cls(
            live=len(ready) + starting,
            starting=starting,
            ready=ready,
            revivable=tuple(w.slot for w in current if w.state is WorkerState.DRAINING),
            worn=tuple(worn),
            waiting=seen.accept_queue + sum(w.waiting for w in seen.workers),
            busy=sum(w.busy for w in seen.workers),
        )


def decide(seen: Observation, policy: Policy, now_s: float) -> Actions:
    """Choose what to do now. Same input, same output.

    Tighter than that: never more than max_workers, never fewer than min_workers wanted;
    nothing is retired while a worker starts, a request waits or a reload runs.
    """
    crew = _Crew.of(seen)
    memory = _account_for_deaths(seen, crew, policy, now_s)
    memory = _learn_service_time(seen, memory)
    memory, demand = _estimate_demand(seen, crew, memory, policy, now_s)
    memory, cpu = judge(
        seen, crew.ready, crew.live, memory, policy.usable_cores, policy.cpu_persist_s, now_s
    )
    ceiling = _ceiling(seen, crew, policy)
    useful = max(policy.min_workers, min(ceiling, cpu.most))
    wanted = max(workers_for(demand, policy), cpu.wanted, seen.floor)
    wanted = max(policy.min_workers, min(useful, wanted))
    needed = max(wanted, min(crew.live, useful, cpu.keep))
    hold_s = memory.hold_s or policy.hold_s
    memory = memory._replace(hold_s=hold_s, peaks=_peaks(memory, needed, hold_s, now_s))
    if crew.worn:
        # Before one leaves, there must be as many without it as the hold would keep.
        wanted = max(wanted, min(useful, memory.peaks[0][1]))

    nobody = not crew.ready and not crew.worn
    if memory.failed_starts >= policy.give_up_after and nobody and not seen.reloading:
        why = f"{memory.failed_starts} workers in a row died before one was ready"
        return Actions(memory, give_up=True, wanted=wanted, demand=demand, why=why)
    if wanted > crew.live:
        return _grow(seen, crew, memory, policy, now_s, wanted, demand)
    if crew.worn:
        return _replace_worn(crew, memory, wanted, demand)
    return _shrink(seen, crew, memory, policy, now_s, wanted, demand, ceiling)


def workers_for(demand: float, policy: Policy) -> int:
    """Return how many workers a demand (requests at once) needs, before any limit."""
    threads = demand + policy.spare * sqrt(demand)
    return ceil(threads / policy.threads - _EPSILON)


def _account_for_deaths(seen: Observation, crew: _Crew, policy: Policy, now_s: float) -> Memory:
    """Let failed starts wait longer each time; forget them when a worker has lasted."""
    memory = seen.memory
    if memory.generation != seen.generation:
        # What the old application's workers died of is no reason to make the new one wait.
        memory = memory._replace(
            generation=seen.generation, failed_starts=0, young_deaths=0, retry_s=-inf
        )
    failed, young = memory.failed_starts, memory.young_deaths
    failed_s, retry_s = memory.failed_s, memory.retry_s
    deaths = [death for death in seen.deaths if death.generation == seen.generation]
    if any(not death.was_ready for death in deaths):
        failed += 1
        pause_s = min(policy.backoff_max_s, policy.backoff_s * 2.0 ** min(failed, 32))
        failed_s, retry_s = now_s, max(retry_s, now_s + pause_s)
    if any(death.was_ready and death.age_s < policy.young_s for death in deaths):
        # It served before it died: somebody kills workers, or one request does. The
        # others still get their answers, so the first two are replaced at once and the
        # pause stays short; its only purpose is not to spend the machine on forking.
        young += 1
        if young > 2:
            pause_s = policy.backoff_s * 2.0 ** min(young - 3, 32)
            retry_s = max(retry_s, now_s + min(policy.young_backoff_max_s, pause_s))
    if not deaths and any(now_s - w.spawned_s >= policy.young_s for w in crew.ready):
        failed, young = 0, 0
    elif failed and any(w.spawned_s > failed_s for w in crew.ready):
        # Somebody has started since: only the row of failures counts.
        failed = 0
    elif failed and crew.ready and not deaths:
        # Nobody yet, but while one serves there is no giving up.
        failed = min(failed, policy.give_up_after - 1)
    return memory._replace(
        failed_starts=failed, failed_s=failed_s, young_deaths=young, retry_s=retry_s
    )


def _learn_service_time(seen: Observation, memory: Memory) -> Memory:
    """Follow the mean service time: half of it within about 20 requests."""
    ended = seen.ended - memory.ended
    if ended <= 0:
        return memory
    mean_s = max(0.0, seen.service_s - memory.service_s) / ended
    weight = min(1.0, ended / 32) if memory.ended else 1.0
    return memory._replace(
        ended=seen.ended,
        service_s=seen.service_s,
        mean_service_s=memory.mean_service_s + weight * (mean_s - memory.mean_service_s),
    )


def _estimate_demand(
    seen: Observation, crew: _Crew, memory: Memory, policy: Policy, now_s: float
) -> tuple[Memory, float]:
    """Return how many requests must be run at once, now."""
    samples = (*memory.samples, (now_s, float(seen.arrived), seen.busy_s))
    samples = samples[_first_in_window(samples, now_s - policy.window_s) :]
    present = crew.busy + crew.waiting if crew.waiting else 0
    recent = (*memory.recent, (now_s, present))
    # What the threads that there are work off in a moment, if their requests are like those
    # before, must persist for longer: it is over before another worker has started.
    soon = crew.waiting * memory.mean_service_s < policy.moment_s * policy.threads * crew.live
    persist_s = policy.persist_s + (policy.moment_s if soon else 0.0)
    recent = recent[_first_in_window(recent, now_s - persist_s) :]

    then_s, arrived, busy_s = samples[0]
    span_s = max(0.05, now_s - then_s)
    mean_s = memory.mean_service_s
    in_progress = max((seen.arrived - arrived) / span_s * mean_s, (seen.busy_s - busy_s) / span_s)
    demand = max(0.0, in_progress) + crew.waiting * mean_s / policy.drain_s
    if now_s - recent[0][0] >= 0.8 * persist_s:
        demand = max(demand, min(count for _, count in recent))
    return memory._replace(samples=samples, recent=recent), demand


def _first_in_window(samples: tuple[tuple[float, ...], ...], start_s: float) -> int:
    """Return the index of the last sample at or before the start of the window."""
    first = 0
    while first + 1 < len(samples) and samples[first + 1][0] <= start_s:
        first += 1
    return first


def _ceiling(seen: Observation, crew: _Crew, policy: Policy) -> int:
    """Return the most workers that memory allows, at least the minimum."""
    ceiling = policy.max_workers
    if policy.memory_limit_bytes and seen.worker_memory_bytes:
        ceiling = min(ceiling, policy.memory_limit_bytes // seen.worker_memory_bytes)
    if seen.memory_available_bytes < policy.memory_reserve_bytes:
        ceiling = min(ceiling, crew.live)
    return max(policy.min_workers, ceiling)


def _peaks(
    memory: Memory, needed: int, hold_s: float, now_s: float
) -> tuple[tuple[float, int], ...]:
    """Return the falling sequence of what was needed during the hold, peak first."""
    kept = tuple(p for p in memory.peaks if p[1] > needed and p[0] >= now_s - hold_s)
    return (*kept, (now_s, needed))


def _grow(
    seen: Observation,
    crew: _Crew,
    memory: Memory,
    policy: Policy,
    now_s: float,
    wanted: int,
    demand: float,
) -> Actions:
    """Take back who is draining, fork the rest, as many at once as is sensible."""
    soon = now_s - memory.retired_s < 2 * memory.hold_s
    if soon and crew.live >= policy.min_workers and not (seen.deaths or crew.worn):
        # Regret: what is wanted now was retired a moment ago. Hold on longer next time.
        hold_s = min(policy.hold_max_s, 2 * memory.hold_s)
        memory = memory._replace(hold_s=hold_s, relaxed_s=now_s, retired_s=-inf)
    missing = wanted - crew.live
    revive = crew.revivable[:missing]
    spawn = missing - len(revive)
    if now_s < memory.retry_s or not seen.can_spawn:
        spawn = 0
    spawn = min(spawn, max(0, _starting_limit(seen, policy) - crew.starting))
    if crew.waiting and seen.cpu_look is None and crew.live >= policy.min_workers:
        # Nobody knows yet whether they compute or sleep. It will have been measured at the
        # next look; until then no more than could compute at once.
        spawn = min(spawn, max(0, policy.usable_cores - crew.starting))
    why = ""
    if spawn or revive:
        memory = memory._replace(spawned_s=now_s)
        why = _why_grow(seen, crew, policy, wanted, demand)
    return Actions(
        memory, spawn=spawn, revive=revive, wanted=wanted, demand=demand, why=why, pending=True
    )


def _starting_limit(seen: Observation, policy: Policy) -> int:
    """Return how many may be starting at once: the more, the longer each of them takes."""
    return ceil(policy.starting_limit * max(1.0, seen.boot_s / policy.boot_s))


def _why_grow(seen: Observation, crew: _Crew, policy: Policy, wanted: int, demand: float) -> str:
    if crew.worn and crew.live + len(crew.worn) >= wanted:
        return "".join(f"in place of slot {w.slot}: {w.worn}" for w in crew.worn[:1])
    if crew.live < policy.min_workers:
        return f"{crew.live} of at least {policy.min_workers} are there"
    if wanted == seen.floor:
        return f"the new generation is to be {wanted} strong"
    if workers_for(demand, policy) > crew.live:
        return f"demand {demand:.1f} wants {wanted}, {crew.waiting} waiting"
    return f"the core of every worker is full: CPU wants {wanted}"


def _replace_worn(crew: _Crew, memory: Memory, wanted: int, demand: float) -> Actions:
    """Let a worker leave that was to be replaced, now that there are enough without it."""
    leaving = crew.worn[:1] if crew.ready and not crew.starting else ()
    why = "".join(f"{w.worn} in slot {w.slot}; its replacement is ready" for w in leaving)
    retire = tuple(w.slot for w in leaving)
    return Actions(memory, retire=retire, wanted=wanted, demand=demand, why=why, pending=True)


def _shrink(
    seen: Observation,
    crew: _Crew,
    memory: Memory,
    policy: Policy,
    now_s: float,
    wanted: int,
    demand: float,
    ceiling: int,
) -> Actions:
    """Retire what even the peak of the hold did not need."""
    hold_s = memory.hold_s
    if hold_s > policy.hold_s and now_s - memory.relaxed_s > 4 * hold_s:
        memory = memory._replace(hold_s=max(policy.hold_s, hold_s / 2), relaxed_s=now_s)
    keep = max(memory.peaks[0][1], wanted)
    over = crew.live - keep
    too_big = crew.live > ceiling  # the memory ceiling has come down on us
    # A few workers more than needed are let alone, except above the floor: by chance alone
    # the demand varies by its square root, and they would be missed at the next wave.
    band = max(1, round(policy.slack * sqrt(keep / policy.threads)))
    band = min(band, keep - policy.min_workers)
    pending = over > band or too_big
    calm = not crew.starting and not crew.waiting and not seen.reloading
    if (
        not pending
        or not calm
        or now_s - memory.retired_s < policy.step_s
        or (not too_big and now_s - memory.spawned_s < hold_s)
    ):
        return Actions(memory, wanted=wanted, demand=demand, pending=pending)
    count = max(1, min(over - band, int(policy.step_share * crew.live)))
    victims = sorted(
        crew.ready, key=lambda w: (w.busy + w.waiting, w.connections, -w.spawned_s, w.slot)
    )[:count]
    return Actions(
        memory._replace(retired_s=now_s),
        retire=tuple(w.slot for w in victims),
        wanted=wanted,
        demand=demand,
        why=f"memory allows {ceiling}" if over <= 0 else f"the peak of {hold_s:g} s needs {keep}",
        pending=True,
    )
