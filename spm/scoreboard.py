"""The shared table: one row (slot) per worker, one writing process per word.

    header  words 0-31     manager  magic, version, slots, generation, shutdown, ...
    slot    words 0-7      manager  command, incarnation, pid, spawned, generation, ...
            words 8-31     worker   echo, state, heartbeat, gauges, counters
            words 32-137   worker   histogram of service times
            words 144-159  worker   incidents: refusals, time-outs and the like

Every word is eight aligned bytes and is stored by assigning to an item of
`memoryview.cast("Q")`: one memcpy of eight bytes, one store instruction. Measured: no
torn value in 20 M reads; `struct.pack_into` gave 17.6 %. No lock is shared, because the
lock of a worker that was killed while holding it is never free again.

No two words are consistent with each other, and nothing here relies on it: readers use
sums and averages. The only pair is incarnation and echo ("is what this row says said
by the worker that the manager put here?"); the worker writes the echo last.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Final, NamedTuple

from .histogram import BUCKETS

MAGIC: Final = int.from_bytes(b"SMARTSPM", "little")
VERSION: Final = 1

# --- header -----------------------------------------------------------------
HEADER_WORDS: Final = 32
H_MAGIC: Final = 0
H_VERSION: Final = 1
H_SLOTS: Final = 2
H_GENERATION: Final = 3
H_SHUTDOWN: Final = 4
H_BEAT: Final = 5
H_TARGET: Final = 6
H_LINGER_MS: Final = 7
H_CAPACITY: Final = 8
H_RELAY: Final = 9

# --- slot, the manager's words -----------------------------------------------
COMMAND: Final = 0
INCARNATION: Final = 1
PID: Final = 2
SPAWNED: Final = 3
GENERATION: Final = 4
DEADLINE: Final = 5
SHIFT: Final = 6

# --- slot, the worker's words ------------------------------------------------
ECHO: Final = 8
STATE: Final = 9
BEAT: Final = 10
BUSY: Final = 11
WAITING: Final = 12
CONNECTIONS: Final = 13
THREADS: Final = 14
STREAMS: Final = 15
BEGUN: Final = 16
ENDED_INLINE: Final = 17
SERVICE: Final = 18
ACCEPTED: Final = 19
HANDED_OUT: Final = 20
HANDED_IN: Final = 21
ENDED_POOLED: Final = 22  # a word of its own, for another thread writes it
WRITTEN_OFF: Final = 23
ERRORS: Final = 26
HISTOGRAM: Final = 32
INCIDENTS: Final = 144
MAX_INCIDENTS: Final = 16

SLOT_WORDS: Final = 160
# The header and each row begin on a page of their own, for a page is what can be made
# read-only; and no two processes write to one cache line.
STRIDE_WORDS: Final = mmap.PAGESIZE // 8

# --- what the manager writes into COMMAND --------------------------------------
FREE: Final = 0
RUN: Final = 1
DRAIN: Final = 2
NOW: Final = 3

# --- what the manager writes into SHIFT: a serial number, the target's slot, the share --------
_SHIFT_SERIAL: Final = 32
_SHIFT_TARGET: Final = 16
_SHIFT_PARTS: Final = 1000

# --- what the manager writes into H_SHUTDOWN -----------------------------------
SHUTDOWN_NONE: Final = 0
SHUTDOWN_STOP: Final = 1
SHUTDOWN_NOW: Final = 2

# --- what the worker writes into STATE -----------------------------------------
STATE_NONE: Final = 0
STATE_READY: Final = 1
STATE_DRAINING: Final = 2
STATE_EXITING: Final = 3

# Beyond this a gauge is a lie (or a broken worker): nobody holds a million of anything.
GAUGE_LIMIT: Final = 1 << 20


class Row(NamedTuple):
    """One slot as it was read; gauges bounded, counters as they stood there."""

    command: int
    incarnation: int
    pid: int
    generation: int
    echo: int
    state: int
    beat_ns: int
    busy: int
    waiting: int
    connections: int
    threads: int
    streams: int
    written_off: int
    begun: int
    ended: int
    service_ns: int
    accepted: int
    handed_out: int
    handed_in: int
    errors: int
    incidents: tuple[int, ...]

    @property
    def started(self) -> bool:
        """Whether the worker's half was written by the worker that belongs here."""
        return self.command != FREE and self.echo == self.incarnation


def unpack_shift(word: int) -> tuple[int, float]:
    """Return target and share of an order that `Scoreboard.shift` wrote."""
    return word >> _SHIFT_TARGET & 0xFFFF, (word & 0xFFFF) / _SHIFT_PARTS


