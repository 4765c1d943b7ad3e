"""Slot: a worker's own row of the scoreboard, the writing side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from .histogram import BUCKETS, FIRST_END_NS, bucket_of
from .scoreboard import (
    ACCEPTED,
    BEAT,
    BEGUN,
    BUSY,
    COMMAND,
    CONNECTIONS,
    DRAIN,
    ECHO,
    ENDED_INLINE,
    ENDED_POOLED,
    ERRORS,
    H_LINGER_MS,
    H_SHUTDOWN,
    HANDED_IN,
    HANDED_OUT,
    HISTOGRAM,
    INCARNATION,
    INCIDENTS,
    MAX_INCIDENTS,
    RUN,
    SERVICE,
    SHIFT,
    SHUTDOWN_NONE,
    SHUTDOWN_NOW,
    SLOT_WORDS,
    STATE,
    STATE_DRAINING,
    STATE_EXITING,
    STATE_READY,
    STREAMS,
    THREADS,
    WAITING,
    WRITTEN_OFF,
    Scoreboard,
    unpack_shift,
)

# The values of order(), in rising urgency, so that the larger of two wins.
ORDER_RUN: Final = 0
ORDER_DRAIN: Final = 1
ORDER_STOP: Final = 2
ORDER_NOW: Final = 3


class Slot:
    """The row of one worker, in that worker's process.

    Every number is stored absolutely, from a Python int kept here: `words[i] += 1` is a
    load and a store, and the GIL may pass to another writer between the two.

    scoreboard: made by the manager before this process was forked.
    index: which row.
    incarnation: the number the manager gave this worker; no other ever has it.
    """

    def __init__(self, scoreboard: Scoreboard, index: int, incarnation: int) -> None:
        self.index = index
        self.incarnation = incarnation
        base = scoreboard.base(index)
        self._header = scoreboard.words
        self._row = scoreboard.words[base : base + SLOT_WORDS]
        self._shifted = self._row[SHIFT]
        self._service_ns = 0
        self._histogram = [0] * BUCKETS

    def started(self) -> None:
        """Write the echo: from now on this row's content is this worker's.

        Not ready yet: the state stays 0 until `ready()`.
        """
        self._row[ECHO] = self.incarnation

    def order(self) -> int:
        """Return what the manager wants now: 0 run, 1 drain, 2 stop, 3 leave at once."""
        row = self._row
        command = row[COMMAND]
        if row[INCARNATION] != self.incarnation:
            # The manager gave this row away because it took us for dead; another
            # process writes here now, and all that is left to us is to go.
            return ORDER_NOW
        if command == RUN:
            order = ORDER_RUN
        elif command == DRAIN:
            order = ORDER_DRAIN
        else:
            order = ORDER_NOW
        shutdown = self._header[H_SHUTDOWN]
        if shutdown == SHUTDOWN_NONE:
            return order
        return max(order, ORDER_NOW if shutdown == SHUTDOWN_NOW else ORDER_STOP)

    def shift(self) -> tuple[int, float] | None:
        """Return the sibling's slot and the share of the active connections it is to get.

        None: there is no new order of that kind.
        """
        word = self._row[SHIFT]
        if word == self._shifted:
            return None
        self._shifted = word
        return unpack_shift(word)

    def linger_s(self) -> float:
        """Return how long a stopping server still answers idle keep-alive connections."""
        return self._header[H_LINGER_MS] / 1000

    def ready(self) -> None:
        """Say that this worker serves (again, if it was draining)."""
        # The heart first: whoever is ready without one is passed over by its siblings.
        self._row[BEAT] = time.monotonic_ns()
        self._row[STATE] = STATE_READY

    def draining(self) -> None:
        """Say that this worker accepts nothing more and finishes what it has."""
        self._row[STATE] = STATE_DRAINING

    def exiting(self) -> None:
        """Say that nothing is left here and the process is about to end."""
        self._row[STATE] = STATE_EXITING

    def begun(self, count: int) -> None:
        """Store how many requests were given to the application."""
        self._row[BEGUN] = count

    def ended_inline(self, count: int) -> None:
        """Store how many of them ended on the loop's own thread."""
        self._row[ENDED_INLINE] = count

    def ended_pooled(self, count: int) -> None:
        """Store how many of them ended on pool threads."""
        self._row[ENDED_POOLED] = count

    def busy(self, count: int) -> None:
        """Store how many threads are in the application."""
        self._row[BUSY] = count

    def aside(self, count: int) -> None:
        """Store how many threads wait for the readers of streams."""
        self._row[STREAMS] = count

    def publish(
        self,
        beat_ns: int,
        busy: int,
        waiting: int,
        connections: int,
        threads: int,
        streams: int,
        written_off: int,
    ) -> None:
        """Store the gauges and the heartbeat.

        At least once a second, also when idle: siblings pass over a worker whose
        heartbeat (CLOCK_MONOTONIC, ns) is old, and the manager replaces it.
        """
        row = self._row
        row[BUSY] = busy
        row[WAITING] = waiting
        row[CONNECTIONS] = connections
        row[THREADS] = threads
        row[STREAMS] = streams
        row[WRITTEN_OFF] = written_off
        row[BEAT] = beat_ns

    def timed(self, durations_ns: Sequence[int]) -> None:
        """Add the service times of requests that ended, in nanoseconds."""
        row = self._row
        histogram = self._histogram
        # The first bucket by itself: who serves 100,000 a second hardly has others.
        longer = [duration_ns for duration_ns in durations_ns if duration_ns >= FIRST_END_NS]
        histogram[0] += len(durations_ns) - len(longer)
        row[HISTOGRAM] = histogram[0]
        for duration_ns in longer:
            bucket = bucket_of(duration_ns)
            histogram[bucket] += 1
            row[HISTOGRAM + bucket] = histogram[bucket]
        self._service_ns += max(0, sum(durations_ns))
        row[SERVICE] = self._service_ns

    def incident(self, incident: int, count: int) -> None:
        """Store how often an incident has happened (its number is its place)."""
        if not 0 <= incident < MAX_INCIDENTS:
            raise IndexError(f"there is no place for incident {incident}")
        self._row[INCIDENTS + incident] = count

    def moved(self, accepted: int, handed_out: int, handed_in: int) -> None:
        """Store how many connections were accepted, given to and got from siblings."""
        row = self._row
        row[ACCEPTED] = accepted
        row[HANDED_OUT] = handed_out
        row[HANDED_IN] = handed_in

    def failed(self, errors: int) -> None:
        """Store how many requests the application failed (answered 500 or cut)."""
        self._row[ERRORS] = errors
