"""Handing connections from worker to worker: an inbox per slot.

Every process keeps all sending ends, so any worker reaches any other in one hop. The
slot's worker reads its inbox, and the manager (and the template, from which the worker
gets it) keeps the reading end too: what lies in the inbox of a dead worker is not lost,
the manager sends it on. That is why no acknowledgement is needed.

One inbox more is the manager's own, the relay: while the server is replaced by a new one,
connections that no sibling takes go there, and from there to the new server.
"""

from __future__ import annotations

import array
import os
import random
import resource
import socket
import time
from collections.abc import Callable
from typing import Final

from .scoreboard import (
    BEAT,
    BUSY,
    COMMAND,
    CONNECTIONS,
    ECHO,
    GENERATION,
    H_CAPACITY,
    H_RELAY,
    INCARNATION,
    RUN,
    STATE,
    STATE_READY,
    WAITING,
    Scoreboard,
)

# The default of 208 KB holds 278 small parcels; a drain sends hundreds at once.
_SEND_BUFFER_BYTES: Final = 1 << 20
# 64 KB of bytes already read, and the header that goes with them.
MAX_MESSAGE_BYTES: Final = 128 << 10
# Descriptors that a target must have left over (its files, its database connections).
# With none left the kernel drops the descriptor on arrival, and the client sees an end.
_DESCRIPTOR_MARGIN: Final = 128
_FD_BYTES: Final = array.array("i").itemsize
_CONTROL_SPACE: Final = socket.CMSG_SPACE(_FD_BYTES)


