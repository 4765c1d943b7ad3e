"""SPMS: the limits of the pool, checked once when they are built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .errors import SettingsError
from .scoreboard import MAX_INCIDENTS

# A slot costs 1.1 KB of shared memory and, in every process, two descriptors; the
# choice of a sibling looks at all slots (about 0.3 us each). Beyond this number both
# stop being small, and no machine that one manager serves has use for more.
MAX_WORKERS: Final = 512
MAX_THREADS: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class SPMS:
    """Settings of the process manager.

    min_workers, max_workers: how many processes may serve at once.
    min_threads, max_threads: how many requests one worker may run at once.
    graceful_timeout_s: how long a worker may take to finish what it has.
    preload: import the application once, in the template, before forking.
    metrics_interval_s: a line of numbers on the log this often; 0 is never.
    pid_file: where to write the manager's pid; None is nowhere.
    control_path: the control socket; None is the default place (see discovery).
    kill_after_s: from "leave at once" to SIGKILL.
    boot_timeout_s: a worker that is not ready by then is killed and counts as failed.
    heartbeat_stale_s: a ready worker silent for longer is passed over and replaced.
    wedged_kill_s: silent for this long, it gets SIGKILL; 0 is never.
    memory_limit_bytes: what all workers together may take (PSS); 0 is no limit.
    memory_reserve_bytes: with less than this available, nothing is spawned.
    incidents: names of what workers count besides requests, in the order of their places.
    written_off_limit: a worker with so many threads written off is replaced; 0 is never.
    max_requests, max_requests_jitter: a worker is replaced after so many requests, and a
        random number of more up to the jitter; 0 is never.
    max_age_s: a worker older than that is replaced; 0 is never.
    max_worker_memory_bytes: a worker whose resident memory is larger is replaced; 0 is never.

    Raises: SettingsError, in one line, if they contradict each other.
    """

    min_workers: int = 1
    max_workers: int = 4
    min_threads: int = 1
    max_threads: int = 8
    graceful_timeout_s: float = 30.0
    preload: bool = True
    metrics_interval_s: float = 0.0
    pid_file: str | None = None
    control_path: str | None = None
    kill_after_s: float = 1.0
    boot_timeout_s: float = 120.0
    heartbeat_stale_s: float = 10.0
    wedged_kill_s: float = 60.0
    memory_limit_bytes: int = 0
    memory_reserve_bytes: int = 64 << 20
    incidents: tuple[str, ...] = ()
    written_off_limit: int = 0
    max_requests: int = 0
    max_requests_jitter: int = 0
    max_age_s: float = 0.0
    max_worker_memory_bytes: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        _check_range("workers", self.min_workers, self.max_workers, MAX_WORKERS)
        _check_range("threads", self.min_threads, self.max_threads, MAX_THREADS)
        for name in ("graceful_timeout_s", "kill_after_s", "boot_timeout_s", "heartbeat_stale_s"):
            _check_positive(name, getattr(self, name))
        if len(self.incidents) > MAX_INCIDENTS:
            raise SettingsError(f"{len(self.incidents)} incidents; places: {MAX_INCIDENTS}")
        for name in (
            "written_off_limit",
            "max_requests",
            "max_requests_jitter",
            "max_age_s",
            "max_worker_memory_bytes",
            "metrics_interval_s",
            "wedged_kill_s",
            "memory_limit_bytes",
            "memory_reserve_bytes",
        ):
            _check_not_negative(name, getattr(self, name))
        if 0 < self.wedged_kill_s < self.heartbeat_stale_s:
            raise SettingsError(
                f"wedged_kill_s ({self.wedged_kill_s:g}) is less than "
                f"heartbeat_stale_s ({self.heartbeat_stale_s:g})"
            )

    @property
    def slots(self) -> int:
        """How many rows the scoreboard needs: a reload runs two generations at once."""
        return 2 * self.max_workers


def _check_range(what: str, low: int, high: int, limit: int) -> None:
    if low < 1:
        raise SettingsError(f"min_{what} must be at least 1, not {low}")
    if high < low:
        raise SettingsError(f"max_{what} ({high}) is less than min_{what} ({low})")
    if high > limit:
        raise SettingsError(f"max_{what} must be at most {limit}, not {high}")


# Both written so that a NaN, which compares false with everything, is refused too.
def _check_positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise SettingsError(f"{name} must be more than 0, not {value:g}")


def _check_not_negative(name: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise SettingsError(f"{name} must be 0 or more, not {value:g}")
