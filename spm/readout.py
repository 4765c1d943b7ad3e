"""The readout: Total, Busy, Idle, KillPending, and what else an operator wants to know.

Computed from the rows at the moment of asking, never kept beside them: a counter that is
raised here and lowered there drifts with every SIGKILL.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .meter import ServiceTimes
from .observation import WorkerState
from .worker import WorkerHandle

_MB = 1 << 20
_DECISIONS_SHOWN = 5


class WorkerLine(NamedTuple):
    """One worker. Memory in bytes, None where it could not be read; cpu is a share."""

    pid: int
    slot: int
    generation: int
    state: str
    busy: int
    threads: int
    streams: int
    written_off: int
    waiting: int
    connections: int
    requests: int
    cpu: float
    age_s: float
    rss: int | None = None
    pss: int | None = None
    uss: int | None = None

    @classmethod
    def of(cls, handle: WorkerHandle, now_ns: int, memory: Mapping[str, int]) -> WorkerLine:
        """Return the line of a worker."""
        row = handle.row
        return cls(
            pid=handle.pid,
            slot=handle.slot,
            generation=handle.generation,
            state=readable_state(handle),
            busy=row.busy,
            threads=row.threads,
            streams=row.streams,
            written_off=row.written_off,
            waiting=row.waiting,
            connections=row.connections,
            requests=handle.totals.ended,
            cpu=round(handle.cpu, 3),
            age_s=round((now_ns - handle.spawned_ns) / 1e9, 3),
            rss=memory.get("rss"),
            pss=memory.get("pss"),
            uss=memory.get("uss"),
        )


class Readout(NamedTuple):
    """Everything at one moment.

    total: all workers, those still starting too; it is the sum of busy, idle,
    kill_pending, starting and wedged. lost: requests that died with their worker;
    restarts: workers that ended without having been told to, each of which is replaced.
    streams: threads that wait for the reader of a streamed response; not among the busy.
    written_off: threads that took too long and may never come back.
    incidents: name -> how often, since the start.
    machine: cores that may be used; shares of the time lately: cpu that was used of what may
        be used, cpu_pressure (somebody waited for a core), cpu_throttled (our quota was used
        up; None without one); memory_available in bytes.
    decisions: the manager's last ones, oldest first: at (seconds since 1970), what,
        why, total, wanted.
    """

    total: int
    busy: int
    idle: int
    kill_pending: int
    starting: int
    wedged: int
    threads: int
    busy_threads: int
    streams: int
    written_off: int
    connections: int
    requests: int
    requests_per_s: float
    waiting: int
    accept_queue: int
    last_minute: ServiceTimes
    since_start: ServiceTimes
    restarts: int
    lost: int
    errors: int
    incidents: Mapping[str, int]
    handed_over: int
    generation: int
    wanted: int
    demand: float
    reload: str
    uptime_s: float
    manager_pid: int
    server: Mapping[str, object]
    machine: Mapping[str, float | int | None]
    workers: tuple[WorkerLine, ...] = ()
    decisions: tuple[Mapping[str, object], ...] = ()
    upgrade: str = "idle"

    def as_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            **self._asdict(),
            "last_minute": dataclasses.asdict(self.last_minute),
            "since_start": dataclasses.asdict(self.since_start),
            "workers": [line._asdict() for line in self.workers],
        }

    def one_line(self) -> str:
        """Return the values that --metrics-interval writes."""
        times = self.last_minute
        return (
            f"Total {self.total} Busy {self.busy} Idle {self.idle} "
            f"KillPending {self.kill_pending} threads {self.busy_threads}/{self.threads} "
            f"requests {self.requests} ({self.requests_per_s:.1f}/s) waiting {self.waiting} "
            f"accept_queue {self.accept_queue} mean {_duration(times.mean_ms)} "
            f"p50 {_duration(times.p50_ms)} p99 {_duration(times.p99_ms)} "
            f"restarts {self.restarts} "
            f"lost {self.lost} errors {self.errors}"
        )


def count_states(handles: Iterable[WorkerHandle]) -> dict[str, int]:
    """Return how many workers are Busy, Idle, KillPending, starting, wedged."""
    counts = dict.fromkeys(("Busy", "Idle", "KillPending", "Starting", "Wedged"), 0)
    for handle in handles:
        counts[readable_state(handle)] += 1
    return counts


def readable_state(handle: WorkerHandle) -> str:
    """Return the state in the words of the readout.

    Idle is a ready worker in which nothing runs and nothing waits.
    """
    if handle.state is WorkerState.READY:
        return "Busy" if handle.row.busy or handle.row.waiting else "Idle"
    if handle.state is WorkerState.STARTING:
        return "Starting"
    return "Wedged" if handle.state is WorkerState.WEDGED else "KillPending"


def render(values: Mapping[str, Any]) -> str:
    """Return the readout as a table for people.

    values: what as_dict() gave, as it comes back from the control socket.
    """
    lines = [*_headline(values), "", *_numbers(values)]
    workers = values["workers"]
    if workers:
        lines += ["", *_table(workers)]
    decisions = values["decisions"]
    if decisions:
        lines += ["", "last decisions", *map(_decision, decisions[-_DECISIONS_SHOWN:])]
    return "\n".join(lines)


def _decision(entry: Mapping[str, Any]) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(entry["at"]))
    counts = f"(Total {entry['total']}, wanted {entry['wanted']})"
    return f"  {at}  {entry['what']}: {entry['why']} {counts}"


def _headline(values: Mapping[str, Any]) -> list[str]:
    server = values["server"]
    what = " ".join(str(server[key]) for key in ("name", "version") if key in server)
    head = f"{what or 'server'}  pid {values['manager_pid']}  up {_span(values['uptime_s'])}"
    if values["reload"] != "idle":
        head += f"  reload: {values['reload']}"
    if values["upgrade"] != "idle":
        head += f"  upgrade: {values['upgrade']}"
    lines = [head]
    for key, value in server.items():
        if key not in ("name", "version"):
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            lines.append(f"{key:<12} {text}")
    return lines


def _numbers(values: Mapping[str, Any]) -> list[str]:
    starting = f"  Starting {values['starting']}" if values["starting"] else ""
    wedged = f"  Wedged {values['wedged']}" if values["wedged"] else ""
    streams = f"{values['streams']} in streams, " if values["streams"] else ""
    if values["written_off"]:
        streams += f"{values['written_off']} written off, "
    return [
        f"Total {values['total']}  Busy {values['busy']}  Idle {values['idle']}  "
        f"KillPending {values['kill_pending']}{starting}{wedged}  (wanted {values['wanted']})",
        f"threads      {values['busy_threads']} busy of {values['threads']}, {streams}"
        f"{values['connections']} connections, generation {values['generation']}",
        f"requests     {values['requests']} in all, {values['requests_per_s']:.1f}/s, "
        f"{values['waiting']} waiting, {values['accept_queue']} in the accept queue",
        f"last minute  {_times(values['last_minute'])}",
        f"since start  {_times(values['since_start'])}",
        f"trouble      {values['restarts']} restarts, {values['lost']} lost requests, "
        f"{values['errors']} errors",
        *_incidents(values["incidents"]),
        f"machine      {_machine(values['machine'])}",
    ]


def _cores(number: int) -> str:
    return f"{number} core{'' if number == 1 else 's'}"


def _machine(values: Mapping[str, Any]) -> str:
    """Return in words what the machine leaves us; shares are of the time."""
    throttled = values["cpu_throttled"]
    quota = "" if throttled is None else f"quota used up {100 * throttled:.0f} %, "
    return (
        f"{100 * values['cpu']:.0f} % of {_cores(values['cores'])} used, "
        f"waited for {100 * values['cpu_pressure']:.0f} %, {quota}"
        f"{values['memory_available'] / _MB:.0f} MB free"
    )


def _incidents(counts: Mapping[str, int]) -> list[str]:
    """Return a line of what happened, if anything did."""
    happened = ", ".join(
        f"{name.replace('_', ' ')} {count}" for name, count in counts.items() if count
    )
    return [f"incidents    {happened}"] if happened else []


def _times(times: Mapping[str, Any]) -> str:
    if not times["count"]:
        return "no requests"
    return (
        f"mean {_duration(times['mean_ms'])}, p50 {_duration(times['p50_ms'])}, "
        f"p99 {_duration(times['p99_ms'])}, {times['count']} requests"
    )


def _table(workers: Iterable[Mapping[str, Any]]) -> list[str]:
    titles = ("pid", "slot", "gen", "state", "busy", "waiting", "conns", "requests")
    rows = [(*titles, "CPU %", "RSS MB", "PSS MB", "age")]
    rows += [
        (
            str(w["pid"] or "-"),
            str(w["slot"]),
            str(w["generation"]),
            str(w["state"]),
            f"{w['busy']}/{w['threads']}",
            str(w["waiting"]),
            str(w["connections"]),
            str(w["requests"]),
            f"{100 * w['cpu']:.0f}",
            _megabytes(w["rss"]),
            _megabytes(w["pss"]),
            _span(w["age_s"]),
        )
        for w in workers
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    # Numbers to the right, the one word among them to the left.
    return [
        "  ".join(
            cell.ljust(width) if column == 3 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _duration(milliseconds: float) -> str:
    if milliseconds < 1:
        return f"{1000 * milliseconds:.0f} us"
    if milliseconds < 1000:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds / 1000:.2f} s"


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / _MB:.1f}"


def _span(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole // 60 % 60:02d} min"
    return f"{whole // 86400} d {whole // 3600 % 24:02d} h"
