"""How fast a peer must be: bodies being received, responses being taken."""

from __future__ import annotations

NS_PER_S = 1_000_000_000


def due_ns(
    began_ns: int, moved_ns: int, moved_bytes: int, patience_ns: int, bytes_per_s: int
) -> int:
    """Return when a peer will have been too slow, unless it moves more until then.

    began_ns: when the transfer began. moved_ns: when the peer last moved something.
    moved_bytes: what it has moved since it began.
    patience_ns: how long it may rest; also how long it may take at least, for a rate
        means nothing before some time has passed.
    bytes_per_s: the average that it must keep up after that; 0: none.
    """
    stalled_ns = moved_ns + patience_ns
    if not bytes_per_s:
        return stalled_ns
    too_slow_ns = began_ns + max(patience_ns, moved_bytes * NS_PER_S // bytes_per_s)
    return min(stalled_ns, too_slow_ns)
