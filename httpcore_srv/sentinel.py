"""The sentinel: takes the baton from a leader that is stuck in the application.

It looks every millisecond while requests run on the leader's own thread, and
sleeps on an event when none has run lately, so an idle worker costs nothing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

LIMIT_NS: Final = 1_000_000  # a call that lasts longer has lost its right to the loop
PERIOD_S: Final = 0.001
QUIET_NS: Final = 50_000_000  # no inline call for so long: sleep until there is one


class Sentinel:
    """Watches one baton.

    baton: the deque in which the leader lays it down.
    on_taken: called on the sentinel's thread once it holds the baton; it must see to
        it that another thread leads.
    """

    def __init__(
        self,
        baton: deque[bool],
        on_taken: Callable[[], None],
        clock_ns: Callable[[], int] = time.monotonic_ns,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.since_ns = 0  # when the running inline call began; written by the leader
        self.asleep = False  # written here; the leader reads it and calls `wake`
        self._baton = baton
        self._on_taken = on_taken
        self._clock_ns = clock_ns
        self._pause = pause
        self._alarm = threading.Event()
        self._stopped = False

    def start(self) -> None:
        """Begin to watch, on a thread of its own."""
        threading.Thread(target=self._watch, name="smart-http-sentinel", daemon=True).start()

    def wake(self) -> None:
        """An inline call has begun and `asleep` was set. The leader."""
        self._alarm.set()

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        self._alarm.set()

    def look(self) -> bool:
        """Take the baton if its call has lasted too long. True: taken."""
        if not self._baton or self._clock_ns() - self.since_ns < LIMIT_NS:
            return False
        try:
            # The call may have ended and the next begun since we looked. Then a young
            # call loses the baton: one needless switch, never a wrong one. Laying the
            # baton back here would be wrong: the leader may have found it gone already.
            self._baton.pop()
        except IndexError:
            return False  # the leader was faster
        self._on_taken()
        return True

    def _watch(self) -> None:
        while not self._stopped:
            self._pause(PERIOD_S)
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
