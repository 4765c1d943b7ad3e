"""Who runs a complete request: the leader itself, or a thread of the pool.

Inline, while the application is quick: the leader lays the baton down, runs the
request on its own thread and takes the baton back. No queue, no lock, no second
thread. If the sentinel took the baton meanwhile, the application was not quick:
from then on requests go through the pool, until many of them in a row took less than
a millisecond, and those of the kind that was slow for longer (see `experience.py`).

Both ways run the same `Stream.respond`. A thread that has to wait for its client while
it leads gives the baton away by itself, and is one of the pool's from then on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from httpcore_srv.event_loop import EventLoop
from httpcore_srv.experience import QUICK_NS, Experience
from httpcore_srv.ports import Slot
from httpcore_srv.sentinel import Sentinel
from httpcore_srv.thread_pool import ThreadPool

log = logging.getLogger("smart_http.worker")

# How long a response is held at most for those of the requests behind it, if these are quick.
HOLD_NS: Final = 250_000
# After a request that was not quick nothing is held for so many times its duration: what a slow
# one may delay, because it was held in front of it, stays one in a hundred of such requests.
UNCALM: Final = 100


class Job(Protocol):
    """A stream that holds a complete request."""

    @property
    def kind(self) -> int:
        """What requests have in common that are likely to take equally long. Any thread."""

    def respond(self) -> bool:
        """Run the application and send the response, or hold it. True: it failed."""

    def responded(self) -> bool:
        """Go on after a response. True: it is held. The leader."""

    def send_held(self) -> bool:
        """Send what is held. True: not all of it could be sent, try again soon. The leader."""

    def stop_gathering(self) -> None:
        """From now on, send what there is at once. The leader."""

    def hand_back(self) -> None:
        """Give the connection back to the leader, from a thread that does not lead."""

    def revoke(self) -> bool:
        """Keep the thread from responding; False if it has begun to. The leader."""


class LiveJob(Job, Protocol):
    """A stream that holds a request of which a part of the body is still to come."""

    def begin_live(self, run: LiveRun) -> None:
        """A thread is there, and a place aside for it: hand the request out. The leader."""


class Run:
    """A request that a thread of the pool runs. Guarded by the pool's lock."""

    __slots__ = ("aside", "began_ns", "live", "thread", "waiting")

    def __init__(self, began_ns: int, thread: int) -> None:
        self.began_ns = began_ns
        self.thread = thread  # as threading.get_ident() says it
        self.aside = False  # it counts as a stream, not as busy
        self.live = False  # a rest of its request's body is still to come
        self.waiting = False  # for that rest


class LiveRun(Run):
    """A run whose application reads the request's body out of the socket.

    As long as that goes on its thread has a place aside: kept for it until it has to wait
    for the client the first time, taken from then on. With the last byte it counts as busy
    again. Between two waits it is not called busy anew: a body comes in a thousand pieces.

    Its time (`began_ns`) stands still while it waits: that is the client's.
    """

    __slots__ = ("_dispatcher", "_stream", "handed_out")

    def __init__(self, dispatcher: Dispatcher, stream: Job) -> None:
        super().__init__(0, 0)
        self.live = True
        self.handed_out = threading.Lock()  # held by the leader until its thread may begin
        self._dispatcher = dispatcher
        self._stream = stream

    def wait_began(self) -> None:
        """A thread of the application waits for the rest of the body."""
        self.waiting = True
        if not self.aside:
            self._dispatcher.step_aside(self._stream, self)

    def wait_ended(self, waited_ns: int) -> None:
        """It has waited."""
        # In this order: who finds that nobody waits, and reads the time then, reads a time
        # without the wait.
        self.began_ns += waited_ns
        self.waiting = False

    def body_came(self) -> None:
        """Nothing of the body is left to wait for."""
        self._dispatcher.step_back(self._stream, self)


