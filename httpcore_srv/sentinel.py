"""The sentinel: takes the baton from a leader that is stuck in the application.

It looks every few milliseconds while requests run on the leader's own thread, every
millisecond when it has reason to or the process has time to spare, and sleeps on an event
when none has run lately, so an idle worker costs nothing. Each look costs the leader the
GIL for a moment: looking every millisecond always took 5 % of a Flask application's speed.
But it is 5 % of what a worker needs that has nothing to do, and there the time in which
a slow request keeps quick ones waiting is all that they ever wait.

Stuck is a call that is seen by two looks and whose thread *sleeps* in the kernel. The
clock alone would not do: on a crowded machine a quick call lasts milliseconds when
its thread is preempted, and each time the worker would be driven into the pool for
nothing (measured with five processes on the core: a third of the speed).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

PERIOD_S: Final = 0.001  # between two looks, when a call is late or one was stuck lately
CALM_PERIOD_S: Final = 0.008
LATE_NS: Final = 1_000_000
ALERT_NS: Final = 1_000_000_000  # after a call was stuck
PATIENCE: Final = 10  # looks after which a call that only computes loses the baton, too
# A process that took less of a core than one part in so many, lately, has time to spare.
SPARE: Final = 4
SPARE_WINDOW_NS: Final = 8_000_000
QUIET_NS: Final = 50_000_000  # no inline call for so long: sleep until there is one


def is_runnable(thread_id: int) -> bool:
    """Whether a thread of ours runs or waits for a core: state R in proc(5).

    Not so while it waits for a file, a socket, a lock or the GIL.
    """
    try:
        with open(f"/proc/self/task/{thread_id}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split(None, 1)[0] == b"R"
    except OSError:
        return False  # no such thread any more, or no descriptor left to ask with


class Sentinel:
    """Watches one baton.

    baton: the deque in which the leader lays it down.
    on_taken: called on the sentinel's thread once it holds the baton, with what lay
        there; it must see to it that another thread leads.
    leader: the native id of the thread that leads.
    runnable: whether a thread could run if it had a core.
    cpu_ns: what the process has taken of the processor.
    """

    def __init__(
        self,
        baton: deque[Any],
        on_taken: Callable[[Any], None],
        leader: Callable[[], int],
        clock_ns: Callable[[], int] = time.monotonic_ns,
        pause: Callable[[float], None] = time.sleep,
        runnable: Callable[[int], bool] = is_runnable,
        cpu_ns: Callable[[], int] = time.process_time_ns,
    ) -> None:
        self.since_ns = 0  # when the running inline call began; written by the leader
        self.cpu_ns = cpu_ns
        self.asleep = False  # written here; the leader reads it and calls `wake`
        self._baton = baton
        self._on_taken = on_taken
        self._clock_ns = clock_ns
        self._leader = leader
        self._pause = pause
        self._runnable = runnable
        self._has_time = False
        self._measured_ns = self._measured_cpu_ns = 0  # when, and what the clocks said then
        self._seen_ns = 0  # the call that the look before saw
        self._looks = 0  # that have seen it
        self._alert_until_ns = 0
        self._alarm = threading.Event()
        self._stopped = False

    def start(self) -> None:
        """Begin to watch, on a thread of its own."""
        threading.Thread(target=self._watch, name="smart-http-sentinel", daemon=True).start()

    def wake(self) -> None:
        """An inline call has begun and `asleep` was set. The leader."""
        self._alarm.set()

    def alert(self, now_ns: int) -> None:
        """Look every millisecond for the next second. The leader."""
        self._alert_until_ns = now_ns + ALERT_NS

    def is_alert(self, now_ns: int) -> bool:
        """Whether a call was stuck, or slow without computing, in the last second."""
        return now_ns < self._alert_until_ns

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        self._alarm.set()

    def look(self) -> bool:
        """Take the baton if its call is stuck. True: taken."""
        since_ns = self.since_ns
        if not self._baton or since_ns != self._seen_ns:
            self._seen_ns = since_ns
            self._looks = 0
            return False
        self._looks += 1
        if self._looks < PATIENCE and self._runnable(self._leader()):
            return False
        try:
            # The call may have ended and the next begun since we looked. Then a young
            # call loses the baton: one needless switch, never a wrong one. Laying the
            # baton back here would be wrong: the leader may have found it gone already.
            taken = self._baton.pop()
        except IndexError:
            return False  # the leader was faster
        self.alert(self._clock_ns())
        self._on_taken(taken)
        return True

    def pause_s(self) -> float:
        """Return how long to wait for the next look, in seconds."""
        now_ns = self._clock_ns()
        late = self._baton and now_ns - self.since_ns >= LATE_NS
        if late or now_ns < self._alert_until_ns or self._has_time_to_spare(now_ns):
            return PERIOD_S
        return CALM_PERIOD_S

    def _has_time_to_spare(self, now_ns: int) -> bool:
        elapsed_ns = now_ns - self._measured_ns
        if elapsed_ns >= SPARE_WINDOW_NS:
            cpu_ns = self.cpu_ns()
            self._has_time = SPARE * (cpu_ns - self._measured_cpu_ns) < elapsed_ns
            self._measured_ns, self._measured_cpu_ns = now_ns, cpu_ns
        return self._has_time

    def _watch(self) -> None:
        while not self._stopped:
            self._pause(self.pause_s())
            if not self.look() and self._clock_ns() - self.since_ns > QUIET_NS:
                self._sleep()

    def _sleep(self) -> None:
        self.asleep = True
        self._alarm.clear()
        # The leader lays the baton down, then reads `asleep`. We set `asleep`, then look
        # for the baton. Whichever came first, one of us sees the other.
        if not self._baton and not self._stopped:
            self._alarm.wait()
        self.asleep = False
