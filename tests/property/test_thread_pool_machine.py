"""The pool under any order of what happens to it: no job is lost, and the books balance.

Real threads; after each step the machine waits until none of them is on its way, and then
looks whether what `thread_pool.py` promises is so.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.httpcore_srv.pool_rig import LONG_S, Request, Rig

TINY_S = 0.000_5


class PoolMachine(RuleBasedStateMachine):
    """Submits, ends, steps aside, gets stuck, runs out of threads, rescues."""

    idle_s = LONG_S

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(1, self.idle_s)
        self.pool = self.rig.pool
        self.busy: list[Request] = []
        self.aside: list[Request] = []
        self.stuck: list[Request] = []
        self.leading: list[Request] = []  # begun or not: spare jobs, counted nowhere

    @initialize(min_threads=st.integers(0, 3))
    def choose(self, min_threads: int) -> None:
        self.pool.min_threads = min_threads

    def settle(self) -> None:
        """Wait until every thread is in a job, on the stack, or gone."""
        pool = self.pool
        self.rig.lock.wait_for(
            lambda: not pool._waking and pool.idle == len(pool._stack) - len(pool._jobs)
        )

    # -- what happens ----------------------------------------------------------------------

    @precondition(lambda self: self.pool.busy < self.pool.max_threads)
    @rule(count=st.integers(1, 4))
    def submit(self, count: int) -> None:
        """As a leader does with a batch: no thread has a chance to come between."""
        for _ in range(min(count, self.pool.max_threads - self.pool.busy)):
            request = Request(self.pool)
            self.rig.requests.append(request)
            if self.pool.submit(request):
                self.busy.append(request)

    @precondition(lambda self: len(self.leading) < 3)
    @rule()
    def run_aside(self) -> None:
        self.leading.append(self.rig.run_aside())

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.end_one(self.busy, data)

    @precondition(lambda self: self.leading)
    @rule(data=st.data())
    def end_leading(self, data: st.DataObject) -> None:
        self.end_one(self.leading, data)

    @precondition(lambda self: self.busy and self.pool.streams < self.pool.max_streams)
    @rule(data=st.data())
    def step_aside(self, data: st.DataObject) -> None:
        request = self.begun(self.busy, data)
        if request is not None:
            request.end_as(self.pool.stream_ended)
            with self.pool.lock:
                assert self.pool.step_aside()
            self.aside.append(request)

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def write_off(self, data: st.DataObject) -> None:
        request = self.begun(self.busy, data)
        if request is not None:
            request.end_as(self.pool.came_back)
            with self.pool.lock:
                self.pool.write_off()
            self.stuck.append(request)

    @precondition(lambda self: self.aside)
    @rule(data=st.data())
    def end_stream(self, data: st.DataObject) -> None:
        self.end_one(self.aside, data)

    @precondition(lambda self: self.stuck)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        self.end_one(self.stuck, data)

    @rule(exhausted=st.booleans())
    def change_what_the_system_has(self, exhausted: bool) -> None:
        self.rig.threads.exhausted = exhausted

    @precondition(lambda self: self.pool.stranded)
    @rule()
    def rescue(self) -> None:
        self.pool.rescue()

    def end_one(self, requests: list[Request], data: st.DataObject) -> None:
        request = self.begun(requests, data)
        if request is not None:
            request.end()
            self.rig.lock.wait_for(lambda: request.has_ended)

    def begun(self, requests: list[Request], data: st.DataObject) -> Request | None:
        """Take one that a thread runs; None if the one that was drawn waits for a thread."""
        self.settle()
        number = data.draw(st.integers(0, len(requests) - 1))
        return None if requests[number].begun.empty() else requests.pop(number)

    # -- what holds ------------------------------------------------------------------------

    @invariant()
    def the_books_balance(self) -> None:
        self.settle()
        pool = self.pool
        with pool.lock:
            assert not (pool._jobs and pool._stack)
            assert pool.streams == len(self.aside)
            assert pool.written_off == len(self.stuck)
            assert len(pool._jobs) <= pool.stranded, "a job waits that nobody will rescue"

    @invariant()
    def a_job_has_begun_or_waits(self) -> None:
        self.settle()
        unbegun = sum(request.begun.empty() for request in (*self.busy, *self.leading))
        assert unbegun == len(self.pool._jobs)

    def teardown(self) -> None:
        self.rig.threads.exhausted = False
        while self.pool.stranded:
            self.pool.rescue()
        self.rig.close()
        assert not self.pool._jobs
        assert all(not request.begun.empty() for request in (*self.busy, *self.leading))


class ShrinkingPoolMachine(PoolMachine):
    """The same with threads that leave at once, so that jobs come just as threads go."""

    idle_s = TINY_S


FEW = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestPool = PoolMachine.TestCase
TestPool.settings = FEW
TestShrinkingPool = ShrinkingPoolMachine.TestCase
TestShrinkingPool.settings = FEW
