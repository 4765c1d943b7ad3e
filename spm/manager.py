"""SPM, the Smart Process Manager: observe, decide, act.

    signals, pokes, deaths, news of templates        (events: react at once)
            |
            v
    every tick: fleet.look -> observer.look -> decide -> act     (100 ms; 1 s when quiet)

Single-threaded, and it never imports the application: it can always fork, and nothing
that the application does can stop it. No other process can make it wait.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Final

from . import child
from .balance import Balance
from .control import ControlServer
from .errors import BootFailed, WorkerBootError
from .events import (
    Event,
    ForkFailed,
    SignalCame,
    SourceChanged,
    SuccessorEnded,
    TemplateEnded,
    TemplateFailed,
    TemplateReady,
    WorkerBootFailed,
    WorkerEnded,
    WorkerForked,
    WorkerPoked,
    WorkerReaped,
)
from .exit_status import ExitStatus
from .fleet import Fleet
from .journal import Journal
from .observation import Actions, Memory, Observation, WorkerState
from .observer import Observer
from .policy import Policy, decide
from .presence import Presence
from .readout import Readout
from .real_system import SystemFactory, real_system
from .relaunch import Renewal
from .reload import Reload
from .scoreboard import SHUTDOWN_NOW, SHUTDOWN_STOP, Scoreboard
from .settings import SPMS
from .shutdown import Shutdown, Step
from .siblings import Inboxes
from .succession import Succession
from .templates import TemplateHandle, Templates, TemplateState
from .upgrade import Stage, Upgrade

_log = logging.getLogger("smart_http.spm")
_metrics_log = logging.getLogger("smart_http.metrics")

_NS: Final = 1_000_000_000
_MS: Final = 1_000_000
_TICK_NS: Final = 100 * _MS
_QUIET_TICK_NS: Final = 1 * _NS
# While something waits: often enough to see within 75 ms that it has waited for 50.
_WAITING_TICK_NS: Final = 25 * _MS
# Pokes are answered at most this often, however many come.
_POKE_GAP_NS: Final = 20 * _MS
# How long idle keep-alive connections are still answered while the server stops: longer
# than most clients pause between requests, but who presses Ctrl+C sits there and waits.
_LINGER_MS: Final = 2000
_INTERACTIVE_LINGER_MS: Final = 300
# So many templates in a row that cannot load the application, with nobody serving.
_TEMPLATE_PATIENCE: Final = 5
# For the kernel to end a process that got SIGKILL.
_LAST_PATIENCE_S: Final = 2.0


class SPM:
    """The manager of one server.

    settings: the limits.
    boot: imports the application and returns what serves it in a worker; runs in the
        template (or, without preload, in each worker), never here. An exception with an
        int `exit_status` is a message for the user; any other is shown with its traceback.
    listen: binds and listens, once the application is known to load.
    accept_queue: how many connections wait to be accepted.
    release: closes the listeners and removes their files; at the very end.
    describe: what the readout shows of the server; `binds` is a list of addresses.
    renewal: what it takes to be replaced by a new server, or to replace an old one.
    """

    def __init__(
        self,
        settings: SPMS,
        *,
        boot: child.Boot,
        listen: Callable[[], None],
        accept_queue: Callable[[], int],
        release: Callable[[], None],
        describe: Callable[[], Mapping[str, object]],
        renewal: Renewal | None = None,
        system_factory: SystemFactory = real_system,
    ) -> None:
        self._settings = settings
        self._listen = listen
        self._release = release
        self._scoreboard = Scoreboard(settings.slots, settings.max_threads)
        try:
            self._inboxes = Inboxes(settings.slots)
        except OSError as error:
            needed = 2 * settings.slots
            raise BootFailed(
                f"{settings.max_workers} workers need {needed} descriptors: {error.strerror}"
            ) from error
        self._system = system_factory(boot, self._scoreboard, self._inboxes, settings)
        self._policy = Policy.of(settings, self._system.usable_cores)
        self._fleet = Fleet(settings, self._scoreboard, self._inboxes, self._system)
        self._templates = Templates(self._system)
        self._observer = Observer(
            settings, self._scoreboard, self._fleet, self._system, accept_queue, describe
        )
        self._reload = Reload(
            settings, self._scoreboard, self._fleet, self._templates, self._system
        )
        self._shutdown = Shutdown()
        self._journal = Journal()
        self._upgrade = Upgrade(
            settings, self._system, self._scoreboard, self._inboxes, self._fleet, self, renewal
        )
        self._succession: Succession | None = None
        if renewal is not None and renewal.inheritance is not None:
            self._succession = Succession(
                renewal, self._system, self._fleet, take_control=self._take_control
            )
            # As many workers as serve there, or those that come first would be swamped.
            workers = renewal.inheritance.workers
            self._reload.floor = max(settings.min_workers, min(settings.max_workers, workers))
        answers = {"status": lambda: self.readout().as_dict(), "counts": self._counts}
        self._control = ControlServer(self._system, answers, {"upgrade": self._upgrade.ask})
        self._presence = Presence(settings, self._control, describe)
        self._memory = Memory()
        self._last: Actions | None = None
        self._next_tick_ns = 0
        self._ticked_ns = 0
        self._queued_ticks = 0
        self._shifts = Balance()
        self._metrics_ns = 0
        self._failure: BootFailed | None = None
        self._serving = False

    def run(self) -> int:
        """Serve until somebody stops the server; return the exit status.

        Raises: BootFailed if it cannot start, or if no worker ever comes up; then, too,
            nothing is left behind. Only in the main thread.
        """
        try:
            if self.start():
                while not self.step():
                    pass
        except BootFailed as error:
            self._failure = error
        finally:
            self.finish()
        if self._failure is not None:
            raise self._failure
        return 0

    def step(self) -> bool:
        """Wait for news or the next tick, do what is due; True when all is over."""
        wait_ns = max(0, self._next_tick_ns - self._system.now_ns())
        for event in self._system.wait(wait_ns / _NS):
            self._handle(event)
        if self._system.now_ns() >= self._next_tick_ns:
            self._tick()
        leaving = self._shutdown.asked or self._upgrade.leaving
        return leaving and not len(self._fleet) and self._upgrade.is_over()

    def readout(self) -> Readout:
        """Return all numbers as they are now."""
        self._fleet.look()
        readout = self._observer.readout(self._reload, self._last)
        decisions = tuple(self._journal.entries())
        return readout._replace(decisions=decisions, upgrade=self._upgrade.stage.value)

    def _counts(self) -> dict[str, object]:
        """Return the numbers without a line for each worker, whose memory takes a while to read."""
        self._fleet.look()
        return self._observer.readout(self._reload, self._last, with_workers=False).as_dict()

    # --- start and end -------------------------------------------------------------

    def start(self) -> bool:
        """Load the application, then bind: a broken application never opens a port.

        False: somebody stopped us meanwhile. Raises: BootFailed.
        """
        if self._succession is not None:
            self._succession.open()
        self._system.open()
        template = self._templates.start(self._reload.generation)
        while template.state is TemplateState.LOADING:
            for event in self._system.wait(1.0):
                self._handle(event)
            if self._shutdown.asked:
                self._templates.kill(template)
                return False
            if self._templates.find(template.number) is None:
                raise BootFailed(template.message, template.exit_status or 3)
        try:
            self._listen()
        except Exception as error:
            status = getattr(error, "exit_status", None)
            if not isinstance(status, int):
                raise
            raise BootFailed(str(error), status) from error
        if self._succession is None:
            self._take_control()
        self._serving = True
        self._metrics_ns = self._system.now_ns()
        return True

    def _take_control(self) -> None:
        """Be the server that is found by pid file and control socket."""
        self._presence.appear(self._succession.predecessor if self._succession else 0)
        self._reload.floor = 0

    def finish(self) -> None:
        """End what is left and remove every trace."""
        self._end_templates()
        self._upgrade.close()
        if self._succession is not None:
            self._succession.close(self._failure)
        self._presence.vanish()
        self._fleet.close()
        self._system.close()
        self._inboxes.close()
        self._release()

    def _end_templates(self) -> None:
        """Let the templates end, and end those that do not. Bounded in time."""
        for handle in self._templates.all():
            self._templates.retire(handle)
            self._system.stop_template(handle.number)
        for patience_s in (self._settings.kill_after_s, _LAST_PATIENCE_S):
            deadline_ns = self._system.now_ns() + int(patience_s * _NS)
            while len(self._templates) and self._system.now_ns() < deadline_ns:
                for event in self._system.wait((deadline_ns - self._system.now_ns()) / _NS):
                    self._handle(event)
            for handle in self._templates.all():
                self._templates.kill(handle)

    # --- the tick --------------------------------------------------------------------

    def _tick(self) -> None:
        now_ns = self._system.now_ns()
        self._ticked_ns = now_ns
        self._scoreboard.beat(now_ns)
        self._fleet.look()
        late = self._fleet.enforce_deadlines()
        self._fleet.write_overdue_obituaries()
        self._fleet.sweep_mail()
        self._control.drop_late()
        self._upgrade.advance()
        self._system.reap_strays()
        pending = True
        if self._shutdown.asked:
            self._insist(now_ns)
        elif self._serving:
            pending = self._observe_decide_act(now_ns) or late
            self._reload.advance(self._memory.failed_starts, self._last.wanted if self._last else 0)
            self._reload.retire_templates()
            if self._succession is not None:
                wanted = self._last.wanted if self._last else self._settings.min_workers
                self._succession.advance(max(1, min(self._reload.floor, wanted)))
            self._nudge_if_queued()
            self._write_metrics(now_ns)
        self._schedule(now_ns, pending=pending)

    def _observe_decide_act(self, now_ns: int) -> bool:
        """The middle of it all; returns whether something had to be put off."""
        template = self._templates.ready_for(self._reload.generation)
        seen = self._observer.look(self._reload, self._memory, can_spawn=template is not None)
        actions = decide(seen, self._policy, now_ns / _NS)
        self._memory, self._last = actions.memory, actions
        self._scoreboard.set_target(actions.wanted)
        self._act(actions, template)
        self._balance(seen, actions)
        loading = self._templates.keep_one_for(self._reload.generation)
        return actions.pending or loading

    def _act(self, actions: Actions, template: TemplateHandle | None) -> None:
        if actions.give_up:
            self._fail(WorkerBootError(f"gave up: {actions.why}"))
            return
        total = len(self._fleet)
        for slot in actions.revive:
            self._fleet.revive(slot)
        spawned = 0
        if actions.spawn and template is not None:
            spawned = self._fleet.spawn(template.number, self._reload.generation, actions.spawn)
        for handle in [h for h in self._fleet if h.slot in actions.retire]:
            self._fleet.drain(handle)
        did = {
            "spawn": spawned,
            "take back": len(actions.revive),
            "retire": len(actions.retire),
        }
        if any(did.values()):
            what = ", ".join(f"{word} {count}" for word, count in did.items() if count)
            self._journal.note(what, actions.why, total, actions.wanted)

    def _balance(self, seen: Observation, actions: Actions) -> None:
        """Have connections moved from a worker whose core is full to one that has room."""
        if not self._observer.cpu_measured or actions.retire:
            return  # who leaves takes nothing, and hands over everything
        handed_out = {handle.slot: handle.totals.handed_out for handle in self._fleet}
        shift = self._shifts.next_shift(seen, handed_out, self._system.now_ns() / _NS)
        if shift is not None:
            self._fleet.shift(shift.source, shift.target, shift.share)
            what = f"shift {100 * shift.share:.0f} % of slot {shift.source} to slot {shift.target}"
            self._journal.note(what, "its core is full", len(self._fleet), actions.wanted)

    def _schedule(self, now_ns: int, *, pending: bool) -> None:
        quiet = not (
            pending
            or self._observer.active
            or not self._reload.idle
            or len(self._fleet) != self._settings.min_workers
            or any(handle.state is not WorkerState.READY for handle in self._fleet)
            or self._control.busy
            or self._fleet.undelivered
            or self._templates.waiting
        )
        live = len(self._fleet.of_generation(self._reload.generation))
        more = live < self._settings.max_workers and not self._shutdown.asked
        if quiet:
            gap_ns = _QUIET_TICK_NS
        elif more and self._observer.waiting:
            gap_ns = _WAITING_TICK_NS
        else:
            gap_ns = _TICK_NS
        self._next_tick_ns = now_ns + gap_ns
        if self._settings.metrics_interval_s and self._serving:
            self._next_tick_ns = min(self._next_tick_ns, max(now_ns + _MS, self._metrics_due_ns()))

    def _nudge_if_queued(self) -> None:
        """Wake who has a free thread if connections lie in the accept queue at two ticks.

        The kernel woke one worker for them. If that one was killed before it accepted,
        or had just unregistered the listener, nobody else is ever woken.
        """
        self._queued_ticks = self._queued_ticks + 1 if self._observer.accept_queue else 0
        if self._queued_ticks >= 2 and self._fleet.nudge_free():
            self._queued_ticks = 0

    def _metrics_due_ns(self) -> int:
        return self._metrics_ns + int(self._settings.metrics_interval_s * _NS)

    def _write_metrics(self, now_ns: int) -> None:
        if self._settings.metrics_interval_s and now_ns >= self._metrics_due_ns():
            self._metrics_ns = now_ns
            readout = self._observer.readout(self._reload, self._last, with_workers=False)
            _metrics_log.info("%s", readout.one_line())

    # --- events --------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        match event:
            case WorkerPoked(slot, incarnation):
                self._poked(slot, incarnation)
                return  # the only one that does not want a tick in any case
            case SignalCame(number):
                self._signalled(number)
            case WorkerForked():
                self._fleet.note_forked(event)
            case WorkerEnded():
                self._fleet.note_ended(event)
            case WorkerReaped():
                self._fleet.note_reaped(event)
            case ForkFailed():
                self._fleet.note_fork_failed(event)
            case WorkerBootFailed():
                self._worker_boot_failed(event)
            case TemplateReady(template):
                self._templates.note_ready(template)
                self._reload.template_ready(template)
            case TemplateFailed(template, message, exit_status):
                self._templates.note_failed(template, message, exit_status)
            case TemplateEnded(template, status):
                self._template_ended(template, status)
            case SuccessorEnded(status):
                self._upgrade.note_ended(status)
            case SourceChanged(what):
                self._ask_reload(f"reloading: {what} changed")
        self._next_tick_ns = self._system.now_ns()

    def _poked(self, slot: int, incarnation: int) -> None:
        if self._fleet.find(slot, incarnation) is not None:
            earliest_ns = self._ticked_ns + _POKE_GAP_NS
            self._next_tick_ns = min(self._next_tick_ns, max(self._system.now_ns(), earliest_ns))

    def _signalled(self, number: int) -> None:
        if number == signal.SIGUSR2:
            _log.info("SIGUSR2: upgrade")
            self._upgrade.ask()
            return
        if number == signal.SIGHUP:
            self._ask_reload("SIGHUP: reload")
            return
        interactive = number == signal.SIGINT
        if interactive and sys.stderr is not None and sys.stderr.isatty():
            sys.stderr.write("\n")  # the terminal has written ^C and stands behind it
        self._upgrade.forward(number)
        if self._succession is not None:
            self._succession.close()  # the old server, if it is still there, stops by itself
        step = self._shutdown.ask(self._system.now_ns(), self._settings.graceful_timeout_s)
        if step is Step.STOPPING:
            _log.info("%s: stopping gracefully", signal.Signals(number).name)
            self._stop(SHUTDOWN_STOP, _INTERACTIVE_LINGER_MS if interactive else _LINGER_MS)
        elif step is Step.NOW:
            _log.info("%s again: stopping at once", signal.Signals(number).name)
            self._stop(SHUTDOWN_NOW, 0)

    def _ask_reload(self, why: str) -> None:
        if self._upgrade.stage is not Stage.IDLE:
            _log.error("no reload: an upgrade is under way")
        elif self._serving and not self._shutdown.asked:
            _log.info("%s", why)
            self._reload.ask()

    # What an upgrade wants of the manager (upgrade.Owner).

    def obstacle(self) -> str:
        """Return why there cannot be an upgrade now, or nothing."""
        if not self._serving or self._shutdown.asked:
            return "this server is stopping" if self._shutdown.asked else "it has not started yet"
        if not self._reload.idle:
            return "a reload is under way; ask again when it is over"
        if self._succession is not None and self._succession.under_way:
            return f"process {self._succession.predecessor} is still leaving; ask again later"
        return ""

    def give_up_control(self) -> None:
        """Another server serves: no decision is ours any more."""
        self._serving = False

    def keep_control(self) -> None:
        """It has failed."""
        if not self._shutdown.asked:
            self._presence.reappear()

    def stop_stranded(self) -> None:
        """There is nobody to hand anything to."""
        if not self._shutdown.asked:
            self._shutdown.ask(self._system.now_ns(), self._settings.graceful_timeout_s)
            self._stop(SHUTDOWN_STOP, _LINGER_MS)

    def _stop(self, kind: int, linger_ms: int) -> None:
        self._fleet.stopping = True
        self._scoreboard.shut_down(kind, linger_ms)
        self._fleet.poke_all()

    def _insist(self, now_ns: int) -> None:
        """Hurry a stop that takes too long."""
        self._fleet.poke_all()  # also those that were being forked when it began
        for handle in self._fleet:
            # It has accepted nothing yet, and will not: a worker says that it is ready, then
            # looks for orders; we have written the order, then looked whether it is ready.
            # To wait for an application that is still being imported would be for nothing.
            if handle.state is WorkerState.STARTING:
                handle.killed = self._system.kill(handle.slot)
        step = self._shutdown.next_step(now_ns, self._settings.kill_after_s)
        if step is Step.NOW:
            _log.warning("%d workers have not finished in time; leaving now", len(self._fleet))
            self._stop(SHUTDOWN_NOW, 0)
        elif step is Step.KILLED:
            _log.warning("%d workers do not leave; sending SIGKILL", len(self._fleet))
            for handle in self._fleet:
                handle.killed = self._system.kill(handle.slot)

    def _fail(self, failure: BootFailed) -> None:
        """End the server because it cannot serve."""
        if self._failure is None:
            self._failure = failure
        if not self._shutdown.asked:
            self._shutdown.ask(self._system.now_ns(), self._settings.kill_after_s)
            self._stop(SHUTDOWN_NOW, 0)

    def _worker_boot_failed(self, event: WorkerBootFailed) -> None:
        if self._fleet.find(event.slot, event.incarnation) is None:
            return
        if not self._fleet.ever_ready and event.exit_status is not None:
            # The same message that preload would have given before anything was forked.
            self._fail(BootFailed(event.message, event.exit_status))
            return
        _log.error("a worker could not start: %s", event.message)
        self._reload.worker_boot_failed()

    def _template_ended(self, number: int, status: ExitStatus | None) -> None:
        handle = self._templates.note_ended(number, status)
        expected = handle is None or handle.state is TemplateState.RETIRING
        if handle is None or expected or self._shutdown.asked or not self._serving:
            return
        if handle.state is TemplateState.LOADING:
            _log.error("%s", handle.message)
        if self._reload.template_ended(number):
            return
        if self._templates.failures >= _TEMPLATE_PATIENCE and not len(self._fleet):
            self._fail(WorkerBootError(f"gave up: {handle.message}"))