class Scoreboard:
    """The table as the manager uses it. Made before the first fork.

    The memory is anonymous and shared (MAP_SHARED), so it has no name that could be
    left behind and needs no resource tracker, which multiprocessing.shared_memory would.

    slots: how many rows.
    capacity: how many requests one worker may run at once (its `threads` word says how
        many threads are alive, which is fewer as long as nobody needs them).
    """

    def __init__(self, slots: int, capacity: int) -> None:
        self.slots = slots
        self._memory = mmap.mmap(-1, mmap.PAGESIZE * (1 + slots))
        self.words = memoryview(self._memory).cast("Q")
        # The manager's own copy of the header: see `beat`.
        self._header = {
            H_VERSION: VERSION,
            H_SLOTS: slots,
            H_CAPACITY: capacity,
            H_SHUTDOWN: SHUTDOWN_NONE,
            H_MAGIC: MAGIC,
        }
        self._write_header()

    @staticmethod
    def base(slot: int) -> int:
        """Return the index of the slot's first word."""
        return STRIDE_WORDS * (1 + slot)

    def protect(self, slot: int | None) -> None:
        """Make everything read-only for this process, but one row (None: that, too).

        In a template and in a worker, before the application has a chance: a stray write
        of it can then harm nobody but the process that it runs in, which it ends.
        """
        # The standard library has no mprotect.
        mprotect = ctypes.CDLL(None, use_errno=True).mprotect
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        own = len(self._memory) if slot is None else 8 * self.base(slot)
        behind = own + mmap.PAGESIZE
        pages = [(0, own, mmap.PROT_READ), (own, behind, mmap.PROT_READ | mmap.PROT_WRITE)]
        pages.append((behind, len(self._memory), mmap.PROT_READ))
        for start, end, access in pages:
            size = min(end, len(self._memory)) - start
            if size > 0 and mprotect(
                ctypes.c_void_p(address + start), ctypes.c_size_t(size), access
            ):
                raise OSError(ctypes.get_errno(), "mprotect")

    def assign(self, slot: int, incarnation: int, generation: int, spawned_ns: int) -> None:
        """Give a free slot to a worker that is about to be forked."""
        base = self.base(slot)
        words = self.words
        # A free row is nobody's, and what a stray write has left there must not be taken for
        # the word of this worker.
        for index in range(base + ECHO, base + SLOT_WORDS):
            words[index] = 0
        words[base + PID] = 0
        words[base + SPAWNED] = spawned_ns
        words[base + GENERATION] = generation
        words[base + DEADLINE] = 0
        words[base + INCARNATION] = incarnation
        # Last: from here on the row counts as taken.
        words[base + COMMAND] = RUN

    def set_pid(self, slot: int, pid: int) -> None:
        """Note the pid that fork returned; a worker is never asked for its own."""
        self.words[self.base(slot) + PID] = pid

    def command(self, slot: int, command: int, deadline_ns: int = 0) -> None:
        """Tell the slot's worker RUN, DRAIN or NOW; a byte on its lifeline makes it look."""
        base = self.base(slot)
        self.words[base + DEADLINE] = deadline_ns
        self.words[base + COMMAND] = command

    def shift(self, slot: int, target: int, share: float) -> None:
        """Tell the slot's worker to move a share of its active connections to `target`'s."""
        index = self.base(slot) + SHIFT
        serial = (self.words[index] >> _SHIFT_SERIAL) + 1 & 0xFFFFFFFF
        parts = int(min(1.0, max(0.0, share)) * _SHIFT_PARTS)
        self.words[index] = serial << _SHIFT_SERIAL | target << _SHIFT_TARGET | parts

    def clear(self, slot: int) -> None:
        """Free the slot of a worker that is dead.

        Only when its process is known to be gone: two processes must never write one row.
        """
        base = self.base(slot)
        words = self.words
        # The command first: a sibling that looks in the middle of this finds a free row.
        words[base + COMMAND] = FREE
        for index in range(base + 1, base + SLOT_WORDS):
            words[index] = 0

    def row(self, slot: int) -> Row:
        """Read one slot. What a worker wrote is bounded, never trusted."""
        base = self.base(slot)
        w = self.words[base : base + HISTOGRAM].tolist()
        incidents = self.words[base + INCIDENTS : base + INCIDENTS + MAX_INCIDENTS].tolist()
        return Row(
            command=w[COMMAND],
            incarnation=w[INCARNATION],
            pid=w[PID],
            generation=w[GENERATION],
            echo=w[ECHO],
            state=w[STATE] if w[STATE] <= STATE_EXITING else STATE_NONE,
            beat_ns=w[BEAT],
            busy=min(w[BUSY], GAUGE_LIMIT),
            waiting=min(w[WAITING], GAUGE_LIMIT),
            connections=min(w[CONNECTIONS], GAUGE_LIMIT),
            threads=min(w[THREADS], GAUGE_LIMIT),
            streams=min(w[STREAMS], GAUGE_LIMIT),
            written_off=min(w[WRITTEN_OFF], GAUGE_LIMIT),
            begun=w[BEGUN],
            ended=w[ENDED_INLINE] + w[ENDED_POOLED],
            service_ns=w[SERVICE],
            accepted=w[ACCEPTED],
            handed_out=w[HANDED_OUT],
            handed_in=w[HANDED_IN],
            errors=w[ERRORS],
            incidents=tuple(incidents),
        )

    def histogram(self, slot: int) -> list[int]:
        """Read the slot's histogram of service times."""
        base = self.base(slot) + HISTOGRAM
        return self.words[base : base + BUCKETS].tolist()

    def set_generation(self, generation: int) -> None:
        """Say which generation of the application serves."""
        self._header[H_GENERATION] = generation
        self._write_header()

    def set_target(self, workers: int) -> None:
        """Say how many workers the manager wants."""
        self._header[H_TARGET] = workers

    def beat(self, now_ns: int) -> None:
        """Say that the manager lives, and the rest of the header again.

        A stray write of an application into what it shares with us must not order every
        later worker to leave.
        """
        self._header[H_BEAT] = now_ns
        self._write_header()

    def shut_down(self, kind: int, linger_ms: int) -> None:
        """Tell all workers to stop (SHUTDOWN_STOP) or to leave at once (SHUTDOWN_NOW).

        linger_ms: how long an idle keep-alive connection is still answered.
        """
        # The words are written in the order in which they were first set: the time before
        # the order, or a worker could read no time at all.
        self._header[H_LINGER_MS] = linger_ms
        self._header.pop(H_SHUTDOWN)
        self._header[H_SHUTDOWN] = kind
        self._write_header()

    def set_relay(self, *, is_open: bool) -> None:
        """Say whether connections that no sibling takes are to go to the manager."""
        self._header[H_RELAY] = int(is_open)
        self._write_header()

    def _write_header(self) -> None:
        for index, word in self._header.items():
            self.words[index] = word
