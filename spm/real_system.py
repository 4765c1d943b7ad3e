"""The real system, as the manager gets it when nobody gives it another."""

from __future__ import annotations

from collections.abc import Callable

from . import child
from .ports import OperatingSystem
from .scoreboard import Scoreboard
from .settings import SPMS
from .siblings import Inboxes
from .system import System
from .watcher import Watch

SystemFactory = Callable[[child.Boot, Scoreboard, Inboxes, SPMS], OperatingSystem]


def real_system(
    boot: child.Boot,
    scoreboard: Scoreboard,
    inboxes: Inboxes,
    settings: SPMS,
    watch: Watch | None = None,
) -> OperatingSystem:
    """Return a System; watch: what tells of changed sources (see watcher), if anything does."""
    return System(
        boot,
        scoreboard,
        inboxes,
        preload=settings.preload,
        stale_ns=int(settings.heartbeat_stale_s * 1e9),
        watch=watch,
    )
