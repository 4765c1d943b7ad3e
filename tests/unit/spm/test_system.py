"""System and Template with real processes: forked, watched, killed, and gone at the end."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from spm import Lifeline, Scoreboard, Siblings, Slot
from spm.child import Boot
from spm.events import (
    Event,
    SignalCame,
    TemplateEnded,
    TemplateFailed,
    TemplateReady,
    WorkerBootFailed,
    WorkerEnded,
    WorkerForked,
    WorkerPoked,
    WorkerReaped,
)
from spm.exit_status import ExitStatus
from spm.siblings import Inboxes
from spm.signals import SIGNALS, SignalPipe
from spm.slot import ORDER_RUN
from spm.system import System

BOUND_S = 20.0
_E = TypeVar("_E")


class Machine:
    """A System with four slots, and the events it has told."""

    def __init__(self, boot: Boot, *, preload: bool = True) -> None:
        self.board = Scoreboard(4, 2)
        self.inboxes = Inboxes(4)
        self.system = System(boot, self.board, self.inboxes, preload=preload, stale_ns=10**10)
        self.told: list[Event] = []

    def until(self, kind: type[_E], matching: Callable[[_E], bool] = lambda _: True) -> _E:
        """Wait for an event of this kind and take it out of what was told."""
        deadline_s = time.monotonic() + BOUND_S
        while True:
            for index, event in enumerate(self.told):
                if isinstance(event, kind) and matching(event):
                    del self.told[index]
                    return event
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"no {kind.__name__} in {self.told}"
            self.told += self.system.wait(left_s)

    def start_template(self, number: int = 1) -> None:
        self.system.start_template(number)
        self.until(TemplateReady)

    def start_worker(self, slot: int = 0, incarnation: int = 7, template: int = 1) -> int:
        """Return the pid of a worker that runs."""
        self.board.assign(slot, incarnation, 1, time.monotonic_ns())
        assert self.system.request_worker(template, slot, incarnation)
        forked = self.until(WorkerForked)
        assert (forked.slot, forked.incarnation) == (slot, incarnation)
        return forked.pid

    def close(self) -> None:
        for number in list(self.system._templates):
            self.system.stop_template(number)
            self.system.kill_template(number)
            self.until(TemplateEnded)
        self.system.close()
        self.inboxes.close()


Start = Callable[..., Machine]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    # Exit functions of the test runner must not run in its forked children.
    monkeypatch.setattr("spm.child.leave", os._exit)
    machines = []

    def begin(boot: Boot, *, preload: bool = True) -> Machine:
        machines.append(Machine(boot, preload=preload))
        return machines[-1]

    yield begin
    for machine in machines:
        machine.close()


def obedient(slot: Slot, lifeline: Lifeline, siblings: Siblings) -> None:
    """Be ready, poke, and leave when told to or when the manager is gone."""
    slot.ready()
    lifeline.poke()
    while slot.order() == ORDER_RUN:
        select.select([lifeline], [], [], BOUND_S)
        if not lifeline.read():
            return


def boots(serve: Callable[[Slot, Lifeline, Siblings], None]) -> Boot:
    return lambda: serve


# --- templates -----------------------------------------------------------------------------


def test_the_application_is_loaded_in_another_process(start: Start) -> None:
    reader, writer = os.pipe()

    def boot() -> Callable[[Slot, Lifeline, Siblings], None]:
        os.write(writer, b"%d" % os.getpid())
        return obedient

    start(boot).start_template()
    assert int(os.read(reader, 20)) != os.getpid()
    os.close(reader)
    os.close(writer)


class Broken(Exception):
    exit_status = 2


def test_a_load_error_travels_to_the_manager_with_its_status(start: Start) -> None:
    def boot() -> Callable[[Slot, Lifeline, Siblings], None]:
        raise Broken("app.py has no attribute 'app'")

    machine = start(boot)
    machine.system.start_template(1)
    failed = machine.until(TemplateFailed)
    assert (failed.message, failed.exit_status) == ("app.py has no attribute 'app'", 2)
    assert machine.until(TemplateEnded).status == ExitStatus(status=1)


@pytest.mark.parametrize("error", [SystemExit("bye"), KeyboardInterrupt(), ValueError("odd")])
def test_whatever_an_import_raises_travels_with_its_traceback(
    start: Start, error: BaseException
) -> None:
    def boot() -> Callable[[Slot, Lifeline, Siblings], None]:
        raise error

    machine = start(boot)
    machine.system.start_template(1)
    failed = machine.until(TemplateFailed)
    assert repr(error) in failed.message
    assert "Traceback" in failed.message
    assert failed.exit_status is None


@pytest.mark.parametrize("text", ["x", "é", "\0", "\U0001f600", "\udc80", "\n"])
def test_a_very_long_message_is_cut_and_still_arrives(start: Start, text: str) -> None:
    def boot() -> Callable[[Slot, Lifeline, Siblings], None]:
        raise Broken(text * 1_000_000)

    machine = start(boot)
    machine.system.start_template(1)
    assert 1000 < len(machine.until(TemplateFailed).message) < 10_000


def test_an_import_that_ends_the_process_is_told_by_how_it_ended(start: Start) -> None:
    def boot() -> Callable[[Slot, Lifeline, Siblings], None]:
        os._exit(77)

    machine = start(boot)
    machine.system.start_template(1)
    assert machine.until(TemplateEnded).status == ExitStatus(status=77)


def test_a_template_that_is_not_needed_ends(start: Start) -> None:
    machine = start(boots(obedient))
    machine.start_template()
    machine.system.stop_template(1)
    assert machine.until(TemplateEnded).status == ExitStatus()
    assert not machine.system.request_worker(1, 0, 7)


def test_a_template_that_hangs_can_be_killed(start: Start) -> None:
    machine = start(lambda: signal.pause() or obedient)  # type: ignore[func-returns-value]
    machine.system.start_template(1)
    machine.system.kill_template(1)
    assert machine.until(TemplateEnded).status == ExitStatus(signal=signal.SIGKILL)


def test_rubbish_of_a_template_is_logged_and_forgotten(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    def boot() -> Callable[[Slot, Lifeline, Siblings], None]:
        for fd in map(int, os.listdir("/proc/self/fd")):
            try:
                stray = socket.socket(fileno=os.dup(fd))
            except OSError:
                continue  # no socket, or the directory that was listed
            with stray:
                if (stray.family, stray.type) == (socket.AF_UNIX, socket.SOCK_SEQPACKET):
                    stray.send(b'{"news": []')
        return obedient

    machine = start(boot)
    machine.start_template()
    assert "unreadable message of the template" in caplog.text


# --- workers -------------------------------------------------------------------------------


def test_a_worker_serves_in_its_slot_and_leaves_when_told(start: Start) -> None:
    machine = start(boots(obedient))
    machine.start_template()
    machine.start_worker(slot=2, incarnation=9)
    machine.until(WorkerPoked)
    row = machine.board.row(2)
    assert (row.echo, row.state) == (9, 1)
    machine.board.command(2, 2)
    machine.system.poke(2)
    reaped = machine.until(WorkerReaped)
    assert (reaped.slot, reaped.incarnation, reaped.status) == (2, 9, ExitStatus())


def test_a_workers_death_is_known_without_the_templates_help(start: Start) -> None:
    machine = start(boots(obedient))
    machine.start_template()
    machine.start_worker()
    template = machine.system._templates[1].pidfd.pid()
    os.kill(template, signal.SIGSTOP)
    assert machine.system.kill(0)
    ended = machine.until(WorkerEnded)
    assert (ended.slot, ended.incarnation) == (0, 7)
    machine.system.forget(0)
    os.kill(template, signal.SIGCONT)
    assert machine.until(WorkerReaped).status == ExitStatus(signal=signal.SIGKILL)


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        (lambda: sys.exit(5), 5),
        (lambda: sys.exit(), 0),
        (lambda: sys.exit("message"), 1),
        (lambda: 1 / 0, 1),
    ],
)
def test_how_serving_ends_becomes_the_exit_status(
    start: Start, ending: Callable[[], object], status: int
) -> None:
    def serve(slot: Slot, lifeline: Lifeline, siblings: Siblings) -> None:
        sys.stderr = None  # type: ignore[assignment]
        ending()

    machine = start(boots(serve))
    machine.start_template()
    machine.start_worker()
    assert machine.until(WorkerReaped).status == ExitStatus(status=status)


def test_a_worker_sees_the_end_of_its_manager_although_templates_were_forked_meanwhile(
    start: Start,
) -> None:
    reader, writer = os.pipe()

    def serve(slot: Slot, lifeline: Lifeline, siblings: Siblings) -> None:
        obedient(slot, lifeline, siblings)
        os.write(writer, b"left")

    machine = start(boots(serve))
    machine.start_template(1)
    machine.start_worker(slot=0, incarnation=1)
    # Forked while the manager's end of the first worker's lifeline was open.
    machine.start_template(2)
    machine.start_worker(slot=1, incarnation=2, template=2)
    machine.system.forget(0)
    assert select.select([reader], [], [], BOUND_S)[0], "the end was not seen"
    os.close(reader)
    os.close(writer)


def test_the_end_of_a_template_closes_nothing_of_its_workers(start: Start) -> None:
    machine = start(boots(obedient))
    machine.start_template()
    machine.start_worker()
    machine.until(WorkerPoked)
    machine.system.kill_template(1)
    machine.until(TemplateEnded)
    assert machine.board.row(0).state == 1
    machine.board.command(0, 2)
    machine.system.poke(0)
    assert machine.until(WorkerEnded).status is None


def test_a_worker_that_was_asked_for_and_never_forked_is_told_as_ended(start: Start) -> None:
    machine = start(boots(obedient))
    machine.start_template()
    os.kill(machine.system._templates[1].pidfd.pid(), signal.SIGSTOP)
    machine.board.assign(0, 7, 1, 0)
    assert machine.system.request_worker(1, 0, 7)
    assert not machine.system.kill(0)
    machine.system.kill_template(1)
    assert machine.until(WorkerEnded).incarnation == 7


def test_a_template_that_does_not_read_can_be_asked_only_so_often(start: Start) -> None:
    machine = start(boots(obedient))
    machine.start_template()
    os.kill(machine.system._templates[1].pidfd.pid(), signal.SIGSTOP)
    asked = 0
    while machine.system.request_worker(1, 0, asked + 1):
        machine.system.forget(0)
        asked += 1
        assert asked < 5000
    machine.system.kill_template(1)
    machine.until(TemplateEnded)


def open_sockets_and_pipes() -> int:
    """Not files: what plotting has loaded its fonts from is closed in a forked process."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the directory itself
            count += not os.readlink(f"/proc/self/fd/{name}").startswith("/")
    return count


