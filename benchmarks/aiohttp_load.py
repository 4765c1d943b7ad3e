"""A load generator for machines without wrk.

    python -m benchmarks.aiohttp_load URL CONNECTIONS SECONDS HEADERS_AS_JSON

It costs several times what a quick server costs for the same request, so that its own rate
(about 15 k requests/s on a core) hides the differences between quick servers. The report
shows when that was so.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

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
            error_responses=self.error_responses,
            socket_errors=dict(self.socket_errors),
        )


def percentile(ordered: list[float], percent: int) -> float:
    """Return the smallest value that `percent` of all do not exceed; 0 if there is none."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else 0.0


async def one_connection(
    session: aiohttp.ClientSession, url: str, deadline: float, tally: Tally
) -> None:
    """Send one request after the other until the deadline (monotonic clock)."""
    while (began := time.monotonic()) < deadline:
        try:
            async with session.get(url) as response:
                await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            tally.socket_errors[type(error).__name__] += 1
            # Against a server that is gone this loop would otherwise never let the others run.
            await asyncio.sleep(0.01)
            continue
        tally.durations_s.append(time.monotonic() - began)
        tally.error_responses += response.status >= 400


async def run(url: str, connections: int, seconds: float, headers: dict[str, str]) -> Measurement:
    """Load `url` and return what was seen."""
    connector = aiohttp.TCPConnector(
        limit=connections, force_close=headers.get("Connection") == "close"
    )
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    tally = Tally()
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=timeout, auto_decompress=False
    ) as session:
        began = time.monotonic()
        loads = (one_connection(session, url, began + seconds, tally) for _ in range(connections))
        await asyncio.gather(*loads)
        return tally.summary(time.monotonic() - began)


def main() -> None:
    """Print one line of JSON."""
    url, connections, seconds, headers = sys.argv[1:]
    print(as_json(asyncio.run(run(url, int(connections), float(seconds), json.loads(headers)))))


if __name__ == "__main__":
    main()
