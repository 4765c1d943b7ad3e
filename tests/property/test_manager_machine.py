"""The manager against a machine on which anything may happen at any time.

Workers are loaded, hang, are stopped, are killed, write rubbish into their rows; templates are
killed, also between a fork and the word of it, hang, cannot import, cannot fork; wake-ups get
lost; connections are on their way between workers; somebody asks for reloads. After each
step everything that must always hold is checked, and at the end, when peace has come,
everything that must hold in the end.
"""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from spm.scoreboard import (
    BEAT,
    BEGUN,
    COMMAND,
    ECHO,
    ENDED_INLINE,
    FREE,
    GENERATION,
    HISTOGRAM,
    INCARNATION,
    INCIDENTS,
    RUN,
    STATE,
    WAITING,
    WRITTEN_OFF,
)
from tests.fakes.server import FakeServer
from tests.fakes.system import FakeSystem, FakeWorker

MAX_WORKERS = 3
GRACE_S = 5
WORN_AT = 2  # threads written off
# Where rubbish does most, and what does most there; INCARNATION: what is read there just now.
PLACES = (ECHO, STATE, BEAT, WAITING, BEGUN, ENDED_INLINE, WRITTEN_OFF, HISTOGRAM, INCIDENTS)
RUBBISH = (0, 1, 2, 3, 4, 1 << 20, 1 << 40, 1 << 63, (1 << 64) - 1)


