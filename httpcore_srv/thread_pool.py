"""ThreadPool: threads come when a request waits for one and leave when idle.

A job is a callable without arguments that never raises: either a connection's request
or the loop itself, when a spare thread is asked to lead. Both end with the end of a
request, and so with a call of `ended`. At most `max_threads` are in the application,
and one more leads. Beside them are those aside, which wait for the reader of a streamed
response (`max_streams`), and those written off, of which nobody knows whether they will
ever come back.

Last in, first out
------------------
Threads that wait lie on a stack, each with a lock of its own, and the one that came last
is woken first: its stack and its share of the caches are warm, and those below it,
which the load does not need, have peace to be idle for long enough to leave. (Of threads
that wait in one queue each is woken in turn, and none ever is.)

One at a time is woken, and wakes the next if there is more to do. Woken all at once by a
leader with many jobs they would only wait again, for the GIL: half a switch of threads
more for each request (measured), and a thread that just ends its request could not take
a job on the way, without any switch at all.

Who owns what
-------------
`lock` guards the stack, the jobs, `busy`, `idle`, `alive` and every word of the
scoreboard that both the leader and pool threads write. It is held for a handful of
instructions and never around a call that can block. Whenever it is free:

    `idle` = threads on the stack + threads on their way to it - jobs that wait
    and if a job waits while a thread lies on the stack, then one is being woken.

On its way is a thread that was started, that was woken, or that has ended a request,
until it has looked for a job. Below zero is `idle` by the `stranded`: jobs for which there
is no thread.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from httpcore_srv.seldom import Seldom

Job = Callable[[], object]
"""Called without arguments; never raises, and what it returns is not looked at."""

log = logging.getLogger("smart_http.worker")


def start_daemon_thread(target: Callable[[], None], name: str) -> None:
    """Start a thread that does not keep the process alive: a stuck request must not."""
    threading.Thread(target=target, name=name, daemon=True).start()


class ThreadPool:
    """Elastic threads and what they are to do.

    min_threads: spare threads that stay even when idle.
    max_threads: how many may be in the application at once.
    idle_s: seconds after which an idle thread above the minimum leaves.
    max_streams: how many may be aside at once.
    start_thread: how a thread is started; a seam for tests.
    """

    def __init__(
        self,
        min_threads: int,
        max_threads: int,
        idle_s: float,
        max_streams: int = 0,
        start_thread: Callable[[Callable[[], None], str], None] = start_daemon_thread,
    ) -> None:
        self.min_threads = min_threads
        self.max_threads = max_threads
        self.max_streams = max_streams
        self.lock = threading.Lock()
        self.busy = 0  # threads in the application on behalf of the pool
        self.streams = 0  # threads aside
        self.promised = 0  # places aside that are kept for busy threads
        self.written_off = 0
        self.idle = 0  # threads that wait, or will at once, and have not been given a job
        self.stranded = 0  # jobs for which no thread could be started
        # All threads but the sentinel and those written off; the first one is the caller's.
        self.alive = 1
        self._idle_s = idle_s
        self._start_thread = start_thread
        self._stack: list[threading.Lock] = []  # of each thread that waits its own, which is held
        self._waking = False  # a thread was woken and has not looked for a job yet
        self._jobs: deque[Job] = deque()
        self._closed = False
        self._serial = 0
        self._seldom = Seldom()

    def submit(self, job: Job) -> bool:
        """Run a request's `job` on a pool thread. The leader, after seeing a free thread.

        False: no thread can be started, and the job was not taken.
        """
        with self.lock:
            self.busy += 1
            has_thread = self._put(job)
        return has_thread or self._start() or self._is_taken(job)

    def run_aside(self, job: Job) -> None:
        """Run `job` on a spare thread, counting it neither as busy nor against the limit."""
        with self.lock:
            has_thread = self._put(job)
        if not has_thread:
            self._start_or_strand()

    def ended(self) -> None:
        """The calling thread has ended a request. The lock is held.

        Counted idle in the same breath: a thread that is no longer busy and not yet idle
        would make `submit` start another one for every moment of that kind.
        """
        self.busy -= 1
        self.idle += 1

    def promise_aside(self) -> bool:
        """Keep a place aside for a thread; False if there is none left. The lock is held."""
        if self.streams + self.promised >= self.max_streams:
            return False
        self.promised += 1
        return True

    def step_back(self) -> None:
        """A thread aside counts as busy again, whatever the limit. The lock is held."""
        self.streams -= 1
        self.busy += 1

    def step_aside(self, *, promised: bool = False) -> bool:
        """A busy thread counts as aside from now on; False if too many do. The lock is held.

        promised: it takes the place that was kept for it.
        """
        if promised:
            self.promised -= 1
        elif self.streams + self.promised >= self.max_streams:
            return False
        self.busy -= 1
        self.streams += 1
        return True

    def stream_ended(self) -> None:
        """The calling thread, which was aside, has ended its request. The lock is held."""
        self.streams -= 1
        self.idle += 1

    def write_off(self) -> None:
        """A busy thread is stuck: count it no more, so that another takes its place.

        The lock is held.
        """
        self.busy -= 1
        self.alive -= 1
        self.written_off += 1

    def came_back(self) -> None:
        """The calling thread was written off, and is not stuck any more. The lock is held."""
        self.written_off -= 1
        self.alive += 1
        self.idle += 1

    def serve(self, *, leave_when_idle: bool) -> None:
        """Take jobs until the pool is closed or this thread has been idle for long.

        The calling thread has been counted idle already, by `ended`.

        leave_when_idle: False for the main thread, which has nowhere to go.
        """
        idle_s = self._idle_s if leave_when_idle else -1
        alarm = threading.Lock()
        alarm.acquire()
        was_woken = False
        while True:
            with self.lock:
                if was_woken:
                    self._waking = False
                # Looked and lain down in one breath: `_put` sees either a thread on the stack,
                # or one on its way that will see the job.
                if self._jobs:
                    job = self._jobs.popleft()
                    if self._jobs:
                        self._wake()
                elif self._closed:
                    return
                else:
                    self._stack.append(alarm)
                    job = None
            was_woken = job is None
            if job is not None:
                job()
            elif not self._wait(alarm, idle_s):
                return

    def close(self) -> None:
        """Let every thread that waits, now or later, leave. The last leader, once."""
        with self.lock:
            # Whoever is on its way to the stack finds what was put before, and then this.
            self._closed = True
            while self._stack:
                self._stack.pop().release()

    def _put(self, job: Job) -> bool:
        """Have a job done by an idle thread. False: one has to be started. The lock is held."""
        # First the job, then its thread: one that was started before the job is there would
        # find nothing and lie down, and nobody would wake it.
        self._jobs.append(job)
        if self.idle > 0:
            self.idle -= 1
            self._wake()
            return True
        self.alive += 1
        return False

    def _wake(self) -> None:
        """Wake the thread that lay down last, unless one is being woken. The lock is held."""
        if self._stack and not self._waking:
            self._waking = True
            self._stack.pop().release()

    def _wait(self, alarm: threading.Lock, idle_s: float) -> bool:
        """Wait on the stack until woken, for ever if `idle_s` is -1. False: leave."""
        while not alarm.acquire(timeout=idle_s):
            with self.lock:
                if alarm not in self._stack:
                    # Woken between the end of our time and this look; the release is done, for
                    # it was under the lock that we hold.
                    alarm.acquire()
                    return True
                # None idle: all on the stack will be woken, one after the other, for jobs that
                # wait already. Leaving now would strand one.
                if self.idle > 0 and self.alive > self.min_threads + 1:
                    self._stack.remove(alarm)
                    self.idle -= 1
                    self.alive -= 1
                    return False
        return True

    def _is_taken(self, job: Job) -> bool:
        """No thread could be started for a submitted job: has another taken it meanwhile?

        If not, it is withdrawn.
        """
        with self.lock:
            self.alive -= 1
            try:
                self._jobs.remove(job)
            except ValueError:
                # The one that took it has counted itself idle, and is not.
                self.idle -= 1
                return True
            self.busy -= 1
            return False

    def _start(self) -> bool:
        """Start a thread; False if there are no more to be had (RLIMIT_NPROC, cgroup pids.max)."""
        self._serial += 1
        try:
            self._start_thread(self._serve_new, f"smart-http-{self._serial}")
        except RuntimeError as error:
            if self._seldom("threads"):
                log.error("cannot start another thread (%d are there): %s", self.alive, error)
            return False
        return True

    def _start_or_strand(self) -> None:
        """Start a thread for a job; else the next that comes back takes it: late, not lost."""
        if not self._start():
            # That thread will count itself idle while it is not: hence the debt.
            with self.lock:
                self.alive -= 1
                self.idle -= 1
                self.stranded += 1

    def rescue(self) -> None:
        """Try again to start a thread for a job that may still lie there. The leader.

        If another thread has taken the job by now, this one is an idle one too many.
        """
        with self.lock:
            self.stranded -= 1
            self.alive += 1
            self.idle += 1
        self._start_or_strand()

    def _serve_new(self) -> None:
        # Started for a job that is there already. Should a thread that comes back take it
        # first, then that one is still counted idle, and stands for this one.
        self.serve(leave_when_idle=True)