class Inboxes:
    """The inboxes of all slots, made before the first fork.

    slots: how many. Costs two descriptors a slot in every process.
    relay: the index of the manager's own.
    """

    def __init__(self, slots: int) -> None:
        self.relay = slots
        self._readers: list[socket.socket] = []
        self._senders: list[socket.socket] = []
        self._buffer = bytearray(MAX_MESSAGE_BYTES)
        for _ in range(slots + 1):
            reader, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            reader.setblocking(False)
            sender.setblocking(False)
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            self._readers.append(reader)
            self._senders.append(sender)

    def __len__(self) -> int:
        return len(self._readers)

    def fileno(self, slot: int) -> int:
        """Return the descriptor of the slot's reading end."""
        return self._readers[slot].fileno()

    def put(self, slot: int, message: bytes, fd: int) -> bool:
        """Send a parcel to the slot; False if it does not fit now.

        fd: a descriptor to send along, or -1 for none. It stays the caller's.
        """
        if len(message) > MAX_MESSAGE_BYTES:
            return False
        control = []
        if fd >= 0:
            control.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd])))
        try:
            self._senders[slot].sendmsg([message], control)
        except OSError:
            # EAGAIN: the inbox is full. ETOOMANYREFS: too many descriptors of ours are on
            # their way. Either way this slot cannot take it; there are others.
            return False
        return True

    def take(self, slot: int) -> tuple[bytes, int] | None:
        """Take one parcel out of the slot's inbox; None when it is empty.

        The descriptor is the caller's from now on; -1: the message came without one.

        Raises: OSError if there is no descriptor left to take one with; what is in the
            inbox stays there.
        """
        # Then recvmsg would succeed, and the kernel would drop the descriptor that comes: its
        # client would see an end. So look first whether there is one to be had.
        os.close(os.dup(self._readers[slot].fileno()))
        # CLOEXEC from the first moment: a program that the application starts in another
        # thread just now must not inherit somebody's connection.
        try:
            size, control, _, _ = self._readers[slot].recvmsg_into(
                [self._buffer], _CONTROL_SPACE, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        for level, kind, content in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(content[: len(content) - len(content) % _FD_BYTES])
                return bytes(self._buffer[:size]), fds[0]
        # A nudge; or another thread has just taken the last descriptor after all.
        return b"", -1

    def nudge(self, slot: int) -> None:
        """Make the slot's worker look at the listener."""
        self.put(slot, b"", -1)

    def keep_only_reader(self, slot: int) -> None:
        """Close the reading ends of all other slots (in a worker, right after fork)."""
        for index, reader in enumerate(self._readers):
            if index != slot:
                reader.close()

    def close(self) -> None:
        """Close everything."""
        for sock in (*self._readers, *self._senders):
            sock.close()


class Siblings:
    """The other workers, as one worker sees them: to whom a connection can be handed.

    clock: CLOCK_MONOTONIC in ns, one clock for all processes.
    stale_ns: a worker whose heartbeat is older is passed over.
    """

    def __init__(
        self,
        inboxes: Inboxes,
        scoreboard: Scoreboard,
        slot: int,
        *,
        stale_ns: int = 10_000_000_000,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._inboxes = inboxes
        self._header = scoreboard.words
        self._slot = slot
        self._chooser = Chooser(scoreboard, stale_ns)
        self._generation = scoreboard.words[scoreboard.base(slot) + GENERATION]
        self._clock = clock

    def fileno(self) -> int:
        """Return the descriptor of this worker's own inbox, to watch for reading."""
        return self._inboxes.fileno(self._slot)

    def receive(self) -> tuple[bytes, int] | None:
        """Take one parcel out of the inbox: its message and the descriptor.

        None when the inbox is empty. A message without a descriptor (the
        manager's nudge to look at the listener) comes with descriptor -1.
        """
        return self._inboxes.take(self._slot)

    def send(self, message: bytes, fd: int, *, only_free: bool, target: int = -1) -> bool:
        """Hand `fd` to the sibling that suits best, or to none but that in slot `target`.

        only_free: only to one that has a thread free this moment; otherwise
        (draining) to any ready one. False: nobody could take it, and the
        descriptor is still the caller's. True: the caller closes its copy.
        """
        candidates = self._chooser.candidates(
            self._clock(), self._generation, exclude=self._slot, only_free=only_free
        )
        for slot in candidates:
            if target in (-1, slot) and self._inboxes.put(slot, message, fd):
                self._chooser.sent_to(slot)
                return True
        if target >= 0:
            return False
        # Nobody here: all are leaving, and another server takes over what they have.
        return bool(self._header[H_RELAY]) and self._inboxes.put(self._inboxes.relay, message, fd)


class Chooser:
    """Who should get the next connection: ready, least busy, fewest connections.

    What a target says of itself is as old as its last look at its own loop, and a drain
    sends hundreds of connections meanwhile. So what was sent since the target's last
    heartbeat is added to what it says; otherwise all would go to one.
    """

    def __init__(self, scoreboard: Scoreboard, stale_ns: int) -> None:
        self._scoreboard = scoreboard
        self._stale_ns = stale_ns
        # slot -> (heartbeat at that time, connections sent since)
        self._sent: dict[int, tuple[int, int]] = {}
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        reserved = _DESCRIPTOR_MARGIN + 2 * scoreboard.slots
        self._max_connections = max(1, descriptors - reserved)

    def candidates(
        self, now_ns: int, generation: int, *, exclude: int, only_free: bool
    ) -> list[int]:
        """Return the slots that may take a connection, best first.

        generation: only workers of this one or a newer one.
        exclude: a slot that must not be chosen, -1 for none.
        """
        suitable: list[tuple[int, int, float, int]] = []
        words = self._scoreboard.words
        capacity = words[H_CAPACITY]
        for slot in range(self._scoreboard.slots):
            base = self._scoreboard.base(slot)
            if (
                slot == exclude
                or words[base + COMMAND] != RUN
                or words[base + STATE] != STATE_READY
                or words[base + ECHO] != words[base + INCARNATION]
                or words[base + GENERATION] < generation
            ):
                continue
            beat_ns = words[base + BEAT]
            if now_ns - beat_ns > self._stale_ns:
                continue
            load = words[base + BUSY] + words[base + WAITING]
            connections = words[base + CONNECTIONS]
            if slot in self._sent:
                beat_then, sent = self._sent[slot]
                if beat_then == beat_ns:
                    load += sent
                    connections += sent
            if only_free and load >= capacity:
                continue
            if connections >= self._max_connections:
                continue
            suitable.append((load, connections, random.random(), slot))
        suitable.sort()
        return [slot for _, _, _, slot in suitable]

    def sent_to(self, slot: int) -> None:
        """Remember that the slot has got a connection that it does not yet show."""
        beat_ns = self._scoreboard.words[self._scoreboard.base(slot) + BEAT]
        beat_then, sent = self._sent.get(slot, (beat_ns, 0))
        self._sent[slot] = (beat_ns, sent + 1 if beat_then == beat_ns else 1)
