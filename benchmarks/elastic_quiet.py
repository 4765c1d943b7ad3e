"""A server with nothing to do: its memory beside gunicorn's, and how often it wakes up."""

from __future__ import annotations

import http.client
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks import family
from benchmarks.elastic_verdict import Check, Outcome
from benchmarks.processes import Running, running
from benchmarks.scenarios import Scenario
from benchmarks.servers import OURS, Command, Server

_REQUESTS: Final = 100
_THREADS: Final = 16
_DEMO: Final = Scenario("quiet", "", "app:app", b"slept 0 ms\n", "/sleep?ms=0", threads=_THREADS)


def quiet(name: str, number: int, *, quick: bool) -> Outcome:
    """Serve the demo with one worker, ask a little, then look at what the rest costs."""
    calm_s, seconds = (12, 10) if quick else (25, 20)
    with tempfile.TemporaryDirectory() as directory:
        smart = Server(OURS, "main", "", _smart(Path(directory, "pid")))
        gunicorn = Server("gunicorn", "gunicorn", "gunicorn", _gunicorn)
        # Both at once: what they share with each other and with us, both share alike.
        with running(smart, _DEMO, None) as own, running(gunicorn, _DEMO, None) as peer:
            for server in (own, peer):
                _ask(server)
            time.sleep(calm_s)
            holdings = [family.of_family(server.pid) for server in (own, peer)]
            each = {pid: family.of_process(pid).pss / 1e6 for pid in family.family(own.pid)}
            before = wake_ups(own.pid)
            began_s = time.monotonic()
            time.sleep(seconds)
            after = wake_ups(own.pid)
            took_s = time.monotonic() - began_s
            roles = _roles(own.pid)
    # One less: a timer of a second fires up to 21 times in 20 s.
    rates = {pid: max(0, count - before.get(pid, 0) - 1) / took_s for pid, count in after.items()}
    checks = (
        Check(
            "PSS / gunicorn --preload with 1 worker", holdings[0].pss / holdings[1].pss, 1.3, "x"
        ),
        Check("wake-ups a second of any process", max(rates.values()), 1.0, "/s"),
    )
    figures = {
        "PSS MB": holdings[0].pss / 1e6,
        "PSS MB of gunicorn": holdings[1].pss / 1e6,
        **{f"PSS MB of {roles[pid]}": size for pid, size in each.items()},
        "processes": holdings[0].processes,
        "threads": holdings[0].threads,
        **{f"wake-ups/s of {roles[pid]}": rate for pid, rate in rates.items()},
    }
    return Outcome(name, number, checks, figures)


def wake_ups(pid: int) -> dict[int, int]:
    """Return how often the threads of each process of a family have gone to sleep so far.

    Who sleeps once more has woken up once more: voluntary_ctxt_switches of proc(5).
    """
    return {member: _sleeps(member) for member in family.family(pid)}


def _sleeps(pid: int) -> int:
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        lines = (thread / "status").read_text().splitlines()
        total += sum(int(s.split()[1]) for s in lines if s.startswith("voluntary_ctxt_switches"))
    return total


def _roles(pid: int) -> dict[int, str]:
    """Return what each process of this server is: they come in this order."""
    members = family.family(pid)
    names = ["manager", "template", *(f"worker {number}" for number in range(1, len(members)))]
    return dict(zip(members, names, strict=False))


def _ask(server: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    for _ in range(_REQUESTS):
        connection.request("GET", "/json")
        connection.getresponse().read()
    connection.close()


def _smart(pid_file: Path) -> Command:
    def command(port: int, app: str, threads: int) -> tuple[str, ...]:
        pool = ("--min-workers", "1", "--max-threads", str(threads), "--pid", str(pid_file))
        return ("main.py", *pool, "--port", str(port), app)

    return command


def _gunicorn(port: int, app: str, threads: int) -> tuple[str, ...]:
    # The control socket is a file in the user's home: two servers would meet there.
    pool = ("-k", "gthread", "-w", "1", "--threads", str(threads), "--no-control-socket")
    return ("-m", "gunicorn", *pool, "--preload", "-b", f"127.0.0.1:{port}", app)
