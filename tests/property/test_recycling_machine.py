"""The same manager on the same mad machine, with workers that are replaced all the time."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from spm.scoreboard import INCARNATION, RUN
from tests.fakes.server import FakeServer
from tests.property.test_manager_machine import GRACE_S, MAX_WORKERS, WORN_AT, ManagerMachine


class RecyclingMachine(ManagerMachine):
    """Workers are due after a few requests, after a while, and when they are fat.

    Those that compute have connections shifted away from them.
    """

    @initialize(
        low=st.integers(1, MAX_WORKERS), threads=st.integers(1, 3), jitter=st.integers(0, 3)
    )
    def start_recycling(self, low: int, threads: int, jitter: int) -> None:
        self.server = FakeServer(
            Path(self.directory.name),
            min_workers=low,
            max_workers=MAX_WORKERS,
            max_threads=threads,
            graceful_timeout_s=GRACE_S,
            boot_timeout_s=10,
            wedged_kill_s=20,
            incidents=("first", "second"),
            written_off_limit=WORN_AT,
            max_requests=2,
            max_requests_jitter=jitter,
            max_age_s=100,
            max_worker_memory_bytes=100 << 20,
        )
        self.system.during_wait = self.answer_nudges
        assert self.server.spm.start()

    start = None  # type: ignore[assignment]

    @rule(megabytes=st.sampled_from([20, 20, 200]))
    def grow(self, megabytes: int) -> None:
        self.system.memory["rss"] = megabytes << 20

    @rule(index=st.integers(0, 9), share=st.sampled_from([0.0, 0.5, 1.0]))
    def compute(self, index: int, share: float) -> None:
        worker = self.pick(index)
        if worker is not None:
            worker.cpu_share = share
            worker.connections = 8

    @rule(share=st.floats(0, 1))
    def fill_the_machine(self, share: float) -> None:
        self.system.cpu = share

    @precondition(lambda self: hasattr(self, "server"))
    @invariant()
    def no_generation_is_larger_than_the_maximum(self) -> None:
        commands = self.commands()
        board = self.system.scoreboard
        incarnations = {s: board.words[board.base(s) + INCARNATION] for s in commands}
        extra = self.silent_once | self.worn_once | self.scribblers
        spared = {s for s, number in incarnations.items() if number in extra}
        for generation in {g for c, g in commands.values() if c == RUN}:
            running = {s for s, (c, g) in commands.items() if c == RUN and g == generation}
            # And the replacement of the one whose turn it is.
            assert len(running - spared) <= MAX_WORKERS + 1

    def make_peace(self) -> None:
        self.system.memory["rss"] = 20 << 20
        self.system.cpu = 0.1
        for worker in self.system.alive():
            worker.cpu_share = 0.0
        super().make_peace()
        # Whoever was due is being replaced; in a time of peace it comes to an end.
        server = self.server
        low = server.settings.min_workers
        server.until(lambda: len(server.ready()) == server.total() == low, 100)


RecyclingMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestRecycling = RecyclingMachine.TestCase
