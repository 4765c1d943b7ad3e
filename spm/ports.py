"""What the manager needs of the operating system, said as a shape.

`system.System` is the real one; the tests put a fake in its place, and with it time.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from .events import Event

if TYPE_CHECKING:
    from .relaunch import Command


class Watched(Protocol):
    """Something with a descriptor that the loop may watch."""

    def fileno(self) -> int:
        """Return the descriptor."""

    def close(self) -> None:
        """Close it (called in a forked template, to which it must not belong)."""


class OperatingSystem(Protocol):
    """Clock, signals, processes, measuring; see system.System for each method."""

    @property
    def usable_cores(self) -> int:
        """How many cores we may use at once."""

    def now_ns(self) -> int:
        """Return the monotonic time."""

    def open(self) -> None:
        """Begin to listen to signals."""

    def close(self) -> None:
        """Give everything back."""

    def wait(self, timeout_s: float) -> list[Event]:
        """Wait for news, at most timeout_s."""

    def watch(self, watched: Watched, mask: int, callback: Callable[[int], None]) -> None:
        """Call back from wait() when the descriptor is ready."""

    def unwatch(self, watched: Watched) -> None:
        """Forget the descriptor."""

    def start_template(self, number: int) -> None:
        """Fork a template. Raises OSError."""

    def stop_template(self, number: int) -> None:
        """Let a template end."""

    def kill_template(self, number: int) -> None:
        """End a template that does not end by itself."""

    def request_worker(self, template: int, slot: int, incarnation: int) -> bool:
        """Ask a template for a worker."""

    def poke(self, slot: int) -> None:
        """Make a worker look at its order."""

    def kill(self, slot: int) -> bool:
        """Send SIGKILL to a worker."""

    def is_stopped(self, slot: int) -> bool:
        """Return whether a worker was stopped by a signal or a debugger."""

    def forget(self, slot: int) -> None:
        """Close what belongs to a dead worker."""

    def start_successor(
        self,
        command: Command,
        sockets: Sequence[tuple[int, str]],
        bridge: socket.socket,
        workers: int,
    ) -> int:
        """Start the server that is to replace this one. Raises OSError."""

    def signal_successor(self, number: int) -> None:
        """Send it a signal."""

    def reap_strays(self) -> None:
        """Bury orphans, as process 1 of a container."""

    def machine_cpu(self) -> float:
        """Return the share of the CPU time that we may use which was used since the last call."""

    def cpu_pressure(self) -> float:
        """Return the share of the time in which somebody waited for a core."""

    def cpu_throttled(self) -> float | None:
        """Return the share of its periods in which our CPU quota was used up; None: no quota."""

    def process_cpu_ns(self, pid: int) -> int | None:
        """Return the CPU time of a process."""

    def process_run_wait_ns(self, pid: int) -> int | None:
        """Return how long its threads were ready to run and had no core."""

    def process_resident_bytes(self, pid: int) -> int:
        """Return the resident memory of a process."""

    def process_memory(self, pid: int) -> dict[str, int]:
        """Return rss, pss, uss in bytes."""

    def memory_available_bytes(self) -> int:
        """Return how much memory can still be taken."""

    def oom_kills(self) -> int | None:
        """Return how many processes were killed for want of memory; None: not known."""
