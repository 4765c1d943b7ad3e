"""How many descriptors a worker may have open, and how many of them are for connections."""

from __future__ import annotations

import fcntl
import logging
import os
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


def make_room(connections: int) -> None:
    """Have the kernel make this process's table of descriptors as large as it may become.

    Before the first thread is started: growing the table of a process with threads waits
    for all processors (synchronize_rcu), 7 to 32 ms in the middle of an accept (measured).
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    last = connections + RESERVED
    if soft != resource.RLIM_INFINITY:
        last = min(last, soft - 1)
    fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.close(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, last))
    except OSError as error:
        log.debug("no room for %d descriptors: %s", last, error)  # it will grow by and by
    finally:
        os.close(fd)


def affordable(threads: int) -> int:
    """Return how many connections there are descriptors for, in a worker of so many threads."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 30
    return max(soft // 2, soft - RESERVED - threads)
