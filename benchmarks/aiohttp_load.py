"""A load generator for machines without wrk.

    python -m benchmarks.aiohttp_load URL CONNECTIONS SECONDS FILE

FILE is a JSON list of requests: method, path, headers (a list of pairs), content. Each
connection sends them in turn.

It costs several times what a quick server costs for the same request, so that its own rate
(about 15 k requests/s on a core) hides the differences between quick servers. The report
shows when that was so.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.load import Measurement, as_json

REQUEST_TIMEOUT_S = 2.0  # as wrk's


@dataclass
class Tally:
    """What all connections of one run have seen."""

    durations_s: list[float] = field(default_factory=list)
    error_responses: int = 0
    socket_errors: Counter[str] = field(default_factory=Counter)

    def summary(self, seconds: float) -> Measurement:
        """Return the run's figures."""
        ordered = sorted(self.durations_s)
        return Measurement(
            requests=len(ordered),
            rate=len(ordered) / seconds,
            p50_us=percentile(ordered, 50) * 1e6,
            p99_us=percentile(ordered, 99) * 1e6,
            p90_us=percentile(ordered, 90) * 1e6,
            p999_us=percentile(ordered, 99.9) * 1e6,
            error_responses=self.error_responses,
            socket_errors=dict(self.socket_errors),
        )


def percentile(ordered: list[float], percent: float) -> float:
    """Return the smallest value that `percent` of all do not exceed; 0 if there is none."""
    last = max(0, math.ceil(len(ordered) * percent / 100) - 1)
    return ordered[last] if ordered else 0.0


async def one_connection(
    session: aiohttp.ClientSession,
    url: str,
    requests: Iterator[dict[str, Any]],
    deadline: float,
    tally: Tally,
) -> None:
    """Send one request after the other until the deadline (monotonic clock)."""
    while (began := time.monotonic()) < deadline:
        request = next(requests)
        try:
            async with session.request(
                request["method"],
                url + request["path"],
                headers=request["headers"],
                data=request["content"] or None,
            ) as response:
                await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            tally.socket_errors[type(error).__name__] += 1
            # Against a server that is gone this loop would otherwise never let the others run.
            await asyncio.sleep(0.01)
            continue
        tally.durations_s.append(time.monotonic() - began)
        tally.error_responses += response.status >= 400


async def run(
    url: str, connections: int, seconds: float, requests: Sequence[dict[str, Any]]
) -> Measurement:
    """Load `url` and return what was seen."""
    closes = ["Connection", "close"] in requests[0]["headers"]
    connector = aiohttp.TCPConnector(limit=connections, force_close=closes)
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    tally, turns = Tally(), itertools.cycle(requests)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, auto_decompress=False
    ) as session:
        began = time.monotonic()
        end = began + seconds
        loads = (one_connection(session, url, turns, end, tally) for _ in range(connections))
        await asyncio.gather(*loads)
        return tally.summary(time.monotonic() - began)


def main() -> None:
    """Print one line of JSON."""
    url, connections, seconds, file = sys.argv[1:]
    requests = json.loads(Path(file).read_text(encoding="utf-8"))
    print(as_json(asyncio.run(run(url, int(connections), float(seconds), requests))))


if __name__ == "__main__":
    main()
