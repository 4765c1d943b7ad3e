"""Fleet: all workers, from the fork to the burial. It acts; it does not decide."""

from __future__ import annotations

import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from .events import ForkFailed, WorkerEnded, WorkerForked, WorkerReaped
from .exit_status import ExitStatus, KernelKills
from .observation import Death, WorkerState
from .ports import OperatingSystem
from .recycling import draw_request_limit
from .scoreboard import DRAIN, FREE, NOW, RUN, Scoreboard
from .settings import SPMS
from .siblings import Chooser, Inboxes
from .worker import Departed, WorkerHandle

_log = logging.getLogger("smart_http.spm")

_NS: Final = 1_000_000_000
# A gap between two looks that no tick explains: the machine slept or we were stopped, and
# so perhaps were the workers. Their hearts get time to beat again.
_GAP_NS: Final = 3 * _NS
# How long a worker's obituary waits for the template's word on how it ended.
_CAUSE_PATIENCE_NS: Final = 1 * _NS


class _Obituary(NamedTuple):
    handle: WorkerHandle
    expected: bool
    lost: int
    since_ns: int


class Fleet:
    """The workers, their slots, and what is left of those that are gone."""

    def __init__(
        self, settings: SPMS, scoreboard: Scoreboard, inboxes: Inboxes, system: OperatingSystem
    ) -> None:
        self._settings = settings
        self._scoreboard = scoreboard
        self._inboxes = inboxes
        self._system = system
        stale_ns = int(settings.heartbeat_stale_s * _NS)
        self._stale_ns = stale_ns
        self._chooser = Chooser(scoreboard, stale_ns)
        self._handles: dict[int, WorkerHandle] = {}
        self._incarnation = 0
        self._looked_ns = system.now_ns()
        self._awake_ns = 0
        self._deaths: list[Death] = []
        self._obituaries: dict[int, _Obituary] = {}
        self._undelivered: deque[tuple[bytes, int]] = deque()
        self._kernel_kills = KernelKills(system.oom_kills)
        # Where connections go that no worker can take; it owns the descriptor from then on.
        self.outlet: Callable[[bytes, int], None] | None = None
        self.departed = Departed()
        self.ever_ready = False
        self.boot_s = 0.0  # how long the last worker took to start
        self.stopping = False  # the whole server: nobody's end is unexpected any more

    def __iter__(self) -> Iterator[WorkerHandle]:
        return iter(self._handles.values())

    def __len__(self) -> int:
        return len(self._handles)

    def find(self, slot: int, incarnation: int) -> WorkerHandle | None:
        """Return the worker, if it is still the one in this slot."""
        handle = self._handles.get(slot)
        return handle if handle is not None and handle.incarnation == incarnation else None

    def of_generation(self, generation: int) -> list[WorkerHandle]:
        """Return its workers that serve or are about to."""
        live = (WorkerState.STARTING, WorkerState.READY)
        return [h for h in self if h.generation == generation and h.state in live]

    def uses_template(self, template: int) -> bool:
        """Whether a worker forked by this template is still there."""
        return any(handle.template == template for handle in self)

    def take_deaths(self) -> tuple[Death, ...]:
        """Return the unexpected deaths since the last call."""
        deaths, self._deaths = tuple(self._deaths), []
        return deaths

    # --- what the manager orders ---------------------------------------------------

    def spawn(self, template: int, generation: int, count: int) -> int:
        """Ask the template for so many workers; return how many it was asked for."""
        for done in range(count):
            slot = self._free_slot()
            if slot is None:
                return done
            self._incarnation += 1
            now_ns = self._system.now_ns()
            self._scoreboard.assign(slot, self._incarnation, generation, now_ns)
            if not self._system.request_worker(template, slot, self._incarnation):
                self._scoreboard.clear(slot)
                return done
            self._handles[slot] = WorkerHandle(
                slot=slot,
                incarnation=self._incarnation,
                generation=generation,
                template=template,
                spawned_ns=now_ns,
                row=self._scoreboard.row(slot),
                request_limit=draw_request_limit(self._settings),
            )
        return count

    def drain(self, handle: WorkerHandle) -> None:
        """Tell a worker to hand over what it has, finish and leave (KillPending)."""
        deadline_ns = self._system.now_ns() + int(self._settings.graceful_timeout_s * _NS)
        handle.now_deadline_ns = deadline_ns
        self._command(handle, DRAIN, deadline_ns)

    def revive(self, slot: int) -> None:
        """Take back a worker that was told to drain."""
        handle = self._handles.get(slot)
        if handle is not None and handle.command == DRAIN:
            handle.now_deadline_ns = 0
            handle.revived_ns = self._system.now_ns()
            self._command(handle, RUN, 0)

    def leave_now(self, handle: WorkerHandle, kill_after_s: float) -> None:
        """Tell a worker to leave at once; if it does not, it gets SIGKILL."""
        handle.now_deadline_ns = 0
        handle.kill_deadline_ns = self._system.now_ns() + int(kill_after_s * _NS)
        self._command(handle, NOW, handle.kill_deadline_ns)

    def shift(self, slot: int, target: int, share: float) -> None:
        """Tell a worker to move a share of its active connections to another slot's."""
        self._scoreboard.shift(slot, target, share)
        self._system.poke(slot)

    def poke_all(self) -> None:
        """Make every worker look at its orders."""
        for handle in self:
            self._system.poke(handle.slot)

    def _command(self, handle: WorkerHandle, command: int, deadline_ns: int) -> None:
        handle.command = command
        self._scoreboard.command(handle.slot, command, deadline_ns)
        self._system.poke(handle.slot)
        self._look_at(handle, self._system.now_ns())

    def _free_slot(self) -> int | None:
        return next((s for s in range(self._scoreboard.slots) if s not in self._handles), None)

    # --- what happens to workers ------------------------------------------------------

    def note_forked(self, event: WorkerForked) -> None:
        """The worker has a pid now."""
        handle = self.find(event.slot, event.incarnation)
        if handle is not None:
            handle.pid = event.pid
            self._scoreboard.set_pid(event.slot, event.pid)

    def note_fork_failed(self, event: ForkFailed) -> None:
        """There is no worker; its slot is freed as after a death."""
        _log.error("no worker could be forked for slot %d: %s", event.slot, event.reason)
        self._bury(event.slot, event.incarnation)

    def note_reaped(self, event: WorkerReaped) -> None:
        """The template says how a worker ended."""
        obituary = self._obituaries.pop(event.incarnation, None)
        if obituary is not None:
            self._publish(obituary, event.status)
            return
        handle = self.find(event.slot, event.incarnation)
        if handle is not None:
            handle.exit_status = event.status

    def note_ended(self, event: WorkerEnded) -> None:
        """The worker's process is gone."""
        handle = self.find(event.slot, event.incarnation)
        if handle is not None and event.status is not None:
            handle.exit_status = event.status
        # Without a pid it was asked for and never forked: its template died first. That
        # is no death of a worker, and no reason to wait before the next one.
        unborn = handle is not None and not handle.pid
        self._bury(event.slot, event.incarnation, unborn=unborn)

    def _bury(self, slot: int, incarnation: int, *, unborn: bool = False) -> None:
        """Free a dead worker's slot, in the order that loses nothing.

        Only its own words can be stale and no lock exists, so nothing here can block:
        totals; then the command, so that nobody chooses it any more; the mail in its inbox;
        its words. It is given out again only after that, so two processes never write one
        row.
        """
        handle = self.find(slot, incarnation)
        if handle is None:
            return
        now_ns = self._system.now_ns()
        self._look_at(handle, now_ns)
        expected = handle.told_to_leave or self.stopping or unborn
        lost = self.departed.bury(handle, self._scoreboard, expected=expected)
        if not expected:
            age_s = (now_ns - handle.spawned_ns) / _NS
            self._deaths.append(Death(age_s, handle.was_ready, handle.generation))
        self._scoreboard.command(slot, FREE)
        self._forward_mail(slot, now_ns, handle.generation)
        self._scoreboard.clear(slot)
        self._system.forget(slot)
        del self._handles[slot]
        if unborn:
            return
        obituary = _Obituary(handle, expected, lost, now_ns)
        if handle.exit_status is not None:
            self._publish(obituary, handle.exit_status)
        else:
            self._obituaries[incarnation] = obituary

    # --- what is looked after at every tick -----------------------------------------------

    def look(self) -> None:
        """Read every worker's row once."""
        now_ns = self._system.now_ns()
        if now_ns - self._looked_ns > _GAP_NS:
            self._awake_ns = now_ns
        self._looked_ns = now_ns
        self._kernel_kills.look(now_ns)
        for handle in self:
            self._look_at(handle, now_ns)

    def _look_at(self, handle: WorkerHandle, now_ns: int) -> None:
        before, was_ready = handle.state, handle.was_ready
        stale_before_ns = now_ns - self._stale_ns
        if self._awake_ns > stale_before_ns:
            stale_before_ns = 0
        handle.look(self._scoreboard, now_ns, stale_before_ns, self._settings.max_threads)
        if handle.was_ready and not was_ready:
            self.ever_ready = True
            self.boot_s = (handle.ready_ns - handle.spawned_ns) / _NS
        self._limit_leaving(handle, now_ns)
        if before is not WorkerState.WEDGED and handle.state is WorkerState.WEDGED:
            handle.wedged_ns = now_ns
            silent_s = (now_ns - handle.last_beat_ns) / _NS
            _log.warning("%s is silent for %.0f s; replacing it", _name(handle), silent_s)
        elif before is WorkerState.WEDGED and handle.state is WorkerState.READY:
            _log.warning("%s is back", _name(handle))

    def _limit_leaving(self, handle: WorkerHandle, now_ns: int) -> None:
        """Who leaves of its own accord has as long as who was told to; it may only say so."""
        if handle.command != RUN or self.stopping:
            return
        if handle.state is not WorkerState.EXITING:
            handle.now_deadline_ns = 0
        elif not handle.now_deadline_ns:
            handle.now_deadline_ns = now_ns + int(self._settings.graceful_timeout_s * _NS)

    def enforce_deadlines(self) -> bool:
        """Hurry those who are late; return whether a deadline is running."""
        now_ns = self._system.now_ns()
        for handle in list(self):
            if self._is_hung(handle, now_ns):
                handle.hopeless = True
                silent_s = (now_ns - handle.last_beat_ns) / _NS
                self._kill(handle, f"has been silent for {silent_s:.0f} s")
            elif self._is_hopeless(handle, now_ns):
                handle.hopeless = True
                self.leave_now(handle, self._settings.kill_after_s)
            elif 0 < handle.now_deadline_ns <= now_ns:
                _log.warning("%s has not finished in time; it must leave now", _name(handle))
                self.leave_now(handle, self._settings.kill_after_s)
            if 0 < handle.kill_deadline_ns <= now_ns and not handle.killed:
                self._kill(handle)
        return any(handle.now_deadline_ns or handle.kill_deadline_ns for handle in self)

    def _kill(self, handle: WorkerHandle, why: str = "does not leave") -> None:
        handle.killed = self._system.kill(handle.slot)
        if handle.killed:
            _log.warning("%s %s; sent SIGKILL", _name(handle), why)
        else:
            # Nobody has told us its process, all this time: the template hangs. When it is
            # gone, the worker's lifeline tells whether there ever was a worker.
            _log.error("%s was never forked; ending its template", _name(handle))
            self._system.kill_template(handle.template)

    def _is_hopeless(self, handle: WorkerHandle, now_ns: int) -> bool:
        """Whether a worker has never become ready."""
        if handle.kill_deadline_ns or handle.state is not WorkerState.STARTING:
            return False
        late_ns = now_ns - handle.spawned_ns
        if late_ns < int(self._settings.boot_timeout_s * _NS):
            return False
        _log.error("%s is not ready after %.0f s", _name(handle), late_ns / _NS)
        return True

    def _is_hung(self, handle: WorkerHandle, now_ns: int) -> bool:
        """Whether a worker is silent for good, stuck in C with the GIL held.

        Nothing in that process can end it any more, so it is not told to leave: one that
        comes back this very moment would obey, and lose its requests.
        """
        if handle.state is not WorkerState.WEDGED or not self._settings.wedged_kill_s:
            return False
        if self._system.is_stopped(handle.slot):
            # By SIGSTOP or a debugger: it will come back when it is let go on, and from
            # then on it has all its time again to let its heart beat.
            if not handle.stopped_ns:
                _log.warning("%s is stopped, not hung; it is left alone", _name(handle))
            handle.stopped_ns = now_ns
        # Never in the look that finds it silent: it may have been stopped until a moment ago.
        if now_ns - handle.wedged_ns < int(self._settings.kill_after_s * _NS):
            return False
        silent_ns = now_ns - max(handle.last_beat_ns, handle.stopped_ns, self._awake_ns)
        return silent_ns >= int(self._settings.wedged_kill_s * _NS)

    def write_overdue_obituaries(self) -> None:
        """Log deaths whose cause nobody will tell: the template died as well."""
        now_ns = self._system.now_ns()
        for incarnation, obituary in list(self._obituaries.items()):
            if now_ns - obituary.since_ns >= _CAUSE_PATIENCE_NS:
                del self._obituaries[incarnation]
                self._publish(obituary, None)

    def sweep_mail(self) -> None:
        """Send on what lies in inboxes that nobody reads.

        Also those of slots that are free for long: a sibling may have chosen a worker
        that lived then, been off the CPU for any time, and sent its parcel only now.
        And those of workers that are not up yet, hang, or leave, which may take long. If one
        reads its inbox after all, the kernel sees to it that each parcel is read once.
        """
        now_ns = self._system.now_ns()
        if not self._is_deliverable(now_ns, 0, exclude=-1):
            return  # it is safe where it is
        for _ in range(len(self._undelivered)):
            self.deliver(*self._undelivered.popleft(), 0)
        for slot in range(self._scoreboard.slots):
            handle = self._handles.get(slot)
            if handle is None or handle.state is not WorkerState.READY:
                self._forward_mail(slot, now_ns, 0)

    def _forward_mail(self, slot: int, now_ns: int, generation: int) -> None:
        # With nobody ready it stays in the inbox, until somebody is (sweep_mail) or the
        # slot has a new worker, who reads it.
        while self._is_deliverable(now_ns, generation, exclude=slot):
            try:
                parcel = self._inboxes.take(slot)
            except OSError as error:  # no descriptor is left: it is safe where it is
                _log.error("mail of slot %d: %s", slot, error.strerror)
                return
            if parcel is None:
                return
            if parcel[1] >= 0:  # else a nudge, and the nudged one is gone
                self.deliver(*parcel, generation)

    def _is_deliverable(self, now_ns: int, generation: int, *, exclude: int) -> bool:
        """Whether what lies here can go anywhere now."""
        return self.outlet is not None or bool(
            self._chooser.candidates(now_ns, generation, exclude=exclude, only_free=False)
        )

    @property
    def undelivered(self) -> int:
        """How many connections lie with the manager because no worker could take them."""
        return len(self._undelivered)

    def deliver(self, message: bytes, fd: int, generation: int = 0) -> None:
        """Send a connection to the worker that suits best, at once or when there is one.

        generation: only to a worker of this one or a newer one. The descriptor is ours now.
        """
        now_ns = self._system.now_ns()
        targets = self._chooser.candidates(now_ns, generation, exclude=-1, only_free=False)
        for target in targets:
            if self._inboxes.put(target, message, fd):
                self._chooser.sent_to(target)
                os.close(fd)
                return
        if self.outlet is not None:
            self.outlet(message, fd)
        else:
            self._undelivered.append((message, fd))

    def nudge_free(self) -> bool:
        """Make the workers that have a free thread look at the listener; False if none has.

        For a wake-up that was lost: its receiver died between waking and accepting, or
        cannot get the GIL, or has no descriptors left to accept with. All of them, since
        another one may be in the same state.
        """
        free = [
            handle
            for handle in self
            if handle.state is WorkerState.READY
            and handle.row.busy + handle.row.waiting < self._settings.max_threads
        ]
        for handle in free:
            self._inboxes.nudge(handle.slot)
        return bool(free)

    def close(self) -> None:
        """Log what is still to be logged, and drop what can reach nobody any more."""
        for obituary in self._obituaries.values():
            self._publish(obituary, None)
        self._obituaries.clear()
        while self._undelivered:
            os.close(self._undelivered.popleft()[1])

    def _publish(self, obituary: _Obituary, status: ExitStatus | None) -> None:
        """Log a death, once its cause is known (or will never be)."""
        handle = obituary.handle
        how = "cause unknown, its parent is gone"
        if status is not None:
            ours = handle.killed
            unexplained = status.signal == signal.SIGKILL and not ours
            kernel = self._kernel_kills.explain_one(self._system.now_ns()) if unexplained else None
            how = status.explained(killed_by_us=ours, out_of_memory=kernel)
        lost = f", {obituary.lost} requests lost" if obituary.lost else ""
        if obituary.expected and (status is None or status.clean) and not lost:
            _log.info("%s has left (%s)", _name(handle), how)
        else:
            when = "" if handle.was_ready else " before it was ready"
            _log.warning("%s died%s: %s%s", _name(handle), when, how, lost)


def _name(handle: WorkerHandle) -> str:
    return f"worker {handle.pid or '(no pid yet)'} (slot {handle.slot})"
