"""The epoll loop of one worker, its wake-up and its baton.

Knows descriptors, callbacks and deadlines; knows no HTTP.

Facts about epoll(7) that shape this file
-----------------------------------------
* Everything is level-triggered. When the baton changes hands in the middle of a
  batch of events, the rest of the batch may simply be forgotten: the new leader's
  first `poll` reports every descriptor that is still ready.
* A registration belongs to the *open file*, not to the number. While another
  process holds the same open file (a connection handed over), closing our number
  does not end our registration: unregister first, then close.
* EPOLLEXCLUSIVE can be neither modified nor combined with EPOLLONESHOT (EINVAL):
  a listener is gated by unregistering it.

The baton
---------
One thread at a time leads: it alone polls, fires timers, and closes or
unregisters descriptors. The baton is an item in a deque, because `append`, `pop`
and `remove` of a deque are single steps under the GIL. The leader *lays it down*
before it enters the application and *takes it back* after; if the sentinel was
there first, `remove` does not find it, and the thread knows that it leads no more.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from httpcore_srv.timers import NEVER_NS, Timers

Handler = Callable[[int], bool]
"""Called with the event mask. True: the baton was lost inside the call."""

Posted = Callable[[], bool]
"""A call that another thread wants made by the leader. True as for `Handler`."""

MAX_EVENTS: Final = 256  # a batch; at 10 us each a batch lasts 2.5 ms, so timers stay exact
MAX_WAIT_S: Final = 1.2  # the heartbeat: an idle worker wakes this often and no more


class EventLoop:
    """Descriptors and their handlers, posted calls, timers, and the baton.

    clock_ns: CLOCK_MONOTONIC in nanoseconds; a test may move it by hand.
    shortest_timeout_ns: of all that will be given to the timers.
    """

    def __init__(
        self,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        shortest_timeout_ns: int = NEVER_NS,
    ) -> None:
        self.clock_ns = clock_ns
        self.now_ns = clock_ns()
        self.timers = Timers(clock_ns, shortest_timeout_ns)
        self.before_wait: Callable[[], None] = _nothing
        self.before_timers: Callable[[], None] = _nothing
        self.baton: deque[Any] = deque()  # holds one item, whoever's, while it is laid down
        self.running = True
        self.leader = 0  # native id of the thread that leads
        self.leader_ident = 0  # the same as threading.get_ident() says it
        self.retry_s: float | None = None  # an upper bound of the next wait, seconds
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._posted: deque[Posted] = deque()
        self._closing = threading.Lock()
        self._closed = False
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.register(self._wakeup, select.EPOLLIN, self._woken)

    # -- descriptors: the leader only -------------------------------------------------

    def register(self, fd: int, mask: int, handler: Handler) -> None:
        """Watch `fd`. Raises OSError as epoll_ctl(2) does."""
        self._epoll.register(fd, mask)
        self._handlers[fd] = handler

    def modify(self, fd: int, mask: int) -> None:
        """Change what is watched for; 0 leaves only errors and hang-ups."""
        self._epoll.modify(fd, mask)

    def unregister(self, fd: int) -> None:
        """Forget `fd`. To be called *before* it is closed or handed over."""
        del self._handlers[fd]
        self._epoll.unregister(fd)

    # -- other threads ----------------------------------------------------------------

    def post(self, call: Posted) -> None:
        """Have the leader make this call soon. Any thread."""
        self._posted.append(call)
        self._wake()

    def stop(self) -> None:
        """Let `run` return True in whichever thread leads. Any thread."""
        self.running = False
        self._wake()

    # -- leading ----------------------------------------------------------------------

    def run(self) -> bool:
        """Lead until the loop is stopped (True) or the baton is lost (False).

        The calling thread must hold the baton: the first call of all, or a call
        made because the sentinel took it on this thread's behalf.
        """
        self.leader = threading.get_native_id()
        self.leader_ident = threading.get_ident()
        poll = self._epoll.poll
        find = self._handlers.get
        posted = self._posted
        timers = self.timers
        clock_ns = self.clock_ns
        while self.running:
            self.before_wait()
            events = poll(self._wait_s(), MAX_EVENTS)
            self.now_ns = now_ns = clock_ns()
            if not events and now_ns >= timers.next_ns:
                # A process that was stopped for longer than its wait comes back without
                # having looked. What has come meanwhile goes before the time-outs.
                events = poll(0.0, MAX_EVENTS)
            for fd, mask in events:
                handler = find(fd)
                # None: an earlier event of this batch closed it. A *new* connection
                # under the same number gets a spurious event, reads EAGAIN, and waits.
                if handler is not None and handler(mask):
                    return False
            # Bounded pass: a call that posts itself again waits for the next round.
            for _ in range(len(posted)):
                if posted.popleft()():
                    return False
            if now_ns >= timers.next_ns:
                self.before_timers()
                timers.fire(now_ns)
        return True

    def close(self) -> None:
        """Close the loop's own descriptors. After `run` has returned True."""
        # A thread that ends its request late posts all the same: not into a descriptor
        # that may be somebody else's by then.
        with self._closing:
            self._closed = True
            os.close(self._wakeup)
        self._epoll.close()

    def _wake(self) -> None:
        with self._closing:
            if not self._closed:
                os.eventfd_write(self._wakeup, 1)

    def _wait_s(self) -> float:
        if self._posted:
            return 0.0
        wait_s = (self.timers.next_ns - self.clock_ns()) / 1e9
        if self.retry_s is not None and self.retry_s < wait_s:
            wait_s = self.retry_s
        return min(max(wait_s, 0.0), MAX_WAIT_S)

    def _woken(self, mask: int) -> bool:
        os.eventfd_read(self._wakeup)
        return False


def _nothing() -> None:
    return None