class ManagerMachine(RuleBasedStateMachine):
    """Rules are what the world does; the manager does the rest in `run`."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.server: FakeServer
        self.sent: list[bytes] = []
        self.silent_once: set[int] = set()
        self.worn_once: set[int] = set()
        self.scribblers: set[int] = set()
        self.nudges: dict[int, int] = {}  # that a worker has answered
        self.begun = 0
        self.serving = False  # whether a healthy worker was ready before this step

    @initialize(
        low=st.integers(1, MAX_WORKERS),
        threads=st.integers(1, 3),
        max_requests=st.sampled_from([0, 3]),
    )
    def start(self, low: int, threads: int, max_requests: int) -> None:
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
            max_requests=max_requests,
        )
        self.system.during_wait = self.answer_nudges
        assert self.server.spm.start()

    # --- helpers ---------------------------------------------------------------------------

    @property
    def system(self) -> FakeSystem:
        return self.server.system

    def pick(self, index: int) -> FakeWorker | None:
        alive = self.system.alive()
        return alive[index % len(alive)] if alive else None

    def commands(self) -> dict[int, tuple[int, int]]:
        board = self.system.scoreboard
        bases = map(board.base, range(board.slots))
        return {
            slot: (board.words[base + COMMAND], board.words[base + GENERATION])
            for slot, base in enumerate(bases)
        }

    def answer_nudges(self) -> None:
        """Each that was told to look at the listener accepts one connection.

        Nobody else does: of all that lies in the queue the wake-ups were lost.
        """
        for worker in self.server.ready():
            answered = self.nudges.get(worker.incarnation, 0)
            if not worker.hung and not worker.stopped and worker.nudges > answered:
                self.nudges[worker.incarnation] = answered + 1
                self.server.queue = max(0, self.server.queue - 1)

    # --- the world -----------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.5, 2.0, 9.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.server.run(seconds)

    @rule(index=st.integers(0, 9), count=st.integers(1, 3))
    def load(self, index: int, count: int) -> None:
        worker = self.pick(index)
        if worker is None or worker.hung or worker.state != "ready":
            return
        worker.begin(count)
        self.begun += count
        self.system.poke_manager(worker)

    @rule(index=st.integers(0, 9))
    def finish(self, index: int) -> None:
        worker = self.pick(index)
        if worker is not None and worker.busy:
            worker.end(worker.busy)

    @rule(count=st.integers(0, 20))
    def queue_connections(self, count: int) -> None:
        self.server.queue = count

    @rule(index=st.integers(0, 9))
    def hang(self, index: int) -> None:
        worker = self.pick(index)
        if worker is not None:
            worker.hung = True
            self.silent_once.add(worker.incarnation)
            self.serving = False

    @rule(index=st.integers(0, 9))
    def stop(self, index: int) -> None:
        worker = self.pick(index)
        if worker is not None:
            worker.stopped = True
            self.silent_once.add(worker.incarnation)
            self.serving = False

    @rule(index=st.integers(0, 9))
    def wake(self, index: int) -> None:
        worker = self.pick(index)
        if worker is not None:
            worker.hung = worker.stopped = False

    @rule(index=st.integers(0, 9), place=st.sampled_from(PLACES), word=st.sampled_from(RUBBISH))
    def scribble(self, index: int, place: int, word: int) -> None:
        """A stray write of an application into its worker's row."""
        worker = self.pick(index)
        if worker is not None:
            board = self.system.scoreboard
            board.words[board.base(worker.index) + place] = word
            self.scribblers.add(worker.incarnation)
            self.serving = False

    @rule(index=st.integers(0, 9), written_off=st.integers(0, 3))
    def write_threads_off(self, index: int, written_off: int) -> None:
        worker = self.pick(index)
        if worker is not None:
            worker.written_off = written_off
            if written_off >= WORN_AT:
                self.worn_once.add(worker.incarnation)

    @rule(index=st.integers(0, 9), streams=st.integers(0, 3))
    def stream(self, index: int, streams: int) -> None:
        worker = self.pick(index)
        if worker is not None:
            worker.streams = streams

    @rule(index=st.integers(0, 9), kind=st.integers(0, 1))
    def have_an_incident(self, index: int, kind: int) -> None:
        worker = self.pick(index)
        if worker is not None and not worker.hung:
            worker.incidents[kind] += 1
            worker.slot.incident(kind, worker.incidents[kind])

    @rule(index=st.integers(0, 9))
    def kill_a_worker(self, index: int) -> None:
        worker = self.pick(index)
        if worker is not None:
            self.system.crash(worker)
            self.serving = False

    @rule(index=st.integers(0, 9))
    def kill_a_template(self, index: int) -> None:
        numbers = sorted(self.system.templates)
        if numbers:
            self.system.crash_template(numbers[index % len(numbers)])

    @rule(index=st.integers(0, 9))
    def kill_a_template_that_is_forking(self, index: int) -> None:
        """The worker is there, and nobody has said so to the manager."""
        numbers = [n for n, template in self.system.templates.items() if template.requests]
        if numbers:
            self.system.crash_template_in_fork(numbers[index % len(numbers)])

    @rule(stuck=st.booleans())
    def hold_up_templates(self, stuck: bool) -> None:
        for template in self.system.templates.values():
            template.stuck = stuck

    @rule(message=st.sampled_from([None, "syntax error"]))
    def edit_the_application(self, message: str | None) -> None:
        self.system.broken = (message, 2) if message else None

    @rule(count=st.integers(1, 3))
    def run_out_of_processes(self, count: int) -> None:
        self.system.forks_fail = count

    @rule(seconds=st.sampled_from([0.0, 0.3, 3.0]))
    def make_starting_slow(self, seconds: float) -> None:
        self.system.start_s = seconds

    @rule(index=st.integers(0, 2 * MAX_WORKERS - 1))
    def hand_a_connection_to_a_slot(self, index: int) -> None:
        """A sibling chose it a moment ago; whoever was there may be gone by now."""
        message = b"%d" % len(self.sent)
        fd = os.open(os.devnull, os.O_RDONLY)
        if self.system.inboxes.put(index, message, fd):
            self.sent.append(message)
        os.close(fd)

    @rule()
    def reload(self) -> None:
        self.system.send_signal(signal.SIGHUP)

    # --- what always holds -----------------------------------------------------------------------

    @precondition(lambda self: hasattr(self, "server"))
    @invariant()
    def slots_and_processes_agree(self) -> None:
        commands = self.commands()
        for worker in self.system.alive():
            command, generation = commands[worker.index]
            assert command != FREE, "the slot of a living worker is free"
            assert generation == worker.generation

    @precondition(lambda self: hasattr(self, "server"))
    @invariant()
    def no_generation_is_larger_than_the_maximum(self) -> None:
        commands = self.commands()
        # One that was silent, was replaced and has come back is one too many for a while;
        # so is one with stuck threads, until its replacement is ready.
        board = self.system.scoreboard
        incarnations = {s: board.words[board.base(s) + INCARNATION] for s in commands}
        extra = self.silent_once | self.worn_once | self.scribblers
        spared = {s for s, number in incarnations.items() if number in extra}
        for generation in {g for c, g in commands.values() if c == RUN}:
            running = {s for s, (c, g) in commands.items() if c == RUN and g == generation}
            # One at a time that has had its requests, until its replacement is ready.
            assert len(running - spared) <= MAX_WORKERS + bool(self.server.settings.max_requests)

    @precondition(lambda self: hasattr(self, "server"))
    @invariant()
    def the_readout_adds_up(self) -> None:
        values = self.server.readout()
        parts = (values.busy, values.idle, values.kill_pending, values.starting, values.wedged)
        assert values.total == sum(parts) == len(values.workers)
        if self.scribblers:
            return
        ended = [w.ended for w in (*self.system.alive(), *self.system.gone)]
        assert values.requests <= sum(ended)
        assert values.lost <= self.begun - sum(ended)
        for kind, count in enumerate(values.incidents.values()):
            assert count <= self.incidents_of(kind)

    def incidents_of(self, kind: int) -> int:
        return sum(w.incidents[kind] for w in (*self.system.alive(), *self.system.gone))

    @precondition(lambda self: hasattr(self, "server"))
    @invariant()
    def a_server_that_serves_does_not_give_up(self) -> None:
        if self.server.over:
            assert not self.serving, "gave up although a healthy worker served"
        self.serving = any(
            not worker.hung and not worker.stopped and worker.incarnation not in self.scribblers
            for worker in self.server.ready()
        )

    # --- what holds in the end ---------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "server"):
            self.directory.cleanup()
            return
        try:
            if not self.server.over:
                self.make_peace()
                self.check_the_end()
                self.system.send_signal(signal.SIGTERM)
                self.server.until(lambda: self.server.over, GRACE_S + 5)
            assert not self.system.alive()
        finally:
            self.server.spm.finish()
            self.directory.cleanup()

    def make_peace(self) -> None:
        self.system.broken = None
        self.system.forks_fail = 0
        self.system.start_s = 0.0
        for _ in range(3):
            for template in self.system.templates.values():
                template.stuck = False
            for worker in self.system.alive():
                worker.hung = worker.stopped = False
                worker.written_off = worker.streams = 0
                if worker.busy:
                    worker.end(worker.busy)
            self.server.run(45)

    def check_the_end(self) -> None:
        server, system = self.server, self.system
        low = server.settings.min_workers
        assert len(server.ready()) == server.total() == low, "not back at the minimum"
        values = server.readout()
        assert (values.idle, values.reload) == (low, "idle")
        assert {w.generation for w in server.ready()} == {values.generation}
        assert len(system.templates) == 1
        assert server.queue == 0, "a connection that nobody was woken for was never accepted"
        everybody = (*system.alive(), *system.gone)
        arrived = sorted(message for worker in everybody for message in worker.parcels)
        assert arrived == sorted(self.sent), "a connection was lost or served twice"
        if not self.scribblers:
            self.check_counts()

    def check_counts(self) -> None:
        system, values = self.system, self.server.readout()
        everybody = (*system.alive(), *system.gone)
        assert values.requests == sum(w.ended for w in everybody)
        assert values.lost == self.begun - sum(w.ended for w in everybody)
        assert values.since_start.count == values.requests
        assert list(values.incidents.values()) == [self.incidents_of(0), self.incidents_of(1)]


ManagerMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestManager = ManagerMachine.TestCase
