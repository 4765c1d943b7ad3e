"""The load generators: wrk where it is installed, else aiohttp's client.

What changes from request to request is made before the load begins, and only rotated in it:
the generator is to have as little to do as it can.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.cores import pinned
from benchmarks.scenarios import Scenario
from benchmarks.server import ROOT

_GRACE_S: Final = 30.0  # beyond the run itself; wrk waits for late answers at its end


class LoadError(Exception):
    """The load generator is missing, failed, or said something that cannot be read."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a load generator saw in one run."""

    requests: int
    rate: float  # requests answered per second
    p50_us: float
    p99_us: float
    p90_us: float = 0.0  # this and the next: 0 if the generator does not say
    p999_us: float = 0.0
    error_responses: int = 0  # status 400 and above; the probe has seen that 200 is the rule
    socket_errors: dict[str, int] = field(default_factory=dict)  # kind -> how many, zeros left out

    @property
    def errors(self) -> int:
        """Everything that was not an answer as it should be."""
        return self.error_responses + sum(self.socket_errors.values())


@dataclass(frozen=True, slots=True)
class Generator:
    """A program that puts one scenario on a port and reports on its standard output."""

    name: str
    version: str
    # port, scenario, seconds, an empty directory for what the generator reads
    command: Callable[[int, Scenario, float, Path], list[str]]
    parse: Callable[[str], Measurement]

    def run(
        self, port: int, scenario: Scenario, seconds: float, core: int | None
    ) -> tuple[Measurement, float]:
        """Load `port` for `seconds`; return the result and the share of a core it took.

        Raises: LoadError if the generator fails.
        """
        with tempfile.TemporaryDirectory() as directory:
            argv = self.command(port, scenario, seconds, Path(directory))
            said, share = listen_to(self.name, argv, seconds + _GRACE_S, core)
        return self.parse(said), share


