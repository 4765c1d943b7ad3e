"""ThreadPool: threads come when a request waits for one and leave when idle.

One job queue. A job is a callable without arguments that never raises: either a
connection's request or the loop itself, when a spare thread is asked to lead. Both end
with the end of a request, and so with a call of `ended`. At most `max_threads` are in
the application, and one more leads. Beside them are those aside, which wait for the
reader of a streamed response (`max_streams`), and those written off, of which nobody
knows whether they will ever come back.

Who owns what
-------------
`lock` guards `busy`, `idle`, `alive` and every word of the scoreboard that both
the leader and pool threads write. It is held for a handful of instructions and
never around a call that can block.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from httpcore_srv.seldom import Seldom

Job = Callable[[], object]
"""Called without arguments; never raises, and what it returns is not looked at."""

log = logging.getLogger("smart_http.worker")


def start_daemon_thread(target: Callable[[], None], name: str) -> None:
    """Start a thread that does not keep the process alive: a stuck request must not."""
    threading.Thread(target=target, name=name, daemon=True).start()


class ThreadPool:
    """Elastic threads and their one queue.

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
        self.written_off = 0
        self.idle = 0  # threads that wait in the queue and are not yet promised a job
        self.stranded = 0  # jobs for which no thread could be started
        # All threads but the sentinel and those written off; the first one is the caller's.
        self.alive = 1
        self._idle_s = idle_s
        self._start_thread = start_thread
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._serial = 0
        self._seldom = Seldom()

    def submit(self, job: Job) -> bool:
        """Run a request's `job` on a pool thread. The leader, after seeing a free thread.

        False: no thread can be started, and the job was not taken.
        """
        with self.lock:
            self.busy += 1
            promised = self._promise_idle_thread()
        if not promised and not self._start():
            with self.lock:
                self.busy -= 1
                self.alive -= 1
            return False
        self._jobs.put(job)
        return True

    def run_aside(self, job: Job) -> None:
        """Run `job` on a spare thread, counting it neither as busy nor against the limit."""
        with self.lock:
            promised = self._promise_idle_thread()
        if not promised:
            self._start_or_strand()
        self._jobs.put(job)

    def ended(self) -> None:
        """The calling thread has ended a request. The lock is held.

        Counted idle in the same breath: a thread that is no longer busy and not yet idle
        would make `submit` start another one for every moment of that kind.
        """
        self.busy -= 1
        self.idle += 1

    def step_aside(self) -> bool:
        """A busy thread counts as aside from now on; False if too many do. The lock is held."""
        if self.streams >= self.max_streams:
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
        idle_s = self._idle_s if leave_when_idle else None
        while True:
            try:
                job = self._jobs.get(timeout=idle_s)
            except queue.Empty:
                if self._leave():
                    return
                continue
            if job is None:
                return
            job()

    def close(self) -> None:
        """Let every thread that waits, now or later, leave. The last leader, once."""
        with self.lock:
            alive = self.alive + self.written_off
        for _ in range(alive):
            self._jobs.put(None)

    def _promise_idle_thread(self) -> bool:
        """Count one idle thread as taken. The lock is held."""
        if self.idle > 0:
            self.idle -= 1
            return True
        self.alive += 1
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
        """Try again to start a thread for a job that may still lie in the queue. The leader.

        If another thread has taken the job by now, this one is an idle one too many.
        """
        with self.lock:
            self.stranded -= 1
            self.alive += 1
            self.idle += 1
        self._start_or_strand()

    def _serve_new(self) -> None:
        # Started for a job that is in the queue already, or soon. Should a thread that comes
        # back take it first, then that one is still counted idle, and stands for this one.
        self.serve(leave_when_idle=True)

    def _leave(self) -> bool:
        """Leave if not needed: not below the minimum, and not when promised a job."""
        with self.lock:
            # None idle: `submit` has promised this very thread to a job that is about to
            # be put; leaving now would strand it.
            if self.idle <= 0 or self.alive <= self.min_threads + 1:
                return False
            self.idle -= 1
            self.alive -= 1
            return True