def test_a_worker_holds_only_the_descriptors_it_needs(start: Start) -> None:
    reader, writer = os.pipe()

    def serve(slot: Slot, lifeline: Lifeline, siblings: Siblings) -> None:
        os.write(writer, b"%d" % open_sockets_and_pipes())
        obedient(slot, lifeline, siblings)

    gc.collect()  # or a socket that an earlier test has dropped goes away in the template
    before = open_sockets_and_pipes()
    machine = start(boots(serve))
    machine.start_template()
    counts = []
    for slot in range(4):
        machine.start_worker(slot=slot, incarnation=slot + 1)
        counts.append(int(os.read(reader, 20)))
    # All senders and the relay's, its own reader, its lifeline; and no more for the fourth
    # than the first.
    assert counts == [before + 4 + 1 + 1 + 1] * 4
    os.close(reader)
    os.close(writer)


def test_signals_for_the_whole_group_do_not_end_templates_and_workers(start: Start) -> None:
    machine = start(boots(obedient))
    machine.start_template()
    worker = machine.start_worker()
    machine.until(WorkerPoked)
    template = machine.system._templates[1].pidfd.pid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(worker, number)
        os.kill(template, number)
    machine.start_worker(slot=1, incarnation=8)
    machine.board.command(0, 2)
    machine.system.poke(0)
    assert machine.until(WorkerReaped).status == ExitStatus()