def listen_to(
    name: str, argv: Sequence[str], timeout_s: float, core: int | None
) -> tuple[str, float]:
    """Run a load generator; return its standard output and the share of a core it took.

    Raises: LoadError if it fails; subprocess.TimeoutExpired.
    """
    before, began = _children_cpu_s(), time.monotonic()
    with pinned(core):
        done = subprocess.run(
            argv,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    share = (_children_cpu_s() - before) / (time.monotonic() - began)
    if done.returncode:
        raise LoadError(f"{name} failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout, share


@functools.cache
def choose_generator() -> Generator:
    """Return wrk, or the Python one where wrk is not installed.

    Raises: LoadError if neither is there.
    """
    if shutil.which("wrk"):
        return Generator("wrk", _wrk_version(), wrk_command, parse_wrk)
    if importlib.util.find_spec("aiohttp"):
        version = importlib.metadata.version("aiohttp")
        return Generator("aiohttp", version, aiohttp_command, parse_json)
    raise LoadError(
        "no load generator: install wrk (apt install wrk), or aiohttp with "
        "python -m pip install '.[bench]'"
    )


def wrk_command(port: int, scenario: Scenario, seconds: float, directory: Path) -> list[str]:
    """Return wrk's command line; wrk takes whole seconds only."""
    script = directory / "requests.lua"
    script.write_bytes(wrk_script(scenario, f"127.0.0.1:{port}"))
    duration = f"-d{max(1, round(seconds))}s"
    url = f"http://127.0.0.1:{port}/"
    return ["wrk", "-t1", f"-c{scenario.connections}", duration, "--latency", f"-s{script}", url]


_ONE: Final = b"function init() wrk.format = function() return requests[1] end end\n"
_MANY: Final = b"""\
local number, last = 0, #requests
function request()
   number = number % last + 1
   return requests[number]
end
"""
_DONE: Final = b"""\
function done(summary, latency, requests)
   io.write(string.format("     99.9%% %.2fus\\n", latency:percentile(99.9)))
end
"""


def wrk_script(scenario: Scenario, host: str) -> bytes:
    """Return the Lua script that sends the scenario's requests.

    wrk asks for a single request once and for all; where they change it asks each time. It
    counts how many requests there are in what it is given (pipelining).
    """
    texts = [request.as_bytes(host) * scenario.pipeline for request in scenario.requests()]
    quoted = b"".join(b"   " + lua_string(text) + b",\n" for text in texts)
    sends = _ONE if len(texts) == 1 else _MANY
    return b"local requests = {\n" + quoted + b"}\n" + sends + _DONE


def lua_string(text: bytes) -> bytes:
    """Return `text` as a string of Lua's grammar (Lua 5.1 manual, 2.1)."""
    plain = set(range(0x20, 0x7F)) - {ord('"'), ord("\\")}
    return b'"%s"' % b"".join(b"%c" % c if c in plain else b"\\%03d" % c for c in text)


def aiohttp_command(port: int, scenario: Scenario, seconds: float, directory: Path) -> list[str]:
    """Return the command line of `benchmarks.aiohttp_load`.

    Raises: LoadError if that cannot do what the scenario asks.
    """
    if scenario.pipeline > 1:
        raise LoadError("aiohttp does not pipeline; wrk is not installed")
    requests = [
        {**asdict(request), "content": request.content.decode("latin-1")}
        for request in scenario.requests()
    ]
    file = directory / "requests.json"
    file.write_text(json.dumps(requests), encoding="utf-8")
    arguments = [f"http://127.0.0.1:{port}", str(scenario.connections), str(seconds), str(file)]
    return [sys.executable, "-m", "benchmarks.aiohttp_load", *arguments]


_UNIT_US: Final = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6, "h": 3600e6}


def parse_wrk(text: str) -> Measurement:
    """Read what `wrk --latency` prints.

    Raises: LoadError if a figure is missing: no number is better than a wrong one.
    """
    sockets = re.search(r"^ *Socket errors: (.+)$", text, re.M)
    kinds = re.findall(r"(\w+) (\d+)", sockets[1]) if sockets else []
    refused = re.search(r"^ *Non-2xx or 3xx responses: (\d+)$", text, re.M)
    return Measurement(
        requests=int(_find(r"^ *(\d+) requests in ", text)[1]),
        rate=float(_find(r"^Requests/sec: +([\d.]+)$", text)[1]),
        p50_us=_percentile_us("50", text),
        p99_us=_percentile_us("99", text),
        p90_us=_percentile_us("90", text) if " 90%" in text else 0.0,
        p999_us=_percentile_us("99.9", text) if "99.9%" in text else 0.0,
        error_responses=int(refused[1]) if refused else 0,
        socket_errors={kind: int(count) for kind, count in kinds if int(count)},
    )


def parse_json(text: str) -> Measurement:
    """Read what `as_json` wrote.

    Raises: LoadError if it is not that.
    """
    try:
        return Measurement(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise LoadError(f"unreadable result: {text[:200]!r}") from error


def as_json(measurement: Measurement) -> str:
    """Return the measurement as one line for `parse_json`."""
    return json.dumps(asdict(measurement))


def _percentile_us(percent: str, text: str) -> float:
    found = _find(rf"^ +{re.escape(percent)}% +([\d.]+)(us|ms|s|m|h) *$", text)
    return float(found[1]) * _UNIT_US[found[2]]


def _find(pattern: str, text: str) -> re.Match[str]:
    found = re.search(pattern, text, re.M)
    if found is None:
        raise LoadError(f"wrk's report lacks {pattern!r}: {text[:500]!r}")
    return found


def _wrk_version() -> str:
    # wrk prints its version with its usage, and ends with 1
    usage = subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False)
    found = re.match(r"wrk (\S+)", usage.stdout + usage.stderr)
    return found[1] if found else "unknown"


def _children_cpu_s() -> float:
    # Only children that were waited for count, so the server under test does not.
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
