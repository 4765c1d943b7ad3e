"""Mode: who may touch a stream, and what its events mean.

RUNNING: the thread that runs its request; the leader then does nothing but unregister a
descriptor that keeps reporting events.
Every other mode: the leader. Ownership changes hands in three places only:
`Dispatcher.run` (leader -> running thread), `hand_back` (running thread -> leader; inline,
where both are one thread, `responded`), and `Dispatcher.write_off`, where the leader takes
it from a thread that is stuck.
"""

from __future__ import annotations

import enum
from typing import Final


class Mode(enum.IntEnum):
    """Who owns a stream and what its events mean."""

    READING = 0  # the leader reads
    RUNNING = 1  # a thread runs the request
    WRITING = 2  # the leader drains the outbox
    WAITING = 3  # for a free thread; unregistered
    LINGERING = 4  # the last response is out; the leader reads and drops
    CLOSED = 5


READING: Final = Mode.READING
RUNNING: Final = Mode.RUNNING
