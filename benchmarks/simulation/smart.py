"""This server's rule: the real decide(), called as the manager calls it.

What `spm.observer` and `spm.manager` do around it is done here in the same rhythm: a look
every 100 ms, every 25 ms while something waits, 20 ms after the last one if a worker has
become full, at once if one was forked or has left, once a second if all is quiet. The integral
of busy threads is sampled at looks, as there. CPU time goes by way of the real Measures.
"""

from __future__ import annotations

from math import ceil
from time import perf_counter
from typing import Final

from benchmarks.simulation.crew import Life, Worker
from benchmarks.simulation.loads import Limits
from benchmarks.simulation.measured import Measured
from benchmarks.simulation.pool import Pool
from spm.observation import Actions, Death, Memory, Observation
from spm.policy import Policy, decide
from spm.settings import SPMS

NAME: Final = "smart"
_TICK_S: Final = 0.1
_QUIET_TICK_S: Final = 1.0
_WAITING_TICK_S: Final = 0.025
_POKE_GAP_S: Final = 0.02


def policy_of(limits: Limits, *, preload: bool = True) -> Policy:
    """Return the policy that the server would have; with more workers than it allows, too."""
    settings = SPMS(max_threads=limits.threads, preload=preload)
    policy = Policy.of(settings, max(1, ceil(limits.cores)))
    return policy._replace(min_workers=limits.min_workers, max_workers=limits.max_workers)


class Smart:
    """The manager, in simulated time.

    calls, decide_s: how often decide() was called, and the real time that took.
    """

    def __init__(self, policy: Policy, name: str = NAME) -> None:
        self.name = name
        self.wanted: int | None = None
        self.calls = 0
        self.decide_s = 0.0
        self._policy = policy
        self._memory = Memory()
        self._deaths: list[Death] = []
        self._looked_s = 0.0
        self._busy_s = 0.0
        self._busy_before = 0
        self._measures = Measured()

    def first(self, limits: Limits) -> int:
        """Return how many workers there are at the start."""
        return limits.min_workers

    def look(self, pool: Pool) -> float:
        """Observe, decide, act."""
        seen = self._observe(pool)
        began = perf_counter()
        actions = decide(seen, self._policy, pool.now_s)
        self.decide_s += perf_counter() - began
        self.calls += 1
        self._memory, self.wanted = actions.memory, actions.wanted
        self._act(pool, actions)
        return pool.now_s + self._gap_s(pool, actions)

    def full(self, pool: Pool) -> float | None:
        """It pokes the manager, who looks every 20 ms at most."""
        return max(pool.now_s, self._looked_s + _POKE_GAP_S)

    def news(self, pool: Pool) -> float | None:
        """Any event makes the manager look at once."""
        return pool.now_s

    def died(self, pool: Pool, worker: Worker) -> float | None:
        """Also a death."""
        was_ready = worker.ready_s is not None
        self._deaths.append(Death(pool.now_s - worker.spawned_s, was_ready))
        return pool.now_s

    def _observe(self, pool: Pool) -> Observation:
        now_s = pool.now_s
        self._busy_s += self._busy_before * (now_s - self._looked_s)
        self._busy_before = pool.running
        self._looked_s = now_s
        measures = self._measures.look(pool)
        deaths, self._deaths = tuple(self._deaths), []
        return Observation(
            workers=tuple([worker.seen() for worker in pool.workers.values()]),
            arrived=pool.begun + len(pool.queue),
            ended=pool.ended,
            service_s=pool.service_s,
            busy_s=self._busy_s,
            accept_queue=len(pool.queue),
            deaths=deaths,
            machine_cpu=measures.machine_cpu,
            cpu_pressure=measures.cpu_pressure,
            cpu_look=measures.cpu_look,
            boot_s=pool.boot_s,
            memory=self._memory,
        )

    def _act(self, pool: Pool, actions: Actions) -> None:
        if actions.give_up:
            pool.notes.gave_up = True
            self._memory = self._memory._replace(failed_starts=0)
        for slot in actions.revive:
            worker = pool.workers[slot]
            if worker.life is Life.DRAINING:
                pool.revive(worker)
        if actions.spawn:
            pool.spawn(actions.spawn)
        for slot in actions.retire:
            pool.retire(pool.workers[slot])

    def _gap_s(self, pool: Pool, actions: Actions) -> float:
        limits = pool.limits
        waiting = len(pool.queue)
        settled = pool.ready == len(pool.workers) == limits.min_workers
        if not actions.pending and not waiting and not pool.running and settled:
            return _QUIET_TICK_S
        if waiting and pool.live < limits.max_workers:
            return _WAITING_TICK_S
        return _TICK_S