def test_programs_that_a_worker_starts_can_be_ended_by_signals(start: Start) -> None:
    reader, writer = os.pipe()
    code = "import signal as s; print(s.SIG_IGN in map(s.getsignal, (2, 15, 1)))"

    def serve(slot: Slot, lifeline: Lifeline, siblings: Siblings) -> None:
        subprocess.run([sys.executable, "-c", code], stdout=writer, check=True)

    machine = start(boots(serve))
    machine.start_template()
    machine.start_worker()
    machine.until(WorkerReaped)
    assert select.select([reader], [], [], BOUND_S)[0]
    assert os.read(reader, 1000) == b"False\n"
    os.close(reader)
    os.close(writer)


def test_a_measured_worker_has_used_cpu_and_memory(start: Start) -> None:
    machine = start(boots(obedient))
    machine.start_template()
    pid = machine.start_worker()
    machine.until(WorkerPoked)
    assert (machine.system.process_cpu_ns(pid) or 0) > 0
    memory = machine.system.process_memory(pid)
    assert memory["rss"] >= memory["pss"] > 1 << 16
    assert 0 <= machine.system.machine_cpu() <= 1
    assert 0 <= machine.system.cpu_pressure() <= 1
    assert 0 <= (machine.system.cpu_throttled() or 0) <= 1
    assert (machine.system.oom_kills() or 0) >= 0
    assert machine.system.memory_available_bytes() > 1 << 20