class Dispatcher:
    """Runs requests and keeps count of them.

    on_freed: called by a pool thread that has ended a request, without any lock held.
    lead: runs the loop; called on the thread that leads after the baton was taken.
    """

    def __init__(
        self,
        loop: EventLoop,
        pool: ThreadPool,
        slot: Slot,
        on_freed: Callable[[], None],
        lead: Callable[[], object],
    ) -> None:
        self.inline = True
        self._loop = loop
        self._pool = pool
        self._slot = slot
        self._store_begun = slot.begun
        self._store_ended = slot.ended_inline
        self._on_freed = on_freed
        self._clock_ns = loop.clock_ns
        self._baton = loop.baton
        self._lead = lead
        self.sentinel = Sentinel(loop.baton, self._baton_taken, lambda: loop.leader, loop.clock_ns)
        # Written by the leader:
        self._begun = 0
        self._ended_inline = 0
        self.durations_ns: list[int] = []  # of inline requests, since the last `flush`
        # Responses are held for a moment, to be sent together. Only while `inline` is true;
        # read by streams before their request runs.
        self.gathers = False
        self._held: list[Job] = []  # streams with responses that are held
        self._held_ns = 0  # since when
        self._unsaid = 0  # requests that ended and that the slot does not know of
        self._uncalm_until_ns = 0
        self._slow_ns = self._slow_cpu_ns = 0  # when the last slow one ended; the thread's CPU time
        # Guarded by the pool's lock, but for additions by `_serve`:
        self.running: dict[Job, Run] = {}  # what pool threads run
        self._written_off: set[Job] = set()  # whose threads are stuck
        self._uncounted: set[Job] = set()  # whose baton the sentinel took, and is about to count
        self._ended_pooled = 0
        self._errors = 0
        self._experience = Experience()
        self._slow_kinds = self._experience.slow_kinds

    @property
    def begun(self) -> int:
        """How many requests have begun."""
        return self._begun

    def run(self, stream: Job) -> bool:
        """Run the request that `stream` holds, which belongs to the running thread now.

        The leader only, with a free thread. True: the baton was lost.
        """
        self._begun += 1
        self._store_begun(self._begun)
        if not self.inline or (self._slow_kinds and stream.kind in self._slow_kinds):
            self.serve_out()  # a thread of the pool is to find nothing held
            stream.stop_gathering()
            # If there is no thread to be had, the leader runs it after all.
            if self._pool.submit(lambda: self._serve(stream)):
                return False
        if not self.durations_ns:
            # The first of its batch says that this worker is busy; `flush` ends the batch.
            self._slot.busy(self._pool.busy + 1)
        sentinel = self.sentinel
        sentinel.since_ns = start_ns = self._clock_ns()
        # Laid down. From here to `remove` another thread may be the leader at any moment;
        # `since_ns` was set first, or the sentinel would see an old one.
        self._baton.append(stream)
        if sentinel.asleep:
            sentinel.wake()
        failed = stream.respond()
        try:
            # Not pop(): if the sentinel took our baton long ago, another leader's may lie
            # here now, and taking that would make two threads lead by turns.
            self._baton.remove(stream)
        except ValueError:
            # The sentinel was here, or this thread itself: it is one of the pool's now.
            self._end_pooled(stream, self._clock_ns() - start_ns, failed)
            return True
        end_ns = self._clock_ns()
        duration_ns = end_ns - start_ns
        self.durations_ns.append(duration_ns)
        self._unsaid += 1
        if failed:
            with self._pool.lock:
                self._count_error()
        if stream.responded():
            if not self._held:
                self._held_ns = end_ns
            self._held.append(stream)
        # A request that was slow makes those behind it suspect: they are not waited for.
        if duration_ns >= HOLD_NS or end_ns - self._held_ns >= HOLD_NS:
            self.serve_out()
            if duration_ns >= QUICK_NS:
                self._slow_inline(end_ns, duration_ns)
        return False

    def serve_out(self) -> None:
        """Send what is held, and count it. The leader.

        Why at all: a client that waits is woken by what it gets, which costs the sender more
        than the sending (7 of 65 us with a Flask application); those that get something
        in the same moment are awake already. A request counts as ended when its response is
        sent: it is lost if the worker is killed before.
        """
        held = self._held
        if held:
            self._held = []
            for stream in held:
                if stream.send_held():
                    self._held.append(stream)
        if self._unsaid:
            self._ended_inline += self._unsaid
            self._unsaid = 0
            self._store_ended(self._ended_inline)

    def is_calm(self, now_ns: int) -> bool:
        """Whether requests have all been quick lately, so that responses may be held."""
        return (
            self.inline and now_ns >= self._uncalm_until_ns and not self.sentinel.is_alert(now_ns)
        )

    def run_live(self, stream: LiveJob) -> bool:
        """Run the request that `stream` holds but for a part of its body, on a pool thread.

        The leader only, with a free thread. False: no place aside is free for when that
        thread must wait for the client, or no thread can be had; nothing was changed.
        """
        pool = self._pool
        with pool.lock:
            if not pool.promise_aside():
                return False
        run = LiveRun(self, stream)
        # The thread may be quicker than we are, and must not find the request half handed out.
        with run.handed_out:
            if not pool.submit(lambda: self._serve_live(stream, run)):
                with pool.lock:
                    pool.promised -= 1
                return False
            stream.stop_gathering()
            stream.begin_live(run)
            self._begun += 1
            self._store_begun(self._begun)
        return True

    def flush(self) -> None:
        """Account for inline requests. The leader, with the pool's lock held."""
        if self.durations_ns:
            self._slot.timed(self.durations_ns)
            self.durations_ns.clear()

    def _slow_inline(self, now_ns: int, duration_ns: int) -> None:
        """A request was not quick, and ended before the sentinel had seen it twice.

        If such requests mostly wait, the pool is the better bet; so the sentinel is to look
        more often, and will catch one. If they compute, its looks would only cost time.
        """
        self._uncalm_until_ns = now_ns + UNCALM * duration_ns
        self.gathers = False
        cpu_ns = time.thread_time_ns()
        computed = 2 * (cpu_ns - self._slow_cpu_ns) > now_ns - self._slow_ns
        self._slow_ns, self._slow_cpu_ns = now_ns, cpu_ns
        if not computed:
            self.sentinel.alert(now_ns)

    # -- threads that are not simply busy -----------------------------------------------

    def wait_aside(self, stream: Job) -> bool:
        """The calling thread, which runs `stream`, must wait for its client.

        It does not lead any more and counts as a stream. False: there are too many of
        these; then it counts as busy.
        """
        try:
            self._baton.remove(stream)
        except ValueError:
            demoted = False
        else:
            # It led. The client is slow and not the application: stay inline.
            demoted = True
        pool = self._pool
        with pool.lock:
            if demoted:
                pool.busy += 1
            run = self.running.get(stream)
            if run is None:
                # It led until now, or until the sentinel came, who has yet to count it.
                run = self.running[stream] = Run(self.sentinel.since_ns, threading.get_ident())
                if not demoted:
                    self._uncounted.add(stream)
            self._count_aside(run)
        if demoted:
            pool.run_aside(self._lead)
        self._on_freed()
        return run.aside

    def move_aside(self, stream: Job) -> None:
        """Count the thread that runs `stream` as a stream, if it still runs it. The leader."""
        with self._pool.lock:
            run = self.running.get(stream)
            if run is not None:
                self._count_aside(run)
        self._on_freed()

    def _count_aside(self, run: Run) -> None:
        """Count a run's thread as a stream, if there is room. The pool's lock is held."""
        pool = self._pool
        run.aside = run.aside or pool.step_aside(promised=run.live)
        self._slot.busy(max(0, pool.busy))
        self._slot.aside(pool.streams)

    def step_aside(self, stream: Job, run: LiveRun) -> None:
        """The thread of a live run waits for its client. It does not lead."""
        with self._pool.lock:
            # Not if it was written off, or has ended: then another thread of the application
            # waits, of which nobody keeps count.
            if self.running.get(stream) is run:
                self._count_aside(run)
        self._on_freed()

    def step_back(self, stream: Job, run: LiveRun) -> None:
        """A live run's body has come: its thread needs no place aside, and is busy."""
        with self._pool.lock:
            if self.running.get(stream) is run:
                self._end_live(run)

    def _end_live(self, run: Run) -> None:
        """A run's thread will not wait for its body any more. The pool's lock is held."""
        if not run.live:
            return
        run.live = False
        pool = self._pool
        if not run.aside:
            pool.promised -= 1
            return
        run.aside = False
        pool.step_back()
        self._slot.busy(max(0, pool.busy))
        self._slot.aside(pool.streams)

    def write_off(self, stream: Job) -> bool:
        """Take the connection from its thread, which is stuck. The leader, who owns it then.

        False: the thread has begun to respond, or has ended.
        """
        pool = self._pool
        with pool.lock:
            run = self.running.get(stream)
            # In this order, under the lock that a thread needs to end: either it finds that
            # it was written off, or we find that it has begun.
            if run is None or (run.aside and not run.live) or not stream.revoke():
                return False
            self._end_live(run)
            del self.running[stream]
            self._written_off.add(stream)
            pool.write_off()
            duration_ns = max(0, self._clock_ns() - run.began_ns)
            self._count_pooled(stream.kind, duration_ns, failed=True)
        self._on_freed()
        return True

    # -- the pool's threads -----------------------------------------------------------------

    def _serve(self, stream: Job) -> None:
        """Run one request on a pool thread."""
        start_ns = self._clock_ns()
        self.running[stream] = Run(start_ns, threading.get_ident())
        failed = stream.respond()
        self._end_pooled(stream, self._clock_ns() - start_ns, failed)

    def _serve_live(self, stream: Job, run: LiveRun) -> None:
        """Run a request whose body is still coming on a pool thread."""
        with run.handed_out:
            pass
        run.thread = threading.get_ident()
        run.began_ns = self._clock_ns()
        self.running[stream] = run
        failed = stream.respond()
        # Not below zero: two threads of the application may have waited at the same time.
        self._end_pooled(stream, max(0, self._clock_ns() - run.began_ns), failed)

    def _end_pooled(self, stream: Job, duration_ns: int, failed: bool) -> None:
        pool = self._pool
        kind = stream.kind
        with pool.lock:
            run = self.running.pop(stream, None)
            owned = stream not in self._written_off
            if not owned:
                self._written_off.discard(stream)
                pool.came_back()
            else:
                if run is None:
                    self._uncounted.add(stream)
                else:
                    self._end_live(run)
                aside = run is not None and run.aside
                if aside:
                    pool.stream_ended()
                    self._slot.aside(pool.streams)
                else:
                    pool.ended()
                self._count_pooled(kind, duration_ns, failed, by_client=aside)
        if owned:
            # In this order: a thread that is free, and only then the connection and whatever
            # waited for a thread. Otherwise a client's next request could find none.
            stream.hand_back()
        self._on_freed()

    def _count_pooled(
        self, kind: int, duration_ns: int, failed: bool, *, by_client: bool = False
    ) -> None:
        """Count a request that a pool thread ended. The pool's lock is held."""
        self._ended_pooled += 1
        self._slot.ended_pooled(self._ended_pooled)
        self._slot.timed((duration_ns,))
        # Below zero for a moment if the sentinel has taken the baton and not counted yet.
        self._slot.busy(max(0, self._pool.busy))
        if failed:
            self._count_error()
        experience = self._experience
        if duration_ns >= QUICK_NS:
            experience.was_slow(kind, duration_ns, by_client=by_client)
        elif experience.was_quick(kind, self._clock_ns(), inline=self.inline):
            self.inline = True

    def _count_error(self) -> None:
        """The application failed a request. The pool's lock is held."""
        self._errors += 1
        self._slot.failed(self._errors)

    def _baton_taken(self, stream: Job) -> None:
        """The sentinel's thread holds the baton of `stream`: count it, have another lead."""
        self.inline = self.gathers = False
        # The next leader sends what is held, first of all; of the stuck stream, too: its
        # response may be whole, and the application busy with close().
        self._held.append(stream)
        pool = self._pool
        with pool.lock:
            # The stuck thread may already have found the baton gone, ended its request or
            # stepped aside, and subtracted itself: then `busy` was one too low for a moment.
            pool.busy += 1
            if stream in self._uncounted:
                self._uncounted.discard(stream)
            else:
                self.running[stream] = Run(self.sentinel.since_ns, self._loop.leader_ident)
            # A thread that has ended already has let go of its request: then no kind is learned.
            self._experience.disappointed(stream.kind, self._clock_ns())
            self._slot.busy(max(0, pool.busy))
        pool.run_aside(self._lead)
