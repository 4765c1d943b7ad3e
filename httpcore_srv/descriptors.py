"""How many descriptors a worker may have open, and how many of them are for connections."""

from __future__ import annotations

import logging
import resource
from typing import Final

log = logging.getLogger("smart_http.worker")

# Those that are no connections: epoll, inboxes, logs, temporary files, the application's own.
RESERVED: Final = 128


def raise_limit(connections: int, threads: int) -> None:
    """Raise this process's soft RLIMIT_NOFILE so that it suffices, as far as that is allowed.

    Processes that are started from now on inherit it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + threads + RESERVED
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < needed:
        log.info(
            "a worker can have %d connections, not %d: the limit of descriptors is %d (ulimit -Hn)",
            affordable(threads),
            connections,
            hard,
        )


def affordable(threads: int) -> int:
    """Return how many connections there are descriptors for, in a worker of so many threads."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 30
    return max(soft // 2, soft - RESERVED - threads)