# --- without preload -----------------------------------------------------------------------


def test_without_preload_each_worker_loads_for_itself(start: Start) -> None:
    reader, writer = os.pipe()

    def boot() -> Callable[[Slot, Lifeline, Siblings], None]:
        os.write(writer, b".")
        return obedient

    machine = start(boot, preload=False)
    machine.start_template()
    assert not select.select([reader], [], [], 0)[0]
    for slot in (0, 1):
        machine.start_worker(slot=slot, incarnation=slot + 1)
        machine.until(WorkerPoked)
    assert os.read(reader, 10) == b".."
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("preload", [True, False])
def test_what_a_worker_loads_is_frozen(start: Start, preload: bool) -> None:
    reader, writer = os.pipe()
    loaded: list[list[int]] = []

    def boot() -> Callable[[Slot, Lifeline, Siblings], None]:
        loaded.append([1])

        def serve(slot: Slot, lifeline: Lifeline, siblings: Siblings) -> None:
            unfrozen = any(found is loaded[0] for found in gc.get_objects())
            os.write(writer, b"no" if unfrozen else b"yes")
            obedient(slot, lifeline, siblings)

        return serve

    machine = start(boot, preload=preload)
    machine.start_template()
    machine.start_worker()
    machine.until(WorkerPoked)
    assert os.read(reader, 10) == b"yes"
    os.close(reader)
    os.close(writer)


def test_without_preload_a_worker_tells_why_it_cannot_load(start: Start) -> None:
    def boot() -> Callable[[Slot, Lifeline, Siblings], None]:
        raise Broken("no module named aap")

    machine = start(boot, preload=False)
    machine.start_template()
    machine.start_worker()
    failed = machine.until(WorkerBootFailed)
    assert (failed.message, failed.exit_status) == ("no module named aap", 2)
    machine.until(WorkerEnded)


@pytest.mark.parametrize("words", [b"rubbish", b"[1]", b'{"boot_failed": 1}', b"\xff\xfe"])
def test_rubbish_on_a_lifeline_is_logged_and_forgotten(
    start: Start, words: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def serve(slot: Slot, lifeline: Lifeline, siblings: Siblings) -> None:
        lifeline.tell(words)
        obedient(slot, lifeline, siblings)

    machine = start(boots(serve))
    machine.start_template()
    machine.start_worker()
    machine.until(WorkerPoked)
    assert "unreadable message" in caplog.text


# --- signals -------------------------------------------------------------------------------


def test_signals_become_events_and_are_given_back_in_the_end(start: Start) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    machine = start(boots(obedient))
    machine.system.open()
    os.kill(os.getpid(), signal.SIGHUP)
    assert machine.until(SignalCame).number == signal.SIGHUP
    os.kill(os.getpid(), signal.SIGTERM)
    assert machine.until(SignalCame).number == signal.SIGTERM
    machine.system.close()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_pipe_of_signals_that_is_empty_has_none() -> None:
    pipe = SignalPipe()
    assert pipe.read() == []
    pipe.close()


def test_a_signal_to_a_child_is_not_told_to_the_manager(start: Start) -> None:
    machine = start(boots(obedient))
    machine.system.open()
    machine.start_template()
    worker = machine.start_worker()
    machine.until(WorkerPoked)
    os.kill(worker, signal.SIGTERM)
    machine.board.command(0, 2)
    machine.system.poke(0)
    machine.until(WorkerReaped)
    assert not [event for event in machine.told if isinstance(event, SignalCame)]


# --- the end of a process ------------------------------------------------------------------


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )


def test_leaving_runs_the_applications_exit_functions_and_flushes() -> None:
    done = run_python(
        """
        import atexit, sys
        from spm.child import leave
        atexit.register(print, "exit function")
        sys.stdout.write("unflushed ")
        try:
            leave(3)
        finally:
            print("never: a frame of the parent")
        """
    )
    assert (done.stdout, done.returncode) == ("unflushed exit function\n", 3)


def test_leaving_with_a_closed_standard_output_is_no_error() -> None:
    done = run_python(
        """
        import os, sys
        from spm.child import leave
        sys.stdout.write("lost")
        os.close(1)
        leave(0)
        """
    )
    assert (done.stderr, done.returncode) == ("", 0)
