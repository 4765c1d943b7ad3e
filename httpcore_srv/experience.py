"""Experience: which kinds of requests were slow, and when running inline is the better bet.

Two things are learned from what was slow. Its *kind* (method and path) goes through the
pool from then on, while others run inline; so a page that waits 100 ms for another
server takes the baton from nobody, and the quick requests beside it never wait for it.
And as long as requests surprise us (slow ones of a kind not known to be, such as those
whose every path is another) all of them go through the pool.

Trust comes back with a run of quick requests: of one kind to this kind, of all to all.
It becomes longer, twice at a time, when trust is disappointed soon, and shorter again
with time. Without that, an application of which one request in three hundred waits
would lose the baton, and keep everybody waiting for some milliseconds, again and again.
"""

from __future__ import annotations

from typing import Final

QUICK_NS: Final = 1_000_000  # a request that took no longer was quick
# A pool's thread that waits for the GIL seems slow. It waits five milliseconds at the most for
# each time that it asks (sys.getswitchinterval); whoever took longer is likely to be slow.
SLOW_NS: Final = 10_000_000
QUICK_RUN: Final = 256  # quick requests in a row that make inline running the better bet again
LONGEST_RUN: Final = 4096
CALM_NS: Final = 1_000_000_000  # trust that holds for so long was not given too soon
MAX_KINDS: Final = 64  # that are remembered; the oldest is forgotten first

UNKNOWN: Final = 0  # the kind of a request of which nobody knows it any more


class Experience:
    """Of one worker. Guarded by the pool's lock; but the leader looks into `slow_kinds` without.

    slow_kinds: for each, how many requests of this kind have been quick since, in a row.
    """

    def __init__(self) -> None:
        self.slow_kinds: dict[int, int] = {}
        self._run = QUICK_RUN
        self._quick = 0
        # When trust was given; None: never, or it was disappointed since.
        self._trusted_ns: int | None = None

    def disappointed(self, kind: int, now_ns: int) -> None:
        """A request that ran inline was slow, and has cost its thread the baton."""
        if self._trusted_ns is not None:
            calm = (now_ns - self._trusted_ns) // CALM_NS
            if calm:
                self._run = max(QUICK_RUN, self._run >> calm)
            else:
                self._run = min(LONGEST_RUN, 2 * self._run)
            self._trusted_ns = None
        self._quick = 0
        self._learn(kind)

    def was_slow(self, kind: int, duration_ns: int, *, by_client: bool) -> None:
        """A request was not quick that a thread of the pool ran.

        by_client: it was a slow reader that took the time, and not the application.
        """
        if kind in self.slow_kinds:
            self.slow_kinds[kind] = 0  # no surprise: it says nothing of the others
            return
        self._quick = 0
        if duration_ns >= SLOW_NS and not by_client:
            self._learn(kind)

    def was_quick(self, kind: int, now_ns: int, *, inline: bool) -> bool:
        """A request was quick that a thread of the pool ran. True: run inline from now on.

        inline: whether requests run inline already.
        """
        run = self.slow_kinds.get(kind)
        if run is not None:
            if run + 1 < self._run:
                self.slow_kinds[kind] = run + 1
            else:
                del self.slow_kinds[kind]
                self._trusted_ns = now_ns
        if inline:
            return False
        self._quick += 1
        if self._quick < self._run:
            return False
        self._quick = 0
        self._trusted_ns = now_ns
        return True

    def _learn(self, kind: int) -> None:
        if kind == UNKNOWN:
            return
        if len(self.slow_kinds) >= MAX_KINDS:
            del self.slow_kinds[next(iter(self.slow_kinds))]
        self.slow_kinds[kind] = 0
