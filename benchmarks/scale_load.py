"""One point of a curve under load: what wrk saw, what the server's processes used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.load import Generator, Measurement, parse_wrk
from benchmarks.processes import Running
from benchmarks.scale_transfer import Ask, transfer
from benchmarks.scenarios import Scenario

Figures = dict[str, float]

LARGE_BYTES: Final = 1_000_000
"""From here on a request costs so much that the client in Python is not the limit."""
LARGE_CONNECTIONS: Final = 2
_COUNTER: Final = "@COUNTER@"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What wrk is to do. script: Lua, or nothing."""

    path: str = "/"
    fields: tuple[tuple[str, str], ...] = ()
    connections: int = 32
    script: str = ""


class Errors(Exception):
    """Answers under load were not as they should be."""


def measure(child: Running, wanted: Wanted, seconds: float, core: int | None) -> Figures:
    """Load the server for some seconds; return rate, latency and cost.

    Raises: LoadError if wrk fails; Errors if one answer was none.
    """
    cpu_before_s = child.cpu_s()
    seen, share = load(child.port, wanted, seconds, core)
    cpu_used_s = child.cpu_s() - cpu_before_s
    if seen.errors or not seen.requests:
        raise Errors(f"{seen.errors} errors in {seen.requests} requests: {seen.socket_errors}")
    return {
        "rate": seen.rate,
        "cpu_us": cpu_used_s / seen.requests * 1e6,
        "p50_us": seen.p50_us,
        "p99_us": seen.p99_us,
        "load_share": share,
    }


def load(port: int, wanted: Wanted, seconds: float, core: int | None) -> tuple[Measurement, float]:
    """Run wrk; return what it saw and its share of a core. Raises: LoadError."""

    def command(port: int, scenario: Scenario, seconds: float, directory: Path) -> list[str]:
        words = ["wrk", "-t1", f"-c{scenario.connections}", f"-d{max(1, round(seconds))}s"]
        if wanted.script:
            script = directory / "script.lua"
            script.write_text(wanted.script, encoding="utf-8")
            words += ["-s", str(script)]
        headers = [f"-H{name}: {value}" for name, value in scenario.headers]
        return [*words, "--latency", *headers, f"http://127.0.0.1:{port}{scenario.path}"]

    scenario = Scenario(
        "scale",
        "",
        "",
        b"",
        path=wanted.path,
        headers=wanted.fields,
        connections=wanted.connections,
    )
    return Generator("wrk", "", command, parse_wrk).run(port, scenario, seconds, core)


def measure_transfer(child: Running, ask: Ask, seconds: float) -> Figures:
    """Repeat large requests on a few connections; return rate and cost.

    Raises: TransferError or OSError if an answer is not as it should be.
    """
    cpu_before_s = child.cpu_s()
    done = transfer(child.port, ask, seconds, LARGE_CONNECTIONS)
    cpu_used_s = child.cpu_s() - cpu_before_s
    return {"rate": done.requests / done.seconds, "cpu_us": cpu_used_s / done.requests * 1e6}


def fields(count: int) -> tuple[tuple[str, str], ...]:
    """Return header fields, so many that there are `count` with Host, which wrk sends itself."""
    return tuple(
        (f"X-Field-{number:02}", f"value {number:02} of some length") for number in range(1, count)
    )


def post_script(size: int) -> str:
    """Return the Lua that makes wrk send a body of `size` bytes."""
    return f'wrk.method = "POST"\nwrk.body = string.rep("x", {size})\n'


def changing_script(path: str, count: int) -> str:
    """Return the Lua that sends `count` fields, Host first, the last of which is never the same.

    Only two strings are joined for each request: the generator has its own core to think of.
    """
    *rest, (name, _) = fields(count)
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{field}: {value}" for field, value in rest]
    lines += [f"{name}: value {_COUNTER} of it", "", ""]
    before, after = "\\r\\n".join(lines).split(_COUNTER)
    return (
        "local count = 100000000\n"
        "request = function()\n"
        "  count = count + 1\n"
        f'  return "{before}" .. count .. "{after}"\n'
        "end\n"
    )
